"""Pooling against loops over torch's cells."""

import math
from fractions import Fraction
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropjax.ops.pool import adaptive_average_pool, adaptive_bins, max_pool, windowed_average_pools

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")


def cells(size, bins):
    edges = [Fraction(i * size, bins) for i in range(bins + 1)]
    return [(math.floor(a), math.ceil(b)) for a, b in pairwise(edges)]


def plain_pool(x, bins):
    """jnp.mean of every cell; differentiable."""
    _, h, w, _ = x.shape
    rows = [[x[:, a:b, c:d].mean((1, 2)) for c, d in cells(w, bins)] for a, b in cells(h, bins)]
    return jnp.stack([jnp.stack(row, 1) for row in rows], 1)


@given(size=st.integers(1, 200), bins=st.integers(1, 300))
def test_bins_are_their_definition_and_cover_the_axis(size, bins):
    table = adaptive_bins(size, bins)
    assert [tuple(row) for row in table] == cells(size, bins)
    assert (table[:, 1] > table[:, 0]).all()
    assert set().union(*(range(*row) for row in table)) == set(range(size))


@given(h=st.integers(1, 13), w=st.integers(1, 13), bins=st.sampled_from([1, 2, 3, 6]))
@settings(max_examples=12)
def test_adaptive_pool_and_its_gradient_are_those_of_plain_means(h, w, bins):
    x = np.random.default_rng(0).standard_normal((2, h, w, 3))

    @jax.jit
    def both(x):
        y, pullback = jax.vjp(lambda x: adaptive_average_pool(x, bins), x)
        expected, expected_pullback = jax.vjp(lambda x: plain_pool(x, bins), x)
        return (y, *pullback(jnp.cos(y))), (expected, *expected_pullback(jnp.cos(expected)))

    got, expected = both(x)
    assert got[0].shape == (2, bins, bins, 3)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-13)


def test_adaptive_pool_of_bfloat16_averages_in_float32():
    x = jnp.ones((1, 97, 97, 2), jnp.bfloat16)  # bfloat16 cannot count past 256
    y = adaptive_average_pool(x, 1)
    assert y.dtype == jnp.bfloat16
    assert (y == 1).all()


@given(h=st.integers(1, 12), w=st.integers(1, 12), dtype=st.sampled_from([jnp.float32, jnp.bfloat16]))
@settings(max_examples=12)
def test_max_pool_never_takes_the_padding(h, w, dtype):
    x = (np.random.default_rng(0).standard_normal((2, h, w, 3)) - 10).astype(dtype)
    y = max_pool(x)
    expected = [
        [x[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].max((1, 2)) for j in range(0, w, 2)]
        for i in range(0, h, 2)
    ]  # fmt: skip
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, np.moveaxis(np.asarray(expected), 2, 0))


def between(bins, size, align_corners):
    """How much each position of a side of `size` takes of each bin, [size,bins]: linear between the bins' centres."""
    places = (
        np.arange(size) * ((bins - 1) / max(size - 1, 1))
        if align_corners
        else (np.arange(size) + 0.5) * bins / size - 0.5
    )
    return np.stack([np.interp(places, np.arange(bins), one) for one in np.eye(bins)], 1)


@given(st.integers(3, 9), st.integers(3, 9), st.integers(2, 9), st.integers(2, 9), st.sampled_from([1, 2, 3, 6]))
@settings(max_examples=12)
def test_windows_read_what_a_cut_out_window_would_give(h, w, rows, columns, bins):
    """Position by position: cut, pool, resize, read at the position; the network's layer in between is a ReLU."""
    x = np.random.default_rng([h, w, bins]).normal(size=(1, h, w, 2))
    shape = min(rows, h), min(columns, w)

    @jax.jit
    def windowed(x):
        return [
            sum(
                weights * jax.nn.relu(pooled)
                for pooled, weights in windowed_average_pools(x, bins, (rows, columns), align_corners=align_corners)
            )
            for align_corners in (False, True)
        ]

    for align_corners, found in zip((False, True), windowed(x), strict=True):
        down, across = (between(bins, side, align_corners) for side in shape)
        for y, z in np.ndindex(h, w):
            top = min(max(y - rows // 2, 0), max(h - rows, 0))
            left = min(max(z - columns // 2, 0), max(w - columns, 0))
            window = x[0, top : top + rows, left : left + columns]
            pooled = [
                [window[a:b, c:d].mean((0, 1)) for c, d in cells(shape[1], bins)] for a, b in cells(shape[0], bins)
            ]
            expected = np.einsum("i,j,ijc->c", down[y - top], across[z - left], np.maximum(pooled, 0))
            np.testing.assert_allclose(found[0, y, z], expected, atol=1e-12)
