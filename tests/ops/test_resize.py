"""Bilinear resizing against the definition: every output is a sum of hat functions around its source position."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropjax.ops.resize import interpolation_matrix, resize_bilinear

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")

SIZES = st.integers(1, 12)
BOTH_MODES = pytest.mark.parametrize("align_corners", [False, True])


def position(i, size, out, align_corners):
    """Where output pixel `i` of `out` lies on an axis of `size`, inside the outermost centres."""
    if align_corners:
        return i * (size - 1) / (out - 1) if out > 1 else 0.0
    return min(max((i + 0.5) * size / out - 0.5, 0.0), size - 1.0)


def hats(size, out, align_corners):
    """Weight of every source pixel for every output pixel [out, size], one scalar at a time."""
    return np.array(
        [[max(0.0, 1 - abs(position(i, size, out, align_corners) - s)) for s in range(size)] for i in range(out)]
    )


def plain_resize(x, size, align_corners):
    rows, columns = (hats(a, b, align_corners) for a, b in zip(x.shape[1:3], size, strict=True))
    return np.einsum("yh,xw,nhwc->nyxc", rows, columns, x)


def gathered(x, size, align_corners):
    """The resize as gathers of four neighbours, left to autodiff."""
    for axis, out in zip((1, 2), size, strict=True):
        count = x.shape[axis]
        p = np.array([position(i, count, out, align_corners) for i in range(out)])
        left = np.minimum(np.floor(p).astype(int), max(count - 2, 0))
        weight = np.expand_dims(p - left, [a for a in range(4) if a != axis])
        right = np.minimum(left + 1, count - 1)
        x = jnp.take(x, left, axis) * (1 - weight) + jnp.take(x, right, axis) * weight
    return x


@BOTH_MODES
@given(h=SIZES, w=SIZES, out_h=SIZES, out_w=SIZES)
@settings(max_examples=15)
def test_resize_and_its_gradient_are_their_definition(align_corners, h, w, out_h, out_w):
    x = np.random.default_rng(0).standard_normal((2, h, w, 3))
    size = (out_h, out_w)

    @jax.jit
    def both(x):
        y, pullback = jax.vjp(lambda x: resize_bilinear(x, size, align_corners=align_corners), x)
        expected, expected_pullback = jax.vjp(lambda x: gathered(x, size, align_corners), x)
        return (y, *pullback(jnp.cos(y))), (expected, *expected_pullback(jnp.cos(expected)))

    got, expected = both(x)
    assert got[0].shape == (2, out_h, out_w, 3)
    np.testing.assert_allclose(got[0], plain_resize(x, size, align_corners), atol=1e-13)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-13)


@given(size=st.integers(1, 300), out=st.integers(1, 300), align_corners=st.booleans())
@settings(max_examples=40)
def test_matrix_rows_are_hats_that_add_up_to_one(size, out, align_corners):
    matrix = interpolation_matrix(size, out, align_corners)
    np.testing.assert_allclose(matrix, hats(size, out, align_corners), atol=1e-12)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-15)


@BOTH_MODES
def test_equal_size_changes_nothing(align_corners):
    x = np.random.default_rng(0).standard_normal((1, 5, 7, 2))
    np.testing.assert_array_equal(resize_bilinear(x, (5, 7), align_corners=align_corners), x)


@BOTH_MODES
@pytest.mark.parametrize("size", [(1, 1), (3, 20), (10, 10)])
def test_constant_stays_constant(align_corners, size):
    x = np.full((1, 6, 5, 1), 0.7)
    np.testing.assert_allclose(resize_bilinear(x, size, align_corners=align_corners), 0.7, rtol=1e-15)


def test_one_pixel_fills_the_output():
    x = np.random.default_rng(0).standard_normal((2, 1, 1, 3))
    for align_corners in (False, True):
        y = resize_bilinear(x, (4, 6), align_corners=align_corners)
        np.testing.assert_array_equal(y, np.broadcast_to(x, (2, 4, 6, 3)))


@pytest.mark.parametrize("out", [3, 7, 13, 49])
def test_ramps_stay_ramps(out):
    ramp = np.linspace(-2, 4, 7)[None, :, None, None]
    y = np.ravel(resize_bilinear(ramp, (out, 1), align_corners=True))
    np.testing.assert_allclose(y, np.linspace(-2, 4, out), atol=1e-14)
    y = np.ravel(resize_bilinear(ramp, (out, 1), align_corners=False))
    np.testing.assert_allclose(y, np.clip((np.arange(out) + 0.5) * 7 / out - 2.5, -2, 4), atol=1e-14)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_types_are_kept_and_rounded_once(dtype):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 5, 7, 2)), dtype)
    y, pullback = jax.vjp(lambda x: resize_bilinear(x, (9, 9), align_corners=False), x)
    (dx,) = pullback(y)
    assert y.dtype == dx.dtype == dtype
    wide = np.asarray(x, np.float64)
    exact = plain_resize(wide, (9, 9), False)
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, atol=float(jnp.finfo(dtype).eps) * np.abs(exact).max())


def test_resize_can_be_differentiated_twice():
    x = np.random.default_rng(0).standard_normal((1, 4, 5, 2))

    def curvature(f):
        return jax.jit(jax.grad(lambda x: (jax.grad(lambda x: jnp.sin(f(x)).sum())(x) ** 2).sum()))(x)

    got = curvature(lambda x: resize_bilinear(x, (7, 3), align_corners=True))
    np.testing.assert_allclose(got, curvature(lambda x: gathered(x, (7, 3), True)), atol=1e-12)
