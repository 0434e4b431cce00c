"""Pooling with torch's exact cells."""

import jax.numpy as jnp
import numpy as np
from jax import lax


def adaptive_bins(size, bins):
    """First and past-the-last index of each cell of torch's `AdaptiveAvgPool`, int [bins, 2].

    Cell i covers floor(i size / bins) ... ceil((i + 1) size / bins): cells overlap when `bins` does not divide
    `size`, and repeat when `bins > size`.
    """
    i = np.arange(bins)
    return np.stack([i * size // bins, -(-(i + 1) * size // bins)], axis=1)


def _averaging_matrix(size, bins, dtype):
    matrix = np.zeros((bins, size))
    for row, (start, stop) in zip(matrix, adaptive_bins(size, bins), strict=True):
        row[start:stop] = 1 / (stop - start)
    return jnp.asarray(matrix, dtype)


def adaptive_average_pool(x, bins):
    """Averages `x` [n,h,w,c] over `bins` x `bins` cells -> [n,bins,bins,c]; any h, w."""
    n, h, w, c = x.shape
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    rows, columns = _averaging_matrix(h, bins, dtype), _averaging_matrix(w, bins, dtype)
    y = jnp.einsum("ph,nhwc->npwc", rows, x.astype(dtype), precision="highest")
    return jnp.einsum("qw,npwc->npqc", columns, y, precision="highest").astype(x.dtype)


def max_pool(x, *, window=3, stride=2, padding=1):
    """Maximum over `window` x `window`, padded with -inf (torch's `MaxPool2d`, ceil_mode off)."""
    return lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        (1, window, window, 1),
        (1, stride, stride, 1),
        ((0, 0), (padding, padding), (padding, padding), (0, 0)),
    )
