"""The Lovasz-softmax loss: the Jaccard loss, 1 - IoU, of each class, extended from sets of wrong pixels to errors."""

import jax
import jax.numpy as jnp
from jax import lax

from cropjax.data.labels import IGNORE
from cropjax.sharding import on_every_device


def lovasz_softmax(logits, labels, *, weights=()):
    """The mean over the classes in `labels` of their Lovasz losses, of `logits` [n,h,w,k]; in float32 or better.

    IoU is that of the whole batch, on all devices, as upstream's `per_image=False` has it of one device's. `weights`,
    one a class, multiply their losses. Ignored pixels are left out; a batch of nothing else costs 0. It sorts [k,n*h*w]
    errors, all of them on every device, and takes several times the memory of the batch's full-size logits.
    Source: Berman et al. 2018, `mmseg/models/losses/lovasz_loss.py`.
    """
    k = logits.shape[-1]
    logits, labels = on_every_device(logits), on_every_device(labels)  # split over devices, the sort did not end
    p = jax.nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    valid = labels.ravel() != IGNORE
    hot = labels.ravel() == jnp.arange(k)[:, None]
    errors = jnp.where(valid, jnp.abs(hot - p.reshape(-1, k).T), 0)
    # Between two orders of the errors the extension is linear: its slope, which the sort finds, is a constant.
    slopes = jax.vmap(_slope, (0, 0, None))(lax.stop_gradient(errors), hot, valid)
    losses = (errors * slopes).sum(1)
    if weights:
        losses *= jnp.asarray(weights, losses.dtype)
    present = hot.any(1)
    return jnp.where(present, losses, 0).sum() / jnp.maximum(present.sum(), 1)


def _slope(errors, foreground, valid):
    """The gradient of a class's Lovasz extension at `errors` [p].

    That is by how much 1 - IoU grows as the pixel turns wrong, after those with larger errors. In closed form: among
    millions of pixels the difference of two neighbours in float32 is mostly rounding.
    """
    order = jnp.argsort(-errors)
    foreground, background = foreground[order], (valid & ~foreground)[order]
    right = foreground.sum() - jnp.cumsum(foreground)
    union = foreground.sum() + jnp.cumsum(background)
    dtype = errors.dtype
    right, union = right.astype(dtype), jnp.maximum(union, 1).astype(dtype)
    of_background = right / (union * jnp.maximum(union - 1, 1))
    slope = jnp.where(foreground, 1 / union, jnp.where(background, of_background, 0))
    return jnp.zeros(errors.shape, dtype).at[order].set(slope, unique_indices=True)
