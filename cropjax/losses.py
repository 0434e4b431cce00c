"""Pixel losses. Labels are uint8 [n,h,w], 255 ignored; logits [n,h,w,k] at the labels' size."""

import jax.numpy as jnp
import numpy as np
import optax

from cropjax.data.labels import IGNORE

# Keeps a batch without valid pixels at loss 0, as upstream does.
_EPS = float(np.finfo(np.float32).eps)

AVERAGES = ("all", "valid")


def cross_entropy(logits, labels, *, average="all"):
    """Cross entropy summed over the global batch and divided once, in float32 or better.

    `average="all"` divides by every pixel, ignored ones too (mmsegmentation's default, `avg_non_ignore=False`);
    `"valid"` by those that count. Source: `mmseg/models/losses/cross_entropy_loss.py`.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    valid = labels != IGNORE
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(valid, labels, 0).astype(jnp.int32))
    count = labels.size if average == "all" else valid.sum()
    return jnp.where(valid, losses, 0).sum() / (count + _EPS)


def pixel_accuracy(logits, labels):
    """Share of the valid pixels whose largest logit is the label's, in percent; 100 if none is valid (upstream's)."""
    valid = labels != IGNORE
    right = (jnp.argmax(logits, -1) == labels) & valid
    return 100 * (right.sum() + _EPS) / (valid.sum() + _EPS)
