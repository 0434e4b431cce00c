"""Normalisation of every position over its channels (Ba et al. 2016)."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x, scale, bias, eps):
    """`x` [...,c] less its mean over c, divided by its deviation, then `scale` and `bias` [c].

    What is kept for the backward pass is `x`, and a mean and a factor a position.
    """
    return _forward(x, scale, bias, eps)[0]


def _forward(x, scale, bias, eps):
    mean = x.mean(-1, keepdims=True)
    gain = lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + eps)
    mean, gain = lax.optimization_barrier((mean, gain))  # or XLA's CPU loops find the root again for every channel
    return (x - mean) * gain * scale + bias, (x, mean, gain, scale)


def _backward(eps, residuals, dy):
    x, mean, gain, scale = residuals
    unit = (x - mean) * gain
    other = tuple(range(x.ndim - 1))
    dunit = dy * scale
    along, offset = (dunit * unit).mean(-1, keepdims=True), dunit.mean(-1, keepdims=True)
    along, offset = lax.optimization_barrier((along, offset))
    return gain * (dunit - offset - unit * along), (dy * unit).sum(other), dy.sum(other)


layer_norm.defvjp(_forward, _backward)
