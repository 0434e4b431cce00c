"""What XLA must not do on a CPU: too early, twice, or in no order. It drops `lax.optimization_barrier` before any."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from cropjax.sharding import rows_are_split


def after(first, x):
    """`x`, not before `first` is there: nan where `first` is, which broadcasts to the shape of `x`.

    For backward passes: XLA computes whatever it can of them during the forward pass, and would keep that beside what
    it is made of. A gradient that is nan makes all that follows nan anyway.
    """
    return jnp.where(jnp.isnan(first), first, x)


def once(function):
    """`function` of arrays as a program of its own, whose result is computed once.

    XLA would compute a cheap one again for each of its uses, with all that is cheap before it. Elsewhere than on a CPU
    it minds a barrier. Where rows are split over CPU devices, the program would exchange some with others, and then it
    is no program of its own, for the reason that `scan` gives.
    """

    @jax.jit
    def program(*arguments):
        with set_xla_metadata(inlineable="true"):  # what is called within
            return function(*arguments)

    @functools.wraps(function)
    def call(*arguments):
        if jax.default_backend() != "cpu":
            return lax.optimization_barrier(function(*arguments))
        if rows_are_split():
            return function(*arguments)
        with set_xla_metadata(inlineable="false"):
            return program(*arguments)

    return call


def scan(turn, start, operands):
    """`lax.scan`, written out on a CPU of several devices.

    There XLA begins exchanges between devices in the program's order but takes a loop, or what is called, for begun
    before what is in it is. An exchange beside one that exchanges then comes first on some devices and last on others,
    and they wait for each other.
    """
    several = jax.default_backend() == "cpu" and jax.device_count() > 1
    return lax.scan(turn, start, operands, unroll=several)
