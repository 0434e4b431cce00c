"""The factorisation against its definition and by what must hold for it, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from cropjax.ops import nmf as operation
from cropjax.ops.nmf import draw_bases, nmf

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")

factorize = jax.jit(nmf, static_argnums=2)


def draw(n, p, d, rank):
    """A non-negative matrix an image, half of its entries zero as behind a ReLU, and bases for it."""
    rng = np.random.default_rng([n, p, d, rank])
    return np.maximum(rng.standard_normal((n, p, d)), 0), np.asarray(draw_bases(jax.random.key(0), n, d, rank), float)


def plain(x, bases, steps):
    """The definition, for one image."""

    def updated(factor, product, gram):
        return factor * product / (factor @ gram + 1e-6)

    coefficients = np.exp(x @ bases)
    coefficients /= coefficients.sum(-1, keepdims=True)
    for _ in range(steps):
        coefficients = updated(coefficients, x @ bases, bases.T @ bases)
        bases = updated(bases, x.T @ coefficients, coefficients.T @ coefficients)
    return updated(coefficients, x @ bases, bases.T @ bases) @ bases.T


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_factorisation_is_its_definition(steps):
    x, bases = draw(2, 7, 5, 3)
    expected = [plain(*image, steps) for image in zip(x, bases, strict=True)]
    np.testing.assert_allclose(factorize(x, bases, steps), expected, atol=1e-12)


@given(p=st.integers(1, 9), d=st.integers(1, 6), rank=st.integers(1, 4))
@settings(max_examples=6)
def test_every_step_approximates_better_by_numbers_that_are_not_negative(p, d, rank):
    x, bases = draw(2, p, d, rank)
    results = jax.jit(lambda x, bases: jnp.stack([nmf(x, bases, steps) for steps in range(5)]))(x, bases)
    assert (results >= 0).all()
    errors = jnp.square(results - x).sum((1, 2, 3))
    assert (np.diff(errors) < 1e-6).all()  # Lee & Seung 2001, theorem 1; 1e-6 in the denominators


@pytest.mark.parametrize(("rank", "steps", "rtol"), [(1, 1, 1e-5), (3, 40, 1e-2)], ids=["at-once", "by-and-by"])
def test_a_matrix_of_rank_one_is_reproduced(rank, steps, rtol):
    rng = np.random.default_rng(0)
    x = rng.uniform(0.5, 1.5, (2, 7, 1)) * rng.uniform(0.5, 1.5, (2, 1, 5))
    _, bases = draw(2, 7, 5, rank)
    assert np.abs(factorize(x, bases, 0) / x - 1).max() > 0.1
    np.testing.assert_allclose(factorize(x, bases, steps), x, rtol=rtol)


def test_coefficients_times_bases_are_the_approximation():
    x, bases = draw(2, 7, 5, 3)
    coefficients, refined = jax.jit(operation.factorize, static_argnums=2)(x, bases, 3)
    assert coefficients.shape == (2, 7, 3)
    assert refined.shape == (2, 5, 3)
    assert min(coefficients.min(), refined.min()) >= 0
    np.testing.assert_allclose(coefficients @ refined.swapaxes(1, 2), factorize(x, bases, 3), atol=1e-12)


def test_order_of_positions_channels_and_bases_says_nothing():
    x, bases = draw(2, 7, 5, 3)
    rng = np.random.default_rng(0)
    positions, channels, columns = (rng.permutation(count) for count in (7, 5, 3))
    y = factorize(x, bases, 4)
    np.testing.assert_allclose(factorize(x[:, positions], bases, 4), y[:, positions], atol=1e-12)
    np.testing.assert_allclose(factorize(x[:, :, channels], bases[:, channels], 4), y[:, :, channels], atol=1e-12)
    np.testing.assert_allclose(factorize(x, bases[:, :, columns], 4), y, atol=1e-12)


def test_images_are_factorised_apart():
    x, bases = draw(3, 7, 5, 3)
    alone = np.concatenate([factorize(x[i : i + 1], bases[i : i + 1], 4) for i in range(3)])
    np.testing.assert_allclose(factorize(x, bases, 4), alone, atol=1e-12)


def test_gradients_are_the_differences():
    x, bases = draw(2, 4, 3, 2)
    check_grads(jax.jit(lambda x, bases: nmf(x + 0.1, bases, 3)), (x, bases), order=1, modes=["rev"], rtol=1e-6)


def test_an_image_of_zeros_stays_zero_and_its_gradient_finite():
    _, bases = draw(1, 4, 3, 2)
    y, pullback = jax.vjp(lambda x: factorize(x, bases, 7), np.zeros((1, 4, 3)))
    np.testing.assert_array_equal(y, 0)
    assert np.isfinite(pullback(jnp.ones_like(y))).all()


def test_bfloat16_is_factorised_in_float32_and_rounded_once():
    x, bases = draw(2, 9, 6, 3)
    x = jnp.asarray(x, jnp.bfloat16)
    y = factorize(x, bases, 6)
    assert y.dtype == jnp.bfloat16
    wide = factorize(x.astype(jnp.float32), bases, 6)
    assert wide.dtype == jnp.float32
    np.testing.assert_array_equal(y, wide.astype(jnp.bfloat16))


def test_bases_are_columns_of_length_one_and_every_images_own():
    bases = np.asarray(draw_bases(jax.random.key(0), 3, 8, 4))
    assert (bases.shape, bases.dtype) == ((3, 8, 4), np.float64)  # tests have `jax_enable_x64`
    assert (bases >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(bases, axis=1), 1, rtol=1e-6)
    assert (bases[0] != bases[1]).any()
    np.testing.assert_array_equal(bases, draw_bases(jax.random.key(0), 3, 8, 4))
    assert (bases != draw_bases(jax.random.key(1), 3, 8, 4)).any()
