"""How many pixels a training batch's logits get right."""

import jax.numpy as jnp

from cropjax.data.labels import IGNORE
from cropjax.losses.average import EPS


def pixel_accuracy(logits, labels):
    """Share of the valid pixels whose largest logit is the label's, in percent; 100 if none is valid (upstream's)."""
    valid = labels != IGNORE
    right = (jnp.argmax(logits, -1) == labels) & valid
    return 100 * (right.sum() + EPS) / (valid.sum() + EPS)
