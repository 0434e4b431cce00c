"""What XLA's CPU compiler must not move or do twice. It drops `lax.optimization_barrier` before it fuses and orders."""

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
    """`function` of arrays, computed once: XLA would compute a cheap result again for each of its uses.

    Its steps stay a program of their own, which is fused with nothing around it. Elsewhere than on a CPU `function`
    as it is.
    """

    @jax.jit
    def program(*arguments):
        with set_xla_metadata(inlineable="true"):
            return function(*arguments)

    @functools.wraps(function)
    def called(*arguments):
        if jax.default_backend() != "cpu":
            return function(*arguments)
        with set_xla_metadata(inlineable="false"):
            return program(*arguments)

    return called
