"""Scaled dot-product attention."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from cropjax.ops.plain import is_plain

MOST_SCORES = 1 << 26  # of an image at a time, where nothing is kept for gradients: 256 MiB of float32


def attention(query, key, value):
    """softmax(q k' / sqrt(d)) v for `query` [n,q,h,d], `key` and `value` [n,k,h,d] -> [n,q,h,d].

    q may be several axes: the rows and columns of a map are not made one, so that rows may be split over devices. The
    softmax is float32 or better; the result has the type of `query`. Vaswani et al. 2017, section 3.2.1, as
    torch's `MultiheadAttention` computes it. In bfloat16 on a GPU cuDNN's flash kernel does it, which never writes the
    [n,h,q,k] matrix; it wants d to be a multiple of 8.
    """
    if query.dtype == jnp.bfloat16 and query.shape[-1] % 8 == 0 and jax.default_backend() == "gpu":
        return _flash(query, key, value)
    return _definition(query, key, value) if is_plain() else _attention(_scaled(query), key, value)


def attention_weights(query, key):
    """softmax(q k' / sqrt(d)) for `query` [n,q,h,d] and `key` [n,k,h,d] -> [n,h,q,k], float32 or better."""
    scores = _einsum("nqhd,nkhd->nhqk", _scaled(query), key)
    return jax.nn.softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)), axis=-1)


def _einsum(form, first, second):
    """`jnp.einsum` whose axis q stands for all axes of the queries, which `first` has."""
    return jnp.einsum(form.replace("q", "qrs"[: first.ndim - 3]), first, second)


def _scaled(query):
    return query * (query.shape[-1] ** -0.5)


def _flash(query, key, value, implementation="cudnn"):
    """JAX has gradients of cuDNN's kernel for even lengths alone, so odd ones are padded by one position."""
    shape, keys = query.shape, key.shape[1]
    query = query.reshape(shape[0], -1, *shape[-2:])
    n, queries = query.shape[:2]
    query, key, value = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value))
    # A padded query is cut off, and so is its gradient; a padded key must not be seen.
    lengths = {"key_value_seq_lengths": jnp.full(n, keys, jnp.int32)} if keys % 2 else {}
    result = jax.nn.dot_product_attention(query, key, value, **lengths, implementation=implementation)
    return result[:, :queries].reshape(shape)


def _definition(query, key, value):
    return _einsum("nhqk,nkhd->nqhd", attention_weights(query, key).astype(value.dtype), value)


@jax.custom_vjp
def _attention(query, key, value):
    """Without gradients the queries go in groups, by their last axis: the scores of all may outgrow everything else.

    An image's scores decide, for how many images there are may be open, in a program that is exported.
    """
    *axes, last, heads, d = query.shape
    groups = min(-(-math.prod((*axes[1:], last, heads, key.shape[1])) // MOST_SCORES), last)
    if groups <= 1:
        return _forward(query, key, value)[0]
    width = -(-last // groups)
    query = jnp.pad(query, (*((0, 0) for _ in axes), (0, -last % width), (0, 0), (0, 0)))
    parts = jnp.moveaxis(query.reshape(*axes, -(-last // width), width, heads, d), -4, 0)
    found = lax.map(lambda part: _forward(part, key, value)[0], parts)
    return jnp.moveaxis(found, 0, -4).reshape(query.shape)[..., :last, :, :]


def _forward(query, key, value):
    """The weights stay as exponentials: dividing by their sums comes after the product with the values."""
    scores = _einsum("nqhd,nkhd->nhqk", query, key)
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    largest = lax.optimization_barrier(scores.max(-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    gain = 1 / weights.sum(-1)  # [n,h,q]
    weights = weights.astype(value.dtype)
    gain = lax.optimization_barrier(jnp.moveaxis(gain, 1, -1)[..., None].astype(value.dtype))
    result = _einsum("nhqk,nkhd->nqhd", weights, value) * gain
    return result, (query, key, value, weights, gain, result)


def _backward(residuals, dy):
    """Over the keys, weights times their gradients add up to the result times its own (Dao et al. 2022, appendix B)."""
    query, key, value, weights, gain, result = residuals
    along = (result * dy).sum(-1, keepdims=True)  # [n,q,h,1]
    scaled = dy * gain
    dvalue = _einsum("nhqk,nqhd->nkhd", weights, scaled)
    along = lax.optimization_barrier(jnp.moveaxis(along * gain, -2, 1))  # [n,h,q,1]
    dscores = weights * (_einsum("nqhd,nkhd->nhqk", scaled, value) - along)
    dscores = lax.optimization_barrier(dscores)
    return _einsum("nhqk,nkhd->nqhd", dscores, key), _einsum("nhqk,nqhd->nkhd", dscores, query), dvalue


_attention.defvjp(_forward, _backward)
