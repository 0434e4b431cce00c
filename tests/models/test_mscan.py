"""MSCAN: its attention against full kernels in float64, what stochastic depth drops, and its stages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cropjax.models import mscan
from cropjax.models.layers import BatchNorm
from cropjax.models.mscan import MSCAN, Block, StripAttention
from cropjax.ops.depthwise import depthwise_conv
from cropjax.ops.gelu import gelu
from cropjax.step import merge_model, split_model

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")


def draw(*shape):
    return np.random.default_rng(shape).standard_normal(shape)


def rng():
    return np.random.default_rng(0)


def build(widths=(2, 4, 6, 8), depths=(1, 1, 1, 1), **args):
    return MSCAN(rng=rng(), norm=BatchNorm, widths=widths, depths=depths, **args)


# Attention -------------------------------------------------------------------------------------------------


def test_pairs_of_strips_are_full_kernels_of_rank_one():
    layer = StripAttention(3, rng=rng())
    x = draw(2, 9, 12, 3)  # both sides below 21
    values = gelu(x @ layer.proj1.kernel[0, 0])
    seen = depthwise_conv(values, layer.conv0.kernel[...], padding=(2, 2))
    mixed = seen
    for k, (row, column) in zip((7, 11, 21), layer.strips, strict=True):
        assert (row.kernel.shape, column.kernel.shape) == ((1, k, 3), (k, 1, 3))
        kernel = column.kernel[...].astype(float) * row.kernel[...]
        mixed = mixed + depthwise_conv(seen, kernel, padding=(k // 2, k // 2))
    expected = (values * (mixed @ layer.mix.kernel[0, 0])) @ layer.proj2.kernel[0, 0] + x
    np.testing.assert_allclose(jax.jit(layer.__call__)(x), expected, atol=1e-12)


def test_every_convolution_of_the_attention_has_a_bias_that_counts():
    layer = StripAttention(2, rng=rng())
    graph, weights = split_model(layer)
    x = draw(1, 5, 6, 2)
    slopes = jax.jit(jax.grad(lambda p: jnp.sin(merge_model(graph, {**weights, "params": p})(x)).sum()))(
        weights["params"]
    )
    found = {jax.tree_util.keystr(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(slopes)}
    biases = {name: leaf for name, leaf in found.items() if name.endswith("['bias']")}
    assert len(biases) == 1 + 1 + 6 + 1 + 1
    assert all(np.abs(leaf).min() > 1e-6 for leaf in biases.values())


# Blocks and stochastic depth -------------------------------------------------------------------------------


def test_a_block_has_two_scaled_branches_and_drops_them_by_image():
    block = Block(3, 6, rng=rng(), norm=BatchNorm)
    for scale in (block.scale1, block.scale2):
        np.testing.assert_array_equal(scale[...], np.full(3, 1e-2, np.float32))
    block.scale1[...], block.scale2[...] = np.array([1.0, 0, 3]), np.array([0.5, 0, 0])
    x = draw(2, 4, 5, 3)
    factors = jnp.stack([jnp.array([0.0, 2]), jnp.array([0.0, 4])]).reshape(2, 2, 1, 1, 1)
    y = jax.jit(lambda x, stay: block(x, stay, False))(x, factors)
    np.testing.assert_array_equal(y[0], x[0])
    np.testing.assert_array_equal(y[..., 1], x[..., 1])
    attended = x + 2 * block.scale1[...] * block.attention(block.norm1(x, False))
    expected = attended + 4 * block.scale2[...] * block.ffn(block.norm2(attended, False))
    np.testing.assert_allclose(y[1], expected[1], atol=1e-12)


# Form ------------------------------------------------------------------------------------------------------


@given(h=st.integers(1, 25), w=st.integers(1, 25))
@example(h=2, w=3)
@settings(max_examples=2)
def test_gradients_are_finite_on_maps_smaller_than_a_strip(h, w):
    graph, weights = split_model(Block(2, 4, rng=rng(), norm=BatchNorm))

    @jax.jit
    def slopes(params, x):
        def total(params, x):
            block = merge_model(graph, {**weights, "params": params})
            return jnp.sin(block(x, jnp.ones((2, 2, 1, 1, 1)), True)).sum()

        return jax.grad(total, (0, 1))(params, x)

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes(weights["params"], draw(2, h, w, 2))))


def test_the_stem_is_two_convolutions_with_a_gelu_between():
    net = build()
    x = draw(2, 9, 11, 3)
    first, second = net.embeds[0]
    assert (first.conv.kernel.shape, second.conv.kernel.shape) == ((3, 3, 3, 1), (3, 3, 1, 2))
    net.blocks = nnx.List(nnx.List() for _ in range(4))
    y = net(x, False)[0]
    expected = net.norms[0](second.norm(second.conv(gelu(first.norm(first.conv(x), False))), False))
    np.testing.assert_allclose(y, expected, atol=1e-12)


@pytest.mark.parametrize("size", ["t", "b"])
def test_stages_are_the_papers(size):
    args = dict(mscan.SIZES[size])
    net = nnx.eval_shape(lambda: MSCAN(rng=rng(), norm=BatchNorm, **args))
    assert tuple(map(len, net.blocks)) == {"t": (3, 3, 5, 2), "b": (3, 3, 12, 3)}[size]
    for blocks, c, ratio in zip(net.blocks, net.channels, (8, 8, 4, 4), strict=True):
        assert {block.ffn.expand.kernel.shape for block in blocks} == {(1, 1, c, ratio * c)}
    assert [[layer.conv.stride for layer in embed] for embed in net.embeds] == [[2, 2], [2], [2], [2]]
    assert {norm.eps for norm in net.norms} == {1e-5}
