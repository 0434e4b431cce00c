"""Bilinear resizing as `torch.nn.functional.interpolate(mode="bilinear", antialias=False)`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np


def _source(size, out, align_corners):
    """Left neighbour, right neighbour and weight of the right one, for each of `out` positions."""
    if align_corners:
        position = np.arange(out) * ((size - 1) / (out - 1) if out > 1 else 0.0)
    else:
        position = np.maximum((np.arange(out) + 0.5) * (size / out) - 0.5, 0)
    left = np.minimum(position.astype(int), size - 1)
    return left, np.minimum(left + 1, size - 1), position - left


def interpolation_matrix(size, out, align_corners):
    """The resize along one axis as a matrix, float64 [out, size]; its rows add up to one."""
    left, right, weight = _source(size, out, align_corners)
    matrix = np.zeros((out, size))
    np.add.at(matrix, (np.arange(out), left), 1 - weight)
    np.add.at(matrix, (np.arange(out), right), weight)
    return matrix


def _interpolate(x, out, align_corners, axis):
    if x.shape[axis] == out:
        return x
    left, right, weight = _source(x.shape[axis], out, align_corners)
    shape = [1] * x.ndim
    shape[axis] = out
    weight = jnp.asarray(weight.reshape(shape), x.dtype)
    return jnp.take(x, left, axis=axis) * (1 - weight) + jnp.take(x, right, axis=axis) * weight


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _resize(x, size, align_corners):
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    y = _interpolate(x.astype(dtype), size[0], align_corners, axis=1)
    return _interpolate(y, size[1], align_corners, axis=2).astype(x.dtype)


def _resize_forward(x, size, align_corners):
    return _resize(x, size, align_corners), jnp.zeros((0, *x.shape[1:3], 0), x.dtype)


def _resize_backward(size, align_corners, like, dy):
    # The transpose of a gather is a scatter; small matrix products are faster, one for each image, then one for each of
    # its rows: a single product would have XLA transpose the map, and compute on the way what it is made of.
    n, height, width, c = dy.shape
    _, h, w, _ = like.shape
    dtype = jnp.promote_types(dy.dtype, jnp.float32)
    rows = jnp.asarray(interpolation_matrix(h, size[0], align_corners), dtype)
    columns = jnp.asarray(interpolation_matrix(w, size[1], align_corners), dtype)
    dy = jax.lax.optimization_barrier(dy.astype(dtype)).reshape(n, height, width * c)
    dx = jnp.matmul(jnp.broadcast_to(rows.T, (n, h, height)), dy, precision="highest")
    dx = dx.reshape(n * h, width, c)
    dx = jnp.matmul(jnp.broadcast_to(columns.T, (n * h, w, width)), dx, precision="highest")
    return (dx.reshape(n, h, w, c).astype(like.dtype),)


_resize.defvjp(_resize_forward, _resize_backward)


def resize_bilinear(x, size, *, align_corners):
    """Resizes `x` [n,h,w,c] to `size` (height, width) -> [n,*size,c], in the type of `x`.

    `align_corners=False`: half-pixel centres, clamped at the border; `True`: the corner pixels' centres coincide.
    """
    size = (int(size[0]), int(size[1]))
    return x if x.shape[1:3] == size else _resize(x, size, bool(align_corners))
