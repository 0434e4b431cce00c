"""What a sum over pixels is divided by, for the whole batch at once."""

import jax
import jax.numpy as jnp
import numpy as np

from cropjax.data.labels import IGNORE

# Keeps a batch without valid pixels at loss 0, as upstream does.
EPS = float(np.finfo(np.float32).eps)

AVERAGES = ("all", "valid")


def divisor(labels, average, weights, dtype):
    """Every pixel of `labels` [n,h,w] ("all") or those that count ("valid"), each as often as its class's weight says.

    An ignored pixel has no class, and counts once.
    """
    valid = labels != IGNORE
    if weights:
        return jnp.where(valid, pixel_weights(labels, weights, dtype), average == "all").sum()
    return jnp.asarray(labels.size if average == "all" else valid.sum(), dtype)


def shares(labels, average, weights):
    """For `labels` [k,n,h,w], k parts of a batch: what part of the batch's loss is each one's, and of its accuracy."""
    dtype = jnp.promote_types(jnp.result_type(float), jnp.float32)
    divisors = jax.vmap(lambda part: divisor(part, average, weights, dtype))(labels) + EPS
    valid = (labels != IGNORE).sum((1, 2, 3)) + EPS
    return divisors / divisors.sum(), valid / valid.sum()


def pixel_weights(labels, weights, dtype):
    """The weight of each pixel's class; that of an ignored one means nothing."""
    table = np.ones(IGNORE + 1)
    table[: len(weights)] = weights
    return jnp.asarray(table, dtype)[labels]
