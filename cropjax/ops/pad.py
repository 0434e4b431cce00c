"""Padding of maps."""

import jax.numpy as jnp

PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad(x, rows, columns, mode="zeros"):
    """Pads `x` [n,h,w,c] by (before, after) `rows` and `columns`; `mode` in torch's names (`PADDING_MODES`)."""
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)), mode=PADDING_MODES[mode])
