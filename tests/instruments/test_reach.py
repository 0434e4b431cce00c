"""What positions see, against the support of the gradient of the same function with positive weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from cropjax.errors import UserError
from cropjax.instruments.reach import convolutions, trace
from cropjax.ops.conv import conv
from cropjax.ops.depthwise import depthwise_conv
from cropjax.ops.plain import plain
from cropjax.ops.pool import adaptive_average_pool
from cropjax.ops.resize import resize_bilinear

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")


def support(function, weights, size, channels=1):
    """Which pixels the result of `function` depends on, bool [h',w',H,W]: where no gradient is exactly zero."""
    image = jnp.ones((1, *size, channels))

    def summed(image):
        with plain():
            return function(weights, image)[0].sum(-1)

    return np.asarray(jax.jit(jax.jacrev(summed))(image)[:, :, 0].any(-1))


def boxes(sets):
    """First and last of each set, as `spans` has them; (2^40, -1) for none."""
    return np.array([(np.flatnonzero(row)[0], np.flatnonzero(row)[-1]) if row.any() else (2**40, -1) for row in sets])


def check(function, weights, size, channels=1):
    rows, columns = trace(function, weights, size, channels=channels).maps
    seen = rows[:, None, :, None] & columns[None, :, None, :]
    np.testing.assert_array_equal(support(function, weights, size, channels), seen)
    spans = trace(function, weights, size, channels=channels, spans=True).maps
    np.testing.assert_array_equal(spans.rows, boxes(rows))
    np.testing.assert_array_equal(spans.columns, boxes(columns))
    return rows, columns


KERNEL = np.ones((3, 3, 1, 1))
SIZES = st.integers(5, 11)


@settings(max_examples=8)
@given(SIZES, SIZES, st.integers(1, 2), st.integers(1, 4), st.integers(0, 4))
def test_convolutions(h, w, stride, dilation, padding):
    padding = min(padding, dilation)
    if min(h, w) + 2 * padding <= 2 * dilation:
        return
    check(lambda k, x: conv(x, k, stride=stride, dilation=dilation, padding=padding), KERNEL, (h, w))


@settings(max_examples=5)
@given(SIZES, SIZES, st.integers(1, 6), st.booleans())
def test_pooling_and_resizing(h, w, bins, align_corners):
    def function(weights, x):
        y = resize_bilinear(
            adaptive_average_pool(conv(x, weights, padding=1), bins), (h, w), align_corners=align_corners
        )
        return jnp.concatenate([y, x], -1)

    # where positions of a resize coincide the other neighbour weighs exactly nothing, and yet it is looked at
    rows, columns = trace(function, KERNEL, (h, w), channels=1).maps
    found = support(function, KERNEL, (h, w))
    seen = rows[:, None, :, None] & columns[None, :, None, :]
    assert not (found & ~seen).any()
    exact = resize_bilinear(jnp.eye(bins)[None, :, :, None], (h, bins), align_corners=align_corners)[0, :, :, 0]
    if (exact > 0).sum(1).min() == min(2, bins):
        assert (found == seen)[:, :, :, 0].all()


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_modes(mode):
    check(lambda k, x: depthwise_conv(x, k, dilation=2, padding=(2, 2), padding_mode=mode), np.ones((3, 3, 1)), (7, 6))


def test_branches_and_shortcuts_unite():
    def function(weights, x):
        y = x + conv(x, weights, dilation=2, padding=2)
        z = lax.reduce_window(y, 0.0, lax.add, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
        return jnp.concatenate([z, conv(y, weights, stride=2, padding=1)], -1) * z

    rows, _ = check(function, KERNEL, (9, 12))
    assert rows[2].tolist() == [False, True, True, True, True, True, True, True, False]


def test_slices_flips_and_transposes():
    def function(weights, x):
        y = jnp.flip(x.transpose(0, 2, 1, 3), 1)[:, 1:-1, ::2]
        a, b = jnp.split(jnp.pad(y, ((0, 0), (1, 2), (0, 1), (0, 0))), [2], axis=1)
        return jnp.concatenate([b, a], 1).reshape(1, -1, y.shape[2] + 1, 1).transpose(0, 2, 1, 3)

    check(function, (), (8, 7))


def test_attention_sees_everything():
    def function(weights, x):
        y = conv(x, weights, stride=2, padding=1)
        n, h, w, c = y.shape
        q = y.reshape(n, h * w, c)
        return (jax.nn.softmax(q @ q.swapaxes(1, 2)) @ q).reshape(y.shape)

    rows, columns = trace(function, KERNEL, (9, 8), channels=1).maps
    assert rows.all()
    assert columns.all()


def test_merged_and_split_axes_keep_their_rows():
    def function(weights, x):
        n, h, w, c = x.shape
        return (x.reshape(n, h * w, c) @ weights).reshape(n, h, w, -1)

    check(function, np.ones((1, 2)), (5, 6))


def test_loops():
    def looped(weights, x):
        return lax.scan(lambda x, k: (conv(x, k, padding=1), None), x, weights)[0]

    kernels = np.ones((3, 3, 3, 1, 1), np.float32)
    # It is walked until nothing grows, whatever the number of turns: at least what is seen, and here everything.
    assert trace(looped, kernels, (9, 9), channels=1).maps.rows.all()
    once = trace(lambda k, x: lax.scan(lambda x, k: (x * k.sum(), None), x, k)[0], kernels, (9, 9), channels=1)
    np.testing.assert_array_equal(once.maps.rows, np.eye(9, dtype=bool))


def test_constants_see_nothing():
    rows, columns = trace(lambda weights, x: jnp.zeros((1, 2, 3, 1)) + weights, np.ones(()), (5, 5)).maps
    assert rows.shape == (2, 5)
    assert not rows.any()
    assert not columns.any()


@pytest.mark.parametrize("result", [lambda x: x.mean(), lambda x: x[0], lambda x: x[:, :0]])
def test_what_is_no_map_is_an_error(result):
    with pytest.raises(UserError, match="an instrument needs maps"):
        trace(lambda weights, x: result(x), (), (5, 5))


def test_operands_of_convolutions_are_those_that_the_function_computes():
    rng = np.random.default_rng(0)
    weights = {"a": rng.normal(size=(3, 3, 1, 2)), "b": rng.normal(size=(3, 3, 2))}
    image = jnp.asarray(rng.normal(size=(2, 7, 6, 1)))

    @jax.jit  # a program within the program
    def inner(x, kernel):
        return jax.nn.relu(conv(x, kernel, padding=1, stride=2))

    def function(weights, x):
        return depthwise_conv(inner(x, weights["a"]), weights["b"], padding=(1, 1))

    found = jax.jit(lambda w, x: convolutions(function, w, x, lambda i, x, kernel: (x, kernel)))(weights, image)
    np.testing.assert_array_equal(found[0][0], image)
    np.testing.assert_allclose(found[1][0], inner(image, weights["a"]), rtol=1e-12)
    layers = trace(function, weights, (7, 6), channels=1).layers
    assert [layer.name for layer in layers] == ["a", "b"]
    assert [layer.groups for layer in layers] == [1, 2]
    assert [kernel.shape for _, kernel in found] == [(3, 3, 1, 2), (3, 3, 1, 2)]
    assert layers[1].input_size == found[1][0].shape[1:3]
