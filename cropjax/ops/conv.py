"""Convolutions: dense, 1x1 as a matrix product, depthwise as shifted multiply-adds.

XLA's CPU convolution is a good dense 3x3, but its 1x1 is several times slower than the matrix product it is, and its
depthwise one tens of times slower than adding up shifted copies of the input.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad(x, rows, columns, mode="zeros"):
    """Pads `x` [n,h,w,c] by (before, after) `rows` and `columns`; `mode` in torch's names (`PADDING_MODES`)."""
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)), mode=PADDING_MODES[mode])


def conv(x, kernel, *, stride=1, dilation=1, padding=0, padding_mode="zeros"):
    """Dense convolution of `x` [n,h,w,i] with `kernel` [kh,kw,i,o] -> [n,h',w',o], as torch's `Conv2d`.

    `h' = (h + 2 padding - dilation (kh - 1) - 1) // stride + 1`. The result has the type of `x`.
    """
    kh, kw, _, _ = kernel.shape
    kernel = kernel.astype(x.dtype)
    if kh == kw == 1 and padding == 0:
        return product(x[:, ::stride, ::stride], kernel[0, 0])
    if padding_mode != "zeros":
        x, padding = pad(x, (padding, padding), (padding, padding), padding_mode), 0
    return _dense(x, kernel, stride, dilation, padding)


def product(x, kernel):
    return _product(x, kernel)


@jax.custom_vjp
def _product(x, kernel):
    return x @ kernel


def _product_forward(x, kernel):
    return x @ kernel, (x, kernel)


def _product_backward(residuals, dy):
    x, kernel = lax.optimization_barrier(residuals)
    dy = lax.optimization_barrier(dy)
    i, o = kernel.shape
    dk = lax.dot_general(x.reshape(-1, i), dy.reshape(-1, o), (((0,), (0,)), ((), ())))
    return dy @ kernel.T, dk


_product.defvjp(_product_forward, _product_backward)


def _plain(x, kernel, stride, dilation, padding):
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _dense(x, kernel, stride, dilation, padding):
    return _plain(x, kernel, stride, dilation, padding)


def _dense_forward(x, kernel, stride, dilation, padding):
    return _plain(x, kernel, stride, dilation, padding), (x, kernel)


def _dense_backward(stride, dilation, padding, residuals, dy):
    x, kernel = residuals
    _, pull = jax.vjp(lambda x: _plain(x, kernel, stride, dilation, padding), x)
    (dx,) = pull(dy)
    kh, kw, i, o = kernel.shape
    n, h, w, _ = dy.shape
    padded = pad(x, (padding, padding), (padding, padding))
    dyt = lax.optimization_barrier(dy.reshape(-1, o).T)
    span = (n, stride * (h - 1) + 1, stride * (w - 1) + 1, i)

    def row(tap_y):
        def tap(tap_x):
            part = lax.dynamic_slice(padded, (0, dilation * tap_y, dilation * tap_x, 0), span)
            return dyt @ part[:, ::stride, ::stride].reshape(-1, i)

        return lax.map(tap, jnp.arange(kw))

    dk = jnp.stack([row(tap_y) for tap_y in range(kh)])
    return dx, dk.swapaxes(2, 3)


_dense.defvjp(_dense_forward, _dense_backward)


def depthwise_conv(x, kernel, *, dilation=1, padding=(0, 0), padding_mode="zeros"):
    """Depthwise convolution of `x` [n,h,w,c] with `kernel` [kh,kw,c], stride 1 -> [n,h',w',c].

    `padding` is (rows, columns) on each side. Sums are kept in float32 or better; the result has the type of `x`.
    """
    rows, columns = padding
    x = pad(x, (rows, rows), (columns, columns), padding_mode)
    return _depthwise(x, kernel.astype(jnp.promote_types(x.dtype, jnp.float32)), dilation)


def _taps(kernel, dilation):
    kh, kw = kernel.shape[:2]
    return [(i, j, i * dilation, j * dilation) for i in range(kh) for j in range(kw)]


def _shifted_sum(x, kernel, dilation):
    n, h, w, c = x.shape
    kh, kw, _ = kernel.shape
    h, w = h - dilation * (kh - 1), w - dilation * (kw - 1)
    total = 0
    for i, j, y0, x0 in _taps(kernel, dilation):
        total += x[:, y0 : y0 + h, x0 : x0 + w].astype(kernel.dtype) * kernel[i, j]
    return total.astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x, kernel, dilation):
    return _shifted_sum(x, kernel, dilation)


def _depthwise_forward(x, kernel, dilation):
    return _shifted_sum(x, kernel, dilation), (x, kernel)


def _depthwise_backward(dilation, residuals, dy):
    x, kernel = residuals
    reach = [dilation * (k - 1) for k in kernel.shape[:2]]
    spread = pad(dy, (reach[0], reach[0]), (reach[1], reach[1]))
    dx = _shifted_sum(spread, kernel[::-1, ::-1], dilation)
    return dx.astype(x.dtype), _kernel_gradient(x, dy, kernel, dilation)


def _kernel_gradient(x, dy, kernel, dilation):
    """A loop over the taps of the longer side: with all taps written out, it compiles six times as long and runs half
    as fast. Where the shorter side begins stays static, the rows of a square kernel, so that rows may be split over
    devices.
    """
    loop, other = (1, 2) if kernel.shape[0] > kernel.shape[1] else (2, 1)

    def line(start):
        def tap(k):
            corner = [0, 0, 0, 0]
            corner[other], corner[loop] = start, k * dilation
            return jnp.sum(lax.dynamic_slice(x, corner, dy.shape).astype(kernel.dtype) * dy, (0, 1, 2))

        return lax.map(tap, jnp.arange(kernel.shape[loop - 1]))

    dk = jnp.stack([line(dilation * k) for k in range(kernel.shape[other - 1])])
    return dk if other == 1 else dk.swapaxes(0, 1)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)
