"""Batch normalisation of a batch by its own statistics (Ioffe & Szegedy 2015)."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from cropjax.ops.order import after

AXES = (1, 2, 3)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(x, scale, bias, eps):
    """`x` [g,n,h,w,c], each of g groups normalised by its own mean and biased variance, then `scale` and `bias` [c].

    Returns the result and the groups' means and variances [g,c]. The variance takes a second pass: where the mean is
    much larger than the deviation, the one-pass formula loses everything. No gradient flows out of the statistics.
    What is kept for the backward pass is `x` alone.
    """
    return _forward(x, scale, bias, eps)[0]


def _forward(x, scale, bias, eps):
    mean = x.mean(AXES, keepdims=True)
    var = jnp.square(x - mean).mean(AXES, keepdims=True)
    gain = lax.rsqrt(var + eps)
    mean, gain = lax.optimization_barrier((mean, gain))  # or XLA's CPU loops find the root again for every pixel
    y = (x - mean) * (gain * scale) + bias
    return (y, mean[:, 0, 0, 0], var[:, 0, 0, 0]), (x, mean, gain, scale)


def _backward(eps, residuals, cotangents):
    x, mean, gain, scale = residuals
    dy, _, _ = cotangents
    dy_mean = dy.mean(AXES, keepdims=True)
    dyx_mean = gain * (dy * (x - after(dy_mean, mean))).mean(AXES, keepdims=True)
    dy_mean, dyx_mean = lax.optimization_barrier((dy_mean, dyx_mean))
    dx = (gain * scale) * (dy - dy_mean - (x - after(dyx_mean, mean)) * (gain * dyx_mean))
    count = x[0, ..., 0].size
    return dx, count * dyx_mean.sum(0).ravel(), count * dy_mean.sum(0).ravel()


batch_norm.defvjp(_forward, _backward)
