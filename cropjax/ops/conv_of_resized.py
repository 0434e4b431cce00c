"""Convolutions of maps that are resized first, without the resized maps."""

from functools import partial

import jax.numpy as jnp
import numpy as np

from cropjax.ops.pad import PADDING_MODES
from cropjax.ops.product import product
from cropjax.ops.resize import interpolation_matrix, resize_bilinear


def conv_of_resized(maps, kernels, size, *, align_corners, dilation=1, padding=0, padding_mode="zeros"):
    """The sum of the stride 1 convolutions of `maps` [n,h,w,i], resized to `size`, with a kernel of `kernels` each.

    Kernels are [kh,kw,i,o], the result [n,*size,o].

    Both are linear: every kernel tap is applied to the map as it is, and the resize comes after it, shifted by the
    tap. On pooled maps of 1x1 to 6x6 cells that costs next to nothing; a 1x1 kernel commutes with the resize.
    """
    pairs = list(zip(maps, kernels, strict=True))
    if padding == 0 and kernels[0].shape[:2] == (1, 1):
        return sum(
            resize_bilinear(product(x, kernel[0, 0].astype(x.dtype)), size, align_corners=align_corners)
            for x, kernel in pairs
        )
    pad_rows = partial(np.pad, pad_width=((padding, padding), (0, 0)), mode=PADDING_MODES[padding_mode])

    def shifted(source, out, taps):  # [out', taps, source]
        matrix = pad_rows(interpolation_matrix(source, out, align_corners))
        count = out + 2 * padding - dilation * (taps - 1)
        return np.stack([matrix[tap * dilation : tap * dilation + count] for tap in range(taps)], 1)

    strips, columns = [], []  # rows of all maps' taps [n,y,s,o], and what each column makes of them [x,s]
    for x, kernel in pairs:
        n, h, w, i = x.shape
        kh, kw, _, o = kernel.shape
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        tapped = product(x, kernel.transpose(2, 0, 1, 3).reshape(i, -1).astype(x.dtype)).reshape(n, h, w, kh, kw, o)
        rows = jnp.asarray(shifted(h, size[0], kh), dtype)
        strip = jnp.einsum("yta,nabtso->nybso", rows, tapped.astype(dtype), precision="highest")
        strips.append(strip.reshape(n, rows.shape[0], w * kw, o))
        columns.append(shifted(w, size[1], kw).swapaxes(1, 2).reshape(-1, w * kw))
    columns = jnp.asarray(np.concatenate(columns, 1), dtype)
    y = jnp.einsum("xs,nyso->nyxo", columns, jnp.concatenate(strips, 2), precision="highest")
    return y.astype(maps[0].dtype)
