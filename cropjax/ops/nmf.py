"""Non-negative matrix factorisation by multiplicative updates: the "hamburger" of SegNeXt's head.

Geng et al. 2021 (arXiv 2109.04553); `NMF2D` in `mmseg/models/decode_heads/ham_head.py`.
"""

from functools import partial

import jax
import jax.numpy as jnp

EPS = 1e-6
# A product's error is multiplied from step to step: the ten bits that GPUs spend on float32 by default are too few.
_einsum = partial(jnp.einsum, precision="highest")


def draw_bases(key, images, channels, rank):
    """Random bases [images,channels,rank]: uniform in [0, 1), each column of length 1.

    They are float32, in float64 with `jax_enable_x64`: the lengths' last bit depends on how the images are split.
    """
    bases = jax.random.uniform(key, (images, channels, rank), jnp.float32).astype(float)
    return bases / jnp.linalg.norm(bases, axis=1, keepdims=True)


def nmf(x, bases, steps):
    """The approximation of `x` [n,p,d], not negative, by `bases` [n,d,r] that are refined `steps` times -> [n,p,d].

    Coefficients times bases, of `factorize`; the result has the type of `x`. Gradients flow through all of it.
    """
    return _einsum("npr,ndr->npd", *factorize(x, bases, steps)).astype(x.dtype)


def factorize(x, bases, steps):
    """Coefficients [n,p,r] and bases [n,d,r] of `nmf`, not negative, in float32 or better.

    p are the positions and d the channels. The coefficients start as a softmax of x times the bases; every step
    updates them and then the bases, and the coefficients once more at the end.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    bases = bases.astype(x.dtype)
    coefficients = jax.nn.softmax(_project(x, bases), axis=-1)

    for _ in range(steps):
        coefficients = _update_coefficients(x, bases, coefficients)
        gram = _einsum("npr,nps->nrs", coefficients, coefficients)
        bases *= _einsum("npd,npr->ndr", x, coefficients) / (_einsum("ndr,nrs->nds", bases, gram) + EPS)
    return _update_coefficients(x, bases, coefficients), bases


def _project(x, bases):
    return _einsum("npd,ndr->npr", x, bases)


def _update_coefficients(x, bases, coefficients):
    gram = _einsum("ndr,nds->nrs", bases, bases)
    return coefficients * _project(x, bases) / (_einsum("npr,nrs->nps", coefficients, gram) + EPS)
