"""From the pixels of a batch to the network's input."""

import jax.numpy as jnp
import numpy as np

# ImageNet statistics in RGB order, as mmsegmentation's SegDataPreProcessor uses them.
MEAN = np.array([123.675, 116.28, 103.53])
STD = np.array([58.395, 57.12, 57.375])


def normalize(images, sizes=None, dtype=jnp.float32):
    """`images` uint8 [n,h,w,3] RGB -> `dtype` [n,h,w,3]: (x - mean) / std, and 0 past the valid `sizes` int [n,2].

    Padding is 0 *after* normalising, the mean colour, because upstream pads last.
    """
    n, h, w, _ = images.shape
    wide = jnp.promote_types(dtype, jnp.float32)
    x = (images.astype(wide) - jnp.asarray(MEAN, wide)) / jnp.asarray(STD, wide)
    if sizes is not None:
        rows = jnp.arange(h) < sizes[:, :1]  # [n, h]
        columns = jnp.arange(w) < sizes[:, 1:]  # [n, w]
        x = jnp.where((rows[:, :, None] & columns[:, None, :])[..., None], x, 0)
    return x.astype(dtype)
