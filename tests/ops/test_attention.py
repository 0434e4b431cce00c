"""Attention against its definition, written out for one image and one head at a time; in float64."""

from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropjax.ops import attention as module
from cropjax.ops.attention import _flash, attention, attention_weights

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")

FEW = st.integers(1, 3)


def draw(n, queries, keys, heads, d):
    rng = np.random.default_rng([n, queries, keys, heads, d])
    return [rng.standard_normal((n, length, heads, d)) for length in (queries, keys, keys)]


def plain(query, key, value):
    def head(q, k, v):
        exponentials = jnp.exp(q @ k.T / np.sqrt(q.shape[-1]))
        return exponentials @ v / exponentials.sum(-1, keepdims=True)

    images = zip(query, key, value, strict=True)
    return jnp.stack([jnp.stack([head(q[:, i], k[:, i], v[:, i]) for i in range(q.shape[1])], 1) for q, k, v in images])


def assert_as_defined(function, operands, atol):
    """The values of `function` and its gradients."""

    def value_and_slopes(function, *operands):
        y, pullback = jax.vjp(function, *operands)
        return y, *pullback(jnp.cos(y))

    found, wanted = jax.jit(lambda *operands: [value_and_slopes(f, *operands) for f in (function, plain)])(*operands)
    for x, y in zip(found, wanted, strict=True):
        np.testing.assert_allclose(x, y, atol=atol)


@given(n=FEW, queries=st.integers(1, 7), keys=st.integers(1, 7), heads=FEW, d=st.integers(1, 5))
@settings(max_examples=5)
def test_attention_and_its_gradients_are_those_of_the_definition(n, queries, keys, heads, d):
    assert_as_defined(attention, draw(n, queries, keys, heads, d), atol=1e-12)


@given(n=FEW, rows=st.integers(1, 4), columns=st.integers(1, 4), heads=FEW, d=st.integers(1, 5))
@settings(max_examples=5)
def test_queries_may_be_a_map(n, rows, columns, heads, d):
    query, key, value = draw(n, rows * columns, 5, heads, d)

    def of_map(query, key, value):
        return attention(query.reshape(n, rows, columns, heads, d), key, value).reshape(query.shape)

    assert_as_defined(of_map, (query, key, value), atol=1e-12)


@given(n=FEW, queries=st.integers(1, 7), keys=st.integers(1, 7), heads=FEW, d=st.integers(1, 5))
@settings(max_examples=5)
def test_weights_add_up_to_one_and_give_the_attention(n, queries, keys, heads, d):
    query, key, value = draw(n, queries, keys, heads, d)
    weights = attention_weights(query, key)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(np.einsum("nhqk,nkhd->nqhd", weights, value), attention(query, key, value), atol=1e-12)


@given(n=st.integers(1, 2), rows=FEW, columns=st.integers(1, 9), most=st.integers(1, 60))
@settings(max_examples=8)
def test_queries_in_groups_are_queries_at_once(n, rows, columns, most):
    """Whatever the groups' number and the last one's size; a program that is differentiated has none."""
    query, key, value = draw(n, rows * columns, 5, 2, 4)
    expected = plain(query, key, value).reshape(n, rows, columns, 2, 4)
    query = query.reshape(n, rows, columns, 2, 4)
    with mock.patch.object(module, "MOST_SCORES", most):
        found, lowered = attention(query, key, value), str(jax.make_jaxpr(attention)(query, key, value))
        slopes = str(jax.make_jaxpr(jax.grad(lambda x: attention(x, key, value).sum()))(query))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert ("scan" in lowered) == (rows * columns * 2 * 5 > most and columns > 1)
    assert "scan" not in slopes
    form = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("n"), rows, columns, 2, 4), query.dtype)
    with mock.patch.object(module, "MOST_SCORES", most):
        of_any = jax.export.export(jax.jit(lambda x: attention(x, x[:, 0], x[:, 0])))(form).call(query)
    np.testing.assert_allclose(of_any, attention(query, query[:, 0], query[:, 0]), atol=1e-12)


def test_weights_of_bfloat16_are_float32():
    query, key, _ = (jnp.asarray(t, jnp.bfloat16) for t in draw(1, 3, 5, 2, 4))
    assert attention_weights(query, key).dtype == jnp.float32


def test_the_order_of_the_keys_says_nothing():
    query, key, value = draw(2, 3, 5, 2, 4)
    order = np.random.default_rng(0).permutation(5)
    np.testing.assert_allclose(
        attention(query, key[:, order], value[:, order]), attention(query, key, value), atol=1e-12
    )


def test_scores_past_the_range_of_exp_choose_the_best_key():
    query, key, value = draw(1, 3, 5, 1, 4)
    best = np.argmax(query[0, :, 0] @ key[0, :, 0].T, axis=-1)
    y, pullback = jax.vjp(attention, 1e5 * query, key, value)
    np.testing.assert_allclose(y[0, :, 0], value[0, best, 0], atol=1e-12)
    assert all(np.isfinite(slope).all() for slope in pullback(y))


def test_bfloat16_stays_bfloat16():
    operands = [jnp.asarray(t, jnp.bfloat16) for t in draw(2, 3, 300, 2, 4)]
    y = attention(*operands)
    assert y.dtype == jnp.bfloat16
    exact = plain(*(np.asarray(t, np.float64) for t in operands))
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, atol=2**-8)  # values are of size 1


@given(n=FEW, queries=st.integers(1, 7), keys=st.integers(1, 7), heads=FEW)
@settings(max_examples=8)
def test_lengths_are_padded_to_even_ones_and_nothing_sees_it(n, queries, keys, heads):
    """As for cuDNN's kernel, with XLA's own in its place: that runs anywhere. Its softmax is float32."""
    assert_as_defined(partial(_flash, implementation="xla"), draw(n, queries, keys, heads, 8), atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize(("queries", "keys", "width"), [(64, 16, 64), (625, 9, 32), (33, 33, 4)])
def test_flash_kernel_equals_the_einsum(queries, keys, width):
    """On a GPU bfloat16 goes to cuDNN where the width allows it; float32 never does."""
    rng = np.random.default_rng(0)
    wide = [jnp.asarray(rng.standard_normal((2, n, 2, width)), jnp.float32) for n in (queries, keys, keys)]
    narrow = [x.astype(jnp.bfloat16) for x in wide]

    def value_and_slopes(*args):
        y, pull_back = jax.vjp(attention, *args)
        return y, *pull_back(jnp.ones_like(y))

    for ours, exact in zip(jax.jit(value_and_slopes)(*narrow), jax.jit(value_and_slopes)(*wide), strict=True):
        np.testing.assert_allclose(ours.astype(jnp.float32), exact, atol=0.03 * np.abs(exact).max())
