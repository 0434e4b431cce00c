"""The Dice loss: how much of an image's probabilities and labels do not overlap."""

import jax
import jax.numpy as jnp

from cropjax.data.labels import IGNORE

ACTIVATIONS = {"sigmoid": jax.nn.sigmoid, "softmax": jax.nn.softmax}
_EPS = 1e-3  # upstream's `eps`


def dice(logits, labels, *, activation="sigmoid"):
    """The mean over images of 1 - 2 p.t / (p.p + t.t), of `logits` [n,h,w,k]; in float32 or better.

    p are an image's probabilities and t its one-hot labels, of all pixels and classes in one vector: large classes
    count more, and class weights have no place. `activation`: upstream's default is "sigmoid" even of several classes;
    "softmax" is its `use_sigmoid=False`. Ignored pixels are in neither vector; upstream leaves them in p, where they
    push every probability to 0 that nothing is known of. An image of ignored pixels costs 0, where that of upstream
    costs 1.
    Source: Milletari et al. 2016, `mmseg/models/losses/dice_loss.py`.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    valid = (labels != IGNORE)[..., None]
    p = jnp.where(valid, ACTIVATIONS[activation](logits), 0)
    hot = jnp.arange(logits.shape[-1]) == labels[..., None]
    overlap = jnp.where(hot, p, 0).sum((1, 2, 3))
    lengths = jnp.square(p).sum((1, 2, 3)) + hot.sum((1, 2, 3)) + 2 * _EPS
    return jnp.where(valid.any((1, 2, 3)), 1 - 2 * overlap / lengths, 0).mean()
