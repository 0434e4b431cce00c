"""What XLA's CPU compiler must not do too early or twice. It drops `lax.optimization_barrier` before it does either."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata


def after(first, x):
    """`x`, not before `first` is there: nan where `first` is, which broadcasts to the shape of `x`.

    For backward passes: XLA computes whatever it can of them during the forward pass, and would keep that beside what
    it is made of. A gradient that is nan makes all that follows nan anyway.
    """
    return jnp.where(jnp.isnan(first), first, x)


def once(function):
    """`function` of arrays as a program of its own, whose result is computed once.

    XLA would compute a cheap one again for each of its uses, with all that is cheap before it. Elsewhere than on a CPU
    `function` as it is.
    """

    @jax.jit
    def program(*arguments):
        with set_xla_metadata(inlineable="true"):  # what is called within
            return function(*arguments)

    @functools.wraps(function)
    def call(*arguments):
        if jax.default_backend() != "cpu":
            return function(*arguments)
        with set_xla_metadata(inlineable="false"):
            return program(*arguments)

    return call
