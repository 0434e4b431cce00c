"""Pooling with torch's exact cells."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from cropjax.ops.resize import interpolation_matrix


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


def windowed_average_pools(x, bins, window, *, align_corners):
    """Pooling over `bins` x `bins` cells of a window of its own for each position of `x` [n,h,w,c].

    The window has `window` (rows, columns), the position in its middle, and is moved back into the map where it would
    stick out; one that is larger than the map is the map. Resized to the window bilinearly, its cells would be read at
    the position: this gives the up to four that are, as pairs of a map [n,h,w,c], of what each position finds in one
    of its cells, and the map's weights [h,w,1]. Local pooling as of Chu et al. 2022 (arXiv 2112.04491), for any bins.
    """
    _, h, w, _ = x.shape
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    rows, columns = (cells_in_windows(*one, bins, align_corners) for one in zip((h, w), window, strict=True))
    for row, row_weight in rows:
        y = jnp.einsum("ph,nhwc->npwc", jnp.asarray(row, dtype), x.astype(dtype), precision="highest")
        for column, column_weight in columns:
            pooled = jnp.einsum("qw,npwc->npqc", jnp.asarray(column, dtype), y, precision="highest").astype(x.dtype)
            yield pooled, jnp.asarray(np.multiply.outer(row_weight, column_weight)[..., None], x.dtype)


def cells_in_windows(size, window, bins, align_corners):
    """Along one axis of `size` positions, the one or two cells of its window that each position reads.

    A list of pairs: a matrix [size,size] whose row p averages the cell that p reads, and weights [size]. Where a
    position reads one cell alone, both rows are that cell's and the second weight is 0.
    """
    window = min(window, size)
    start = np.clip(np.arange(size) - window // 2, 0, size - window)
    shares = interpolation_matrix(bins, window, align_corners)[np.arange(size) - start]  # [size, bins]
    first = (shares > 0).argmax(1)
    last = bins - 1 - (shares[:, ::-1] > 0).argmax(1)
    cells = np.zeros((size, bins, size))
    for position, cell in np.ndindex(size, bins):
        begin, end = start[position] + adaptive_bins(window, bins)[cell]
        cells[position, cell, begin:end] = 1 / (end - begin)
    index = np.arange(size)
    found = [(cells[index, first], shares[index, first])]
    if (first != last).any():
        found.append((cells[index, last], np.where(first == last, 0, shares[index, last])))
    return found


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
