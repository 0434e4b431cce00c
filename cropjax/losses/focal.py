"""The focal loss: of each class against the rest, with little weight on the pixels that are right already."""

import jax
import jax.numpy as jnp

from cropjax.data.labels import IGNORE


def focal(logits, labels, *, gamma=2.0, alpha=0.5, weights=()):
    """The focal loss of each pixel [n,h,w], the mean over its classes, of `logits` [n,h,w,k]; 0 where ignored.

    Each class is a question of its own, with p = sigmoid(logit) for the label's class and 1 - p for the others:
    -(1 - p)^gamma log(p), times `alpha` for the label's class and 1 - `alpha` for the others. `weights`, one a class,
    weigh the questions, as upstream's, and not the pixels, as they do in cross entropy. In float32 or better.
    Source: Lin et al. 2017, `mmseg/models/losses/focal_loss.py`.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    hot = jnp.arange(logits.shape[-1]) == labels[..., None]
    surprise = jax.nn.softplus(jnp.where(hot, -logits, logits))  # -log(p)
    wrong = jax.nn.log_sigmoid(jnp.where(hot, -logits, logits))  # log(1 - p): a power of 1 - p has no slope at 0
    losses = jnp.where(hot, alpha, 1 - alpha) * jnp.exp(gamma * wrong) * surprise
    if weights:
        losses *= jnp.asarray(weights, losses.dtype)
    return jnp.where(labels != IGNORE, losses.mean(-1), 0)
