"""Scaled dot-product attention."""

import jax
import jax.numpy as jnp


def attention(query, key, value):
    """softmax(q k' / sqrt(d)) v for `query` [n,q,h,d], `key` and `value` [n,k,h,d] -> [n,q,h,d].

    The softmax is float32 or better; the result has the type of `query`. Vaswani et al. 2017, section 3.2.1, as
    torch's `MultiheadAttention` computes it. In bfloat16 on a GPU cuDNN's flash kernel does it, which never writes the
    [n,h,q,k] matrix; it wants d to be a multiple of 8.
    """
    if query.dtype == jnp.bfloat16 and query.shape[-1] % 8 == 0 and jax.default_backend() == "gpu":
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    query = query * (query.shape[-1] ** -0.5)
    scores = jnp.einsum("nqhd,nkhd->nhqk", query, key)
    weights = jax.nn.softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)), axis=-1)
    return jnp.einsum("nhqk,nkhd->nqhd", weights.astype(value.dtype), value)
