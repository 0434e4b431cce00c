"""Dense convolutions: 1x1 as a matrix product, 3x3 over many channels by Winograd, the others as XLA has them."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from cropjax.ops.order import scan
from cropjax.ops.pad import pad
from cropjax.ops.plain import is_plain
from cropjax.ops.product import product
from cropjax.ops.winograd import winograd, winograd_input_gradient, winograd_kernel_gradient

# Measured on a CPU: from 2048 x 512 on the result and both gradients gain; with fewer, changing the tiles costs what
# the products save.
WINOGRAD_CHANNELS = 2**20


def conv(x, kernel, *, stride=1, dilation=1, padding=0, padding_mode="zeros"):
    """Dense convolution of `x` [n,h,w,i] with `kernel` [kh,kw,i,o] -> [n,h',w',o], as torch's `Conv2d`.

    `h' = (h + 2 padding - dilation (kh - 1) - 1) // stride + 1`. The result has the type of `x`.
    """
    kernel = kernel.astype(x.dtype)
    if padding_mode != "zeros":
        x, padding = pad(x, (padding, padding), (padding, padding), padding_mode), 0
    if is_plain():
        return _definition(x, kernel, stride, dilation, padding)
    if kernel.shape[:2] == (1, 1) and padding == 0:
        return product(x[:, ::stride, ::stride], kernel[0, 0])
    if _pays_winograd(kernel, stride) and padding == dilation:
        return _winograd(x, kernel, dilation)
    return _dense(x, kernel, stride, dilation, padding)


def _definition(x, kernel, stride, dilation, padding):
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
    return _definition(x, kernel, stride, dilation, padding)


def _dense_forward(x, kernel, stride, dilation, padding):
    return _dense(x, kernel, stride, dilation, padding), (x, kernel)


def _dense_backward(stride, dilation, padding, residuals, dy):
    x, kernel = residuals
    plain = partial(_definition, stride=stride, dilation=dilation, padding=padding)
    (dx,) = jax.vjp(lambda x: plain(x, kernel), x)[1](dy)
    if jax.default_backend() == "cpu":
        return dx, _dense_kernel_gradient(x, dy, kernel.shape[:2], stride, dilation, padding)
    if stride == 1 and dilation > 1 and x.shape[1:3] == dy.shape[1:3]:
        x, dy = _interleaved(x, dilation), _interleaved(dy, dilation)
        plain = partial(_definition, stride=1, dilation=1, padding=padding // dilation)
    return dx, jax.vjp(lambda kernel: plain(x, kernel), kernel)[1](dy)[0]


def _dense_kernel_gradient(x, dy, taps, stride, dilation, padding):
    """A matrix product a tap: XLA's CPU convolution with a kernel as large as the map takes five times as long.

    A loop over the columns of taps keeps the slices in one place; the rows stay static, so that rows of the map may be
    split over devices.
    """
    n, h, w, o = dy.shape
    i = x.shape[-1]
    x = pad(x, (padding, padding), (padding, padding))
    dy = lax.optimization_barrier(dy.reshape(-1, o).T)
    span = (n, stride * (h - 1) + 1, stride * (w - 1) + 1, i)

    def column(_, kx):
        seen = (lax.dynamic_slice(x, (0, dilation * ky, dilation * kx, 0), span) for ky in range(taps[0]))
        return None, jnp.stack([dy @ part[:, ::stride, ::stride].reshape(-1, i) for part in seen])

    return scan(column, None, jnp.arange(taps[1]))[1].transpose(1, 0, 3, 2)  # [kx,ky,o,i] -> [ky,kx,i,o]


_dense.defvjp(_dense_forward, _dense_backward)


def _interleaved(x, dilation):
    """The maps [n dilation^2,h',w',c] that a dilated kernel sees one at a time, padded with zeros to one size.

    On them the gradient of a dilated kernel, which XLA gives cuDNN as a convolution with a kernel as large as the map
    and strides, is that of a plain one: a tenth of the time.
    """
    n, h, w, c = x.shape
    rows, columns = (-(-size // dilation) for size in (h, w))
    x = pad(x, (0, rows * dilation - h), (0, columns * dilation - w))
    x = x.reshape(n, rows, dilation, columns, dilation, c).transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(-1, rows, columns, c)


def _pays_winograd(kernel, stride):
    """On a GPU cuDNN decides for itself."""
    kh, kw, i, o = kernel.shape
    return kh == kw == 3 and stride == 1 and i * o >= WINOGRAD_CHANNELS and jax.default_backend() == "cpu"


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _winograd(x, kernel, dilation):
    return winograd(x, kernel, dilation)


def _winograd_forward(x, kernel, dilation):
    return _winograd(x, kernel, dilation), (x, kernel)


def _winograd_backward(dilation, residuals, dy):
    x, kernel = residuals
    return winograd_input_gradient(dy, kernel, dilation), winograd_kernel_gradient(x, dy, dilation)


_winograd.defvjp(_winograd_forward, _winograd_backward)
