"""Convolutions against sums written out in NumPy, their gradients against lax, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from jax import lax

from cropjax.ops.conv import conv
from cropjax.ops.depthwise import depthwise_conv
from cropjax.ops.pad import PADDING_MODES

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")

NUMPY_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
SIZES = st.integers(1, 9)


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def plain_conv(x, kernel, stride, dilation, padding, mode="zeros"):
    """The definition: a sum over the taps of strided slices of the padded input. A kernel [kh,kw,c] is depthwise."""
    rows, columns = padding
    x = np.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)), NUMPY_MODES[mode])
    kh, kw = kernel.shape[:2]
    h = (x.shape[1] - dilation * (kh - 1) - 1) // stride + 1
    w = (x.shape[2] - dilation * (kw - 1) - 1) // stride + 1
    spec = "nhwi,io->nhwo" if kernel.ndim == 4 else "nhwc,c->nhwc"
    total = 0
    for i in range(kh):
        for j in range(kw):
            y, x0 = i * dilation, j * dilation
            taps = x[:, y : y + (h - 1) * stride + 1 : stride, x0 : x0 + (w - 1) * stride + 1 : stride]
            total = total + np.einsum(spec, taps, kernel[i, j])
    return total


def lax_depthwise(x, kernel, dilation, padding):
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (1, 1),
        [(p, p) for p in padding],
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@given(h=SIZES, w=SIZES, k=st.sampled_from([1, 3, 5]), stride=st.integers(1, 3), dilation=st.integers(1, 4))
@settings(max_examples=15)
def test_conv_is_its_definition(h, w, k, stride, dilation):
    x, kernel = draw(2, h, w, 3), draw(k, k, 3, 4)
    padding = dilation * (k // 2)
    y = conv(x, kernel, stride=stride, dilation=dilation, padding=padding)
    np.testing.assert_allclose(y, plain_conv(x, kernel, stride, dilation, (padding, padding)), atol=1e-12)


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_conv_pads_by_what_it_is_told(stride, padding):
    x, kernel = draw(1, 8, 5, 2), draw(3, 3, 2, 3)
    y = conv(x, kernel, stride=stride, padding=padding)
    assert y.shape == (1, (8 + 2 * padding - 3) // stride + 1, (5 + 2 * padding - 3) // stride + 1, 3)
    np.testing.assert_allclose(y, plain_conv(x, kernel, stride, 1, (padding, padding)), atol=1e-12)


@given(h=SIZES, w=SIZES, stride=st.integers(1, 4))
@settings(max_examples=10)
def test_1x1_conv_and_its_gradients_are_those_of_lax(h, w, stride):
    x, kernel = draw(2, h, w, 3), draw(1, 1, 3, 4)

    def lax_conv(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    @jax.jit
    def both(x, kernel):
        y, pullback = jax.vjp(lambda x, k: conv(x, k, stride=stride), x, kernel)
        expected, expected_pullback = jax.vjp(lax_conv, x, kernel)
        return (y, *pullback(jnp.cos(y))), (expected, *expected_pullback(jnp.cos(expected)))

    for got, expected in zip(*both(x, kernel), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-12)


def test_padding_modes_are_the_ones_tested():
    assert NUMPY_MODES.keys() == PADDING_MODES.keys()


@pytest.mark.parametrize("mode", NUMPY_MODES)
@given(h=SIZES, w=SIZES, dilation=st.integers(1, 5))
@settings(max_examples=5)
def test_padding_modes_are_numpys(mode, h, w, dilation):
    assume(dilation < min(h, w) or mode != "reflect")  # what torch allows
    x, dense, depthwise = draw(1, h, w, 2), draw(3, 3, 2, 3), draw(3, 3, 2)
    reach = (dilation, dilation)
    y = conv(x, dense, dilation=dilation, padding=dilation, padding_mode=mode)
    np.testing.assert_allclose(y, plain_conv(x, dense, 1, dilation, reach, mode), atol=1e-12)
    y = depthwise_conv(x, depthwise, dilation=dilation, padding=reach, padding_mode=mode)
    np.testing.assert_allclose(y, plain_conv(x, depthwise, 1, dilation, reach, mode), atol=1e-12)


def depthwise_with_gradients(x, kernel, dilation, padding):
    """Result and gradients of `depthwise_conv`, each beside what lax makes of it."""

    @jax.jit
    def both(x, k):
        y, pullback = jax.vjp(lambda x, k: depthwise_conv(x, k, dilation=dilation, padding=padding), x, k)
        expected, expected_pullback = jax.vjp(lambda x, k: lax_depthwise(x, k, dilation, padding), x, k)
        return (y, *pullback(jnp.cos(y))), (expected, *expected_pullback(jnp.cos(expected)))

    return list(zip(*both(x, kernel), strict=True))


@given(
    h=SIZES, w=SIZES, kernel=st.sampled_from([(3, 3), (1, 7), (7, 1)]), dilation=st.integers(1, 12)
)  # fmt: skip
@settings(max_examples=12)
def test_depthwise_conv_and_its_gradients_are_those_of_a_grouped_conv(h, w, kernel, dilation):
    x, weights = draw(2, h, w, 3), draw(*kernel, 3)
    padding = tuple(dilation * (k // 2) for k in kernel)  # the map keeps its size, also where the taps leave it
    pairs = depthwise_with_gradients(x, weights, dilation, padding)
    assert pairs[0][0].shape == x.shape
    for got, expected in pairs:
        np.testing.assert_allclose(got, expected, atol=1e-12)


@given(
    kernel=st.sampled_from([(3, 3), (1, 7), (7, 1), (5, 2)]),
    dilation=st.integers(1, 3),
    padding=st.tuples(st.integers(0, 8), st.integers(0, 8)),
    rest=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
@example(kernel=(3, 3), dilation=2, padding=(4, 4), rest=(1, 1))  # as far as the kernel reaches
@example(kernel=(3, 3), dilation=2, padding=(5, 1), rest=(2, 3))  # further on one side
@settings(max_examples=12)
def test_depthwise_conv_pads_by_what_it_is_told_and_so_do_its_gradients(kernel, dilation, padding, rest):
    """From none to more than the kernel reaches, where taps see padding alone."""
    reach = [dilation * (k - 1) for k in kernel]
    size = [max(1, r + more - 2 * p) for r, more, p in zip(reach, rest, padding, strict=True)]
    x, weights = draw(2, *size, 3), draw(*kernel, 3)
    for got, expected in depthwise_with_gradients(x, weights, dilation, padding):
        np.testing.assert_allclose(got, expected, atol=1e-12)


def sum_of_shifts(x, kernel, dilation):
    kh, kw = kernel.shape[:2]
    h, w = x.shape[1] - dilation * (kh - 1), x.shape[2] - dilation * (kw - 1)
    places = [(i, j, dilation * i, dilation * j) for i in range(kh) for j in range(kw)]
    return sum(x[:, y : y + h, x0 : x0 + w] * kernel[i, j] for i, j, y, x0 in places)


@pytest.mark.parametrize("size", [(1, 1), (5, 5), (21, 1), (1, 21), (2, 5), (5, 3)], ids=str)
@pytest.mark.parametrize("dilation", [1, 2])
def test_gradients_of_depthwise_conv_are_those_of_the_sum_of_shifts(size, dilation):
    """`_kernel_gradient` loops over the longer side of a tall, a wide or a square kernel."""
    h, w = (dilation * (k - 1) + rest for k, rest in zip(size, (3, 4), strict=True))
    x, kernel = draw(2, h, w, 3), draw(*size, 3)

    @jax.jit
    def both(x, kernel):
        y, pullback = jax.vjp(lambda x, k: depthwise_conv(x, k, dilation=dilation), x, kernel)
        _, expected_pullback = jax.vjp(lambda x, k: sum_of_shifts(x, k, dilation), x, kernel)
        return pullback(jnp.cos(y)), expected_pullback(jnp.cos(y))

    for got, expected in zip(*both(x, kernel), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize("padding", [(0, 0), (1, 0), (3, 2)])
def test_depthwise_conv_without_padding_shrinks_the_map(padding):
    x, kernel = draw(1, 7, 6, 2), draw(3, 3, 2)
    y = depthwise_conv(x, kernel, dilation=2, padding=padding)
    np.testing.assert_allclose(y, plain_conv(x, kernel, 1, 2, padding), atol=1e-12)


@pytest.mark.parametrize("argument", [0, 1])
def test_depthwise_conv_can_be_differentiated_twice(argument):
    operands = draw(1, 5, 4, 2), draw(3, 3, 2)

    def squared_slope(f):
        def penalty(*operands):
            return (jax.grad(lambda *o: jnp.sin(f(*o)).sum(), argument)(*operands) ** 2).sum()

        return jax.jit(jax.grad(penalty, (0, 1)))(*operands)

    got = squared_slope(lambda x, k: depthwise_conv(x, k, dilation=2, padding=(2, 2)))
    expected = squared_slope(lambda x, k: lax_depthwise(x, k, 2, (2, 2)))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_bfloat16_stays_bfloat16_and_sums_in_float32():
    x = jnp.asarray(draw(2, 9, 8, 3), jnp.bfloat16)
    dense, depthwise = (jnp.asarray(draw(*s), jnp.float32) for s in [(3, 3, 3, 4), (3, 3, 3)])
    assert conv(x, dense, padding=1).dtype == jnp.bfloat16
    assert conv(x, dense[:1, :1]).dtype == jnp.bfloat16
    y, pullback = jax.vjp(lambda x, k: depthwise_conv(x, k, padding=(1, 1)), x, depthwise)
    dx, dk = pullback(y)
    assert (y.dtype, dx.dtype, dk.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)

    wide, wide_y = (np.asarray(a, np.float64) for a in (x, y))
    exact = plain_conv(wide, np.asarray(depthwise, np.float64), 1, 1, (1, 1))
    np.testing.assert_allclose(wide_y, exact, rtol=2**-8, atol=1e-6)  # one rounding, at the end
    _, exact_pullback = jax.vjp(lambda k: lax_depthwise(wide, k, 1, (1, 1)), np.asarray(depthwise, np.float64))
    np.testing.assert_allclose(dk, *exact_pullback(wide_y), rtol=1e-5, atol=1e-4)
