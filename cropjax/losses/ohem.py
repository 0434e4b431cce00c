"""Online hard example mining: which pixels of a batch the losses count."""

import jax
import jax.numpy as jnp
from jax import lax

from cropjax.data.labels import IGNORE


def hard_pixels(logits, labels, losses, *, min_kept, threshold):
    """The hard pixels of a batch, bool [n,h,w]; of full-size `logits` [n,h,w,k], and the pixels' `losses` [n,h,w].

    With a `threshold`, those whose label has a probability below it; where they are fewer than `min_kept` an image, the
    batch's so many least probable. With threshold 0, which is upstream's `None`, the `min_kept` an image with the
    largest losses. An image may have more than another: the pixels of the batch, on all devices, are ranked together,
    where upstream ranks those of one device.

    As upstream has it, a pixel as probable as the first that is left out is left out, so that of a batch with fewer
    valid pixels than asked for all but the most probable are hard. Of losses that equal the last one kept all are kept.
    Source: Shrivastava et al. 2016, `mmseg/structures/sampler/ohem_pixel_sampler.py`.
    """
    logits, losses = lax.stop_gradient((logits, losses))
    valid = labels != IGNORE
    kept = min(min_kept * len(labels), labels.size)
    if not threshold:
        ranked = jnp.sort(jnp.where(valid, losses, -jnp.inf).ravel(), descending=True)
        return valid & (losses >= ranked[kept - 1])
    hot = jnp.arange(logits.shape[-1]) == labels[..., None]
    probability = jnp.where(hot, jax.nn.softmax(logits), 0).sum(-1)
    ranked = jnp.sort(jnp.where(valid, probability, jnp.inf).ravel())
    first_left_out = ranked[jnp.clip(valid.sum() - 1, 0, kept)]
    return valid & (probability < jnp.maximum(first_left_out, threshold))
