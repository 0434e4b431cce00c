"""Depthwise convolutions as shifted multiply-adds, but for the square ones on a GPU.

XLA's own on a CPU is tens of times slower than adding up shifted copies of the input. On a GPU cuDNN has kernels for
square ones, two to five times as fast as that on large maps; with strips it takes five times as long.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cropjax.ops.order import once, scan
from cropjax.ops.pad import pad
from cropjax.ops.plain import is_plain


def depthwise_conv(x, kernel, *, dilation=1, padding=(0, 0), padding_mode="zeros"):
    """Depthwise convolution of `x` [n,h,w,c] with `kernel` [kh,kw,c], stride 1 -> [n,h',w',c].

    `padding` is (rows, columns) on each side. Sums are kept in float32 or better; the result has the type of `x`.
    """
    reach = [dilation * (k - 1) for k in kernel.shape[:2]]
    if padding_mode != "zeros":
        x, padding = _padded(x, padding, padding_mode), (0, 0)
    if is_plain():
        return _definition(x, kernel, dilation, padding)
    if any(p > r for p, r in zip(padding, reach, strict=True)):
        x, padding = _padded(x, padding), (0, 0)
    return _depthwise(x, kernel.astype(jnp.promote_types(x.dtype, jnp.float32)), dilation, padding)


def _definition(x, kernel, dilation=1, padding=(0, 0)):
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None].astype(x.dtype),
        window_strides=(1, 1),
        padding=[(p, p) for p in padding],
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _pays_cudnn(kernel, dilation):
    kh, kw, _ = kernel.shape
    return jax.default_backend() == "gpu" and kh == kw and dilation == 1


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


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(x, kernel, dilation, padding):
    """Of `x` padded with zeros, by no more than the kernel reaches. Kept for the backward pass is `x` without them."""
    if _pays_cudnn(kernel, dilation):
        return _definition(x, kernel, padding=padding)
    if dilation > 1 and jax.default_backend() == "gpu":
        x = lax.optimization_barrier(x)  # or XLA makes one program, many times slower, of all branches that read it
    return _shifted_sum(_padded(x, padding), kernel, dilation)


def _convolved(x, kernel, dilation, padding):
    """The same, as a map of its own, for what comes after it in training uses it more than once."""
    if _pays_cudnn(kernel, dilation):
        return _definition(x, kernel, padding=padding)
    return once(partial(_shifted_sum, dilation=dilation))(_padded(x, padding), kernel)


def _depthwise_forward(x, kernel, dilation, padding):
    return _convolved(x, kernel, dilation, padding), (x, kernel)


def _depthwise_backward(dilation, padding, residuals, dy):
    x, kernel = residuals
    rest = [dilation * (k - 1) - p for k, p in zip(kernel.shape[:2], padding, strict=True)]
    dx = _convolved(dy, kernel[::-1, ::-1], dilation, rest)
    if _pays_cudnn(kernel, dilation):
        return dx, jax.vjp(lambda kernel: _definition(x, kernel, padding=padding), kernel)[1](dy)[0]
    return dx, _kernel_gradient(x, _padded(dy, rest), kernel, dilation)


def _kernel_gradient(x, spread, kernel, dilation):
    """A loop over the kernel's longer side for each line of taps: with all taps written out, it compiles six times as
    long on a CPU and runs half as fast. On a GPU, written out, it reads the maps once and not for every tap: a quarter
    to six tenths of the time on large maps. Slices of the shorter side, the rows of a square kernel, stay static, so
    that rows may be split over devices.
    """
    loop, other = (1, 2) if kernel.shape[0] > kernel.shape[1] else (2, 1)

    def line(start):
        def tap(_, k):
            part = lax.slice_in_dim(spread, start, start + x.shape[other], axis=other)
            part = lax.dynamic_slice_in_dim(part, k * dilation, x.shape[loop], loop)
            return None, jnp.sum(part.astype(kernel.dtype) * x, (0, 1, 2))

        taps = np.arange(kernel.shape[loop - 1])[::-1]
        if jax.default_backend() == "gpu":
            return jnp.stack([tap(None, int(k))[1] for k in taps])
        return scan(tap, None, jnp.asarray(taps))[1]

    starts = dilation * np.arange(kernel.shape[other - 1])[::-1]
    return jnp.stack([line(start) for start in starts], other - 1)


def _padded(x, padding, mode="zeros"):
    rows, columns = padding
    return pad(x, (rows, rows), (columns, columns), mode)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)
