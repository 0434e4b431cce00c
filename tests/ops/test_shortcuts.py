"""Every shortcut of `cropjax/ops` against the definition that `plain()` switches on: values and gradients, float64."""

from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from tiny import tiny_config

from cropjax.config import build_model, build_objective
from cropjax.models.layers import Conv
from cropjax.ops import conv as conv_module
from cropjax.ops.batch_norm import batch_norm
from cropjax.ops.conv import conv
from cropjax.ops.conv_of_resized import conv_of_resized
from cropjax.ops.depthwise import depthwise_conv
from cropjax.ops.gelu import gelu
from cropjax.ops.layer_norm import layer_norm
from cropjax.ops.pad import PADDING_MODES
from cropjax.ops.plain import is_plain, plain
from cropjax.ops.product import product
from cropjax.ops.resize import resize_bilinear
from cropjax.ops.winograd import winograd, winograd_input_gradient
from cropjax.step import merge_model, segmentation_loss, split_model

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")
SIZES = st.integers(1, 11)


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def assert_same(function, definition, *operands, atol=1e-11):
    """Both functions give the same, and pull the same gradients back to every operand."""

    def with_gradients(function):
        y, pull = jax.vjp(function, *operands)
        return jax.tree.leaves((y, pull(jax.tree.map(lambda y: jnp.cos(y) + 0.1, y))))

    got = jax.jit(partial(with_gradients, function))()
    wanted = jax.jit(partial(with_gradients, definition))()
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=atol * max(1, np.abs(b).max(initial=0)))


def by_definition(function):
    def defined(*operands):
        with plain():
            return function(*operands)

    return defined


def test_plain_ends_where_it_ends():
    def fail():
        with plain():
            assert is_plain()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not is_plain()


@contextmanager
def taken_for(backend):
    """Within, shortcuts are chosen as on another kind of device; what they compute runs on any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: backend)
        yield


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@given(h=SIZES, w=SIZES, k=st.sampled_from([1, 2, 3, 5]), stride=st.integers(1, 3), dilation=st.integers(1, 3))
@settings(max_examples=12)
def test_dense(backend, h, w, k, stride, dilation):
    padding = dilation * (k // 2)
    h, w = (max(size, dilation * (k - 1) + 1 - 2 * padding) for size in (h, w))
    function = partial(conv, stride=stride, dilation=dilation, padding=padding)
    with taken_for(backend):
        assert_same(function, by_definition(function), draw(2, h, w, 3), draw(k, k, 3, 4))


@given(h=SIZES, w=SIZES, dilation=st.integers(1, 4))
@settings(max_examples=8)
def test_winograd(h, w, dilation):
    """Through `conv`, which takes it where channels are many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv_module, "WINOGRAD_CHANNELS", 1)
        patch.setattr(conv_module, "winograd", forward := Recorder(winograd))
        patch.setattr(conv_module, "winograd_input_gradient", backward := Recorder(winograd_input_gradient))
        function = partial(conv, dilation=dilation, padding=dilation)
        assert_same(function, by_definition(function), draw(2, h, w, 3), draw(3, 3, 3, 4))
    assert (forward.count, backward.count) == (1, 1)


class Recorder:
    def __init__(self, function):
        self.function, self.count = function, 0

    def __call__(self, *args):
        self.count += 1
        return self.function(*args)


def test_winograd_keeps_float32():
    """Its rounding is a few times that of the definition, not orders of magnitude."""
    x, kernel = draw(1, 32, 32, 64), draw(3, 3, 64, 64)
    definition = by_definition(partial(conv, padding=1))
    exact = definition(x, kernel)
    errors = [
        np.abs(np.asarray(f(x.astype(np.float32), kernel.astype(np.float32)), np.float64) - exact).max()
        for f in (partial(winograd, dilation=1), definition)
    ]
    assert errors[0] < 6 * errors[1]
    assert errors[0] < 2e-6 * np.abs(exact).max()


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@given(h=SIZES, w=SIZES, size=st.sampled_from([(3, 3), (1, 5), (5, 1), (7, 3)]), dilation=st.integers(1, 3))
@settings(max_examples=8)
def test_depthwise(backend, h, w, size, dilation):
    function = partial(depthwise_conv, dilation=dilation, padding=tuple(dilation * (k // 2) for k in size))
    with taken_for(backend):
        assert_same(function, by_definition(function), draw(2, h, w, 3), draw(*size, 3))


@given(
    small=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    size=st.tuples(st.integers(1, 13), st.integers(1, 13)),
    k=st.sampled_from([1, 3]),
    dilation=st.integers(1, 2),
    align_corners=st.booleans(),
    mode=st.sampled_from(list(PADDING_MODES)),
)
@settings(max_examples=15)
def test_conv_of_resized(small, size, k, dilation, align_corners, mode):
    padding = dilation * (k // 2)
    if mode in ("reflect", "circular"):
        size = tuple(max(s, padding + 1) for s in size)
    spatial = dict(dilation=dilation, padding=padding, padding_mode=mode)

    def resized_first(x, y, kernel_x, kernel_y):
        return sum(
            conv(resize_bilinear(m, size, align_corners=align_corners), kernel, **spatial)
            for m, kernel in ((x, kernel_x), (y, kernel_y))
        )

    def shortcut(x, y, *kernels):
        return conv_of_resized([x, y], kernels, size, align_corners=align_corners, **spatial)

    operands = draw(2, *small, 3), draw(2, 1, 2, 4), draw(k, k, 3, 5), draw(k, k, 4, 5, seed=1)
    assert_same(shortcut, by_definition(resized_first), *operands)


@pytest.mark.parametrize("k", [1, 3])
def test_joined_maps_are_resized_and_concatenated(k):
    """One map of the size, one of another, one of the size again: the kernel's channels are in their order."""
    layer = Conv(9, 4, k, rng=np.random.default_rng(0), bias=True)
    maps = draw(2, 7, 5, 2), draw(2, 3, 2, 3), draw(2, 7, 5, 4)

    def joined(*maps):
        return layer.joined(list(maps), (7, 5), align_corners=False)

    def concatenated(*maps):
        return layer(jnp.concatenate([resize_bilinear(x, (7, 5), align_corners=False) for x in maps], -1))

    assert_same(joined, concatenated, *maps)
    assert_same(by_definition(joined), concatenated, *maps)


def test_product():
    assert_same(product, jnp.matmul, draw(2, 3, 5, 4), draw(4, 6))


def test_gelu():
    x = np.concatenate([np.linspace(-40, 40, 401), [0.0, -0.0, 1e-300]])
    assert_same(gelu, partial(jax.nn.gelu, approximate=False), x, atol=1e-15)


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm(groups):
    def definition(x, scale, bias):
        mean = x.mean((1, 2, 3), keepdims=True)
        var = jnp.square(x - mean).mean((1, 2, 3), keepdims=True)
        return (x - mean) / jnp.sqrt(var + 1e-3) * scale + bias

    operands = 3 + draw(groups, 2, 3, 5, 4), draw(4), draw(4, seed=1)
    assert_same(lambda *operands: batch_norm(*operands, 1e-3)[0], definition, *operands)


def test_statistics_of_batch_norm_are_the_batch_s_and_carry_no_gradient():
    x = draw(2, 3, 2, 2, 4)
    (_, mean, var), pull = jax.vjp(lambda x: batch_norm(x, np.ones(4), np.zeros(4), 1e-5), x)
    np.testing.assert_allclose(mean, x.mean((1, 2, 3)), atol=1e-14)
    np.testing.assert_allclose(var, x.var((1, 2, 3)), atol=1e-14)
    (dx,) = pull((jnp.zeros_like(x), jnp.ones_like(mean), jnp.ones_like(var)))
    assert not dx.any()


def test_layer_norm():
    def definition(x, scale, bias):
        x = x - x.mean(-1, keepdims=True)
        return x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5) * scale + bias

    operands = 3 + draw(2, 3, 5, 4), draw(4), draw(4, seed=1)
    assert_same(lambda *operands: layer_norm(*operands, 1e-5), definition, *operands)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["pspnet", "deeplabv3plus", "segformer", "segnext"])
def test_whole_networks(network, monkeypatch):
    """A training step's loss and gradients; every 3x3 convolution by Winograd's."""
    monkeypatch.setattr(conv_module, "WINOGRAD_CHANNELS", 1)
    config = tiny_config(network)
    graph, weights = split_model(build_model(config))
    weights = jax.tree.map(lambda x: x.astype(np.float64) + 0.01 * draw(*x.shape), weights)
    labels = np.random.default_rng(0).integers(0, 19, (2, 65, 65), np.uint8)
    keywords = dict(key=jax.random.key(0), objective=build_objective(config), auxiliary_weight=0.4)

    def loss(params):
        model = merge_model(graph, weights | {"params": params})
        return segmentation_loss(model, draw(2, 65, 65, 3), labels, **keywords)[0]

    assert_same(loss, by_definition(loss), weights["params"], atol=1e-9)
