"""3x3 convolutions with 4 products in place of 9: Winograd's F(2x2, 3x3).

Lavin & Gray 2016 (arXiv 1509.09308), section 4.1. The map is cut into tiles of 2x2 results, each seen by 4x4 values;
input, kernel and result are changed linearly, with small whole numbers and halves, so that the convolution becomes 16
matrix products over the channels. Each pays 1 multiplication for 2.25 of the definition's, and the changes cost memory
traffic: worth it where channels are many. Dilated kernels see interleaved maps, which a reshape separates.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from cropjax.ops.pad import pad

INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
RESULT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
FLIP = [3, 1, 2, 0]  # KERNEL[:, ::-1] is KERNEL[FLIP]
TURNED = np.arange(16).reshape(4, 4)[np.ix_(FLIP, FLIP)].ravel()


def winograd(x, kernel, dilation):
    """Convolution of `x` [n,h,w,i] with `kernel` [3,3,i,o], padded with `dilation` zeros -> [n,h,w,o]."""
    return _result(jnp.einsum("kpi,kio->kpo", _input_tiles(x, dilation), _kernel_tiles(kernel)), x.shape, dilation)


def winograd_input_gradient(dy, kernel, dilation):
    """Gradient [n,h,w,i] of the input of `winograd`, for that of its result, `dy` [n,h,w,o].

    It is a convolution with the kernel turned by 180 degrees, whose tiles are the kernel's own in another order.
    """
    turned = _kernel_tiles(kernel)[TURNED]
    return _result(jnp.einsum("kpo,kio->kpi", _input_tiles(dy, dilation), turned), dy.shape, dilation)


def _result(products, shape, dilation):
    n, h, w, _ = shape
    rows, columns = (_tiles(size, dilation) for size in (h, w))
    y = products.reshape(4, 4, n, rows, dilation, columns, dilation, -1)
    y = _combined(RESULT, y, axis=1, into=5)  # [4, n, rows, dilation, columns, 2, dilation, o]
    y = _combined(RESULT, lax.optimization_barrier(y), axis=0, into=2)
    return y.reshape(n, 2 * rows * dilation, 2 * columns * dilation, -1)[:, :h, :w]


def winograd_kernel_gradient(x, dy, dilation):
    """Gradient [3,3,i,o] of the kernel, for `x` [n,h,w,i] and the result's gradient `dy` [n,h,w,o]."""
    n, h, w, o = dy.shape
    rows, columns = (_tiles(size, dilation) for size in (h, w))
    dy = pad(dy, (0, 2 * rows * dilation - h), (0, 2 * columns * dilation - w))
    dy = dy.reshape(n, rows, 2, dilation, columns, 2, dilation, o)
    tiles = _combined(RESULT.T, dy, axis=2, into=0)
    tiles = _combined(RESULT.T, lax.optimization_barrier(tiles), axis=5, into=1).reshape(16, -1, o)
    tiles = lax.optimization_barrier(tiles.swapaxes(1, 2))
    dk = jnp.einsum("kop,kpi->kio", tiles, _input_tiles(x, dilation)).reshape(4, 4, x.shape[-1], o)
    return _combined(KERNEL.T, _combined(KERNEL.T, dk, axis=1, into=1), axis=0, into=0)


def _tiles(size, dilation):
    """Tiles along an axis, in each of the interleaved maps."""
    return -(-size // (2 * dilation))


def _input_tiles(x, dilation):
    """[16, positions, i]"""
    n, h, w, i = x.shape
    rows, columns = (_tiles(size, dilation) for size in (h, w))
    after = [2 * count * dilation - size + dilation for count, size in ((rows, h), (columns, w))]
    x = pad(x, (dilation, after[0]), (dilation, after[1]))
    x = x.reshape(n, 2 * rows + 2, dilation, 2 * columns + 2, dilation, i)
    x = _stack(INPUT, [x[:, k : k + 2 * rows - 1 : 2] for k in range(4)], 0)
    x = lax.optimization_barrier(x)  # [4, n, rows, dilation, 2 columns + 2, dilation, i]
    x = _stack(INPUT, [x[:, :, :, :, k : k + 2 * columns - 1 : 2] for k in range(4)], 1)
    return x.reshape(16, -1, i)


def _kernel_tiles(kernel):
    """[16, i, o]"""
    _, _, i, o = kernel.shape
    return _combined(KERNEL, _combined(KERNEL, kernel, axis=1, into=1), axis=0, into=0).reshape(16, i, o)


def _combined(matrix, x, *, axis, into):
    """`matrix` times `x` along `axis`; the new axis stands at `into` of the result."""
    return _stack(matrix, [lax.index_in_dim(x, k, axis, keepdims=False) for k in range(matrix.shape[1])], into)


def _stack(matrix, parts, axis):
    rows = [sum(_times(factor, x) for factor, x in zip(row, parts, strict=True) if factor) for row in matrix]
    return jnp.stack(rows, axis)


def _times(factor, x):
    return x if factor == 1 else -x if factor == -1 else x * jnp.asarray(factor, x.dtype)
