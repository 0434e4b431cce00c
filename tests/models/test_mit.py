"""MiT: its attention against the definition in float64, what stochastic depth drops, and its stages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cropjax.errors import UserError
from cropjax.models import mit
from cropjax.models.layers import Conv, LayerNorm
from cropjax.models.mit import Block, MiT, ReducedAttention, Stage
from cropjax.step import merge_model, split_model

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")

EPS = 1e-6


def draw(*shape):
    return np.random.default_rng(shape).standard_normal(shape)


def rng():
    return np.random.default_rng(0)


def build(widths=(2, 4, 10, 16), depths=(1, 1, 1, 1), **args):
    return MiT(rng=rng(), widths=widths, depths=depths, **args)


def with_biases(module):
    """`module` with every parameter that starts at zero drawn."""
    graph, weights = split_model(module)
    params = jax.tree.map(lambda p: p if p.any() else draw(*p.shape), weights["params"])
    return merge_model(graph, weights | {"params": params})


# Attention -------------------------------------------------------------------------------------------------


def plain_attention(layer, x):
    """The layer's definition for one image [h,w,c]: loops over heads and cells."""
    h, w, c = x.shape
    r, d = layer.reduction, c // layer.heads
    (query, key, value), (query_bias, key_bias, value_bias) = (
        np.split(np.asarray(t), 3, axis=-1) for t in (layer.in_proj.kernel[...], layer.in_proj.bias[...])
    )
    small = x.reshape(-1, c)
    if r > 1:
        cells = [x[i : i + r, j : j + r] for i in range(0, h - r + 1, r) for j in range(0, w - r + 1, r)]
        small = np.einsum("nyxi,yxio->no", np.stack(cells), layer.reduce.kernel[...]) + layer.reduce.bias[...]
        small = (small - small.mean(-1, keepdims=True)) / np.sqrt(small.var(-1, keepdims=True) + EPS)
        small = small * layer.reduce_norm.scale[...] + layer.reduce_norm.bias[...]
    q, k, v = x.reshape(-1, c) @ query + query_bias, small @ key + key_bias, small @ value + value_bias
    heads = []
    for i in range(layer.heads):
        part = slice(i * d, (i + 1) * d)
        weights = np.exp(q[:, part] @ k[:, part].T / np.sqrt(d))
        heads.append(weights @ v[:, part] / weights.sum(-1, keepdims=True))
    y = np.concatenate(heads, -1) @ layer.out_proj.kernel[...] + layer.out_proj.bias[...]
    return y.reshape(h, w, c)


@pytest.mark.parametrize(("heads", "reduction"), [(1, 1), (2, 1), (1, 4), (2, 2), (3, 2)])
def test_attention_is_its_definition(heads, reduction):
    layer = with_biases(ReducedAttention(6, heads, reduction, rng=rng(), eps=EPS))
    x = draw(2, 5, 7, 6)
    expected = np.stack([plain_attention(layer, image) for image in x])
    np.testing.assert_allclose(jax.jit(layer.__call__)(x), expected, atol=1e-12)


@pytest.mark.parametrize(("heads", "reduction"), [(1, 1), (2, 4)])
def test_every_query_is_a_position_and_every_key_a_cell(heads, reduction):
    layer = with_biases(ReducedAttention(6, heads, reduction, rng=rng(), eps=EPS))
    x = draw(2, 5, 9, 6)
    query, key, value = layer.queries_keys_values(x)
    assert query.shape == (2, 5, 9, heads, 6 // heads)
    assert key.shape == value.shape == (2, (5 // reduction) * (9 // reduction), heads, 6 // heads)
    moved = x.copy()
    moved[:, 1, 7] += 1.0
    changed = [
        np.abs(a - b).max((0, -2, -1)) > 0 for a, b in zip(layer.queries_keys_values(moved), (query, key), strict=False)
    ]
    assert np.flatnonzero(changed[0]).tolist() == [1 * 9 + 7]
    assert np.flatnonzero(changed[1]).tolist() == [1 // reduction * (9 // reduction) + 7 // reduction]


def test_rows_and_columns_that_fill_no_cell_are_no_keys():
    layer = with_biases(ReducedAttention(4, 2, 2, rng=rng(), eps=EPS))
    x = draw(1, 5, 7, 4)
    other = x.copy()
    other[:, 4:], other[:, :, 6:] = 9.0, -9.0
    y, changed = layer(x), layer(other)
    np.testing.assert_allclose(changed[:, :4, :6], y[:, :4, :6], atol=1e-12)  # the other queries
    assert not np.allclose(changed[:, 4], y[:, 4])
    other = x.copy()
    other[:, 3, 5] = 9.0
    assert not np.allclose(layer(other)[:, :3, :5], y[:, :3, :5])


def test_a_map_without_a_whole_cell_is_refused():
    layer = ReducedAttention(4, 2, 8, rng=rng(), eps=EPS)
    assert layer(draw(1, 8, 20, 4)).shape == (1, 8, 20, 4)
    with pytest.raises(UserError, match="7x20 is smaller than the cells of 8x8"):
        layer(draw(1, 7, 20, 4))


def test_projections_start_as_upstreams():
    layer = ReducedAttention(64, 1, 2, rng=rng(), eps=EPS)
    kernel, bound = np.asarray(layer.in_proj.kernel[...]), np.sqrt(6 / (64 + 192))  # xavier_uniform_ of all three
    assert np.abs(kernel).max() == pytest.approx(bound, rel=1e-3)
    assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.02)
    assert np.std(layer.out_proj.kernel[...]) == pytest.approx(0.02, rel=0.05)
    kernels = (layer.in_proj.kernel, layer.out_proj.kernel, layer.reduce.kernel)
    assert {kernel.dtype for kernel in kernels} == {jnp.dtype(jnp.float32)}


# Stochastic depth ------------------------------------------------------------------------------------------


def test_a_dropped_branch_leaves_its_image_as_it_was():
    block = Block(4, 2, 2, rng=rng(), mlp_ratio=2, eps=EPS)
    x = draw(2, 4, 5, 4)
    factors = jnp.array([[0.0, 2], [0, 4]]).reshape(2, 2, 1, 1, 1)  # of the attention, and of the feed-forward network
    y = jax.jit(block.__call__)(x, factors)
    np.testing.assert_array_equal(y[0], x[0])
    attended = x + 2 * block.attention(block.norm1(x))
    np.testing.assert_allclose(y[1], (attended + 4 * block.ffn(block.norm2(attended)))[1], atol=1e-12)


# Form ------------------------------------------------------------------------------------------------------


@given(h=st.integers(29, 60), w=st.integers(29, 60))
@example(h=33, w=47)
@settings(max_examples=2)
def test_gradients_are_finite_at_any_size(h, w):
    graph, weights = split_model(Stage(3, 2, 1, 7, 4, 1, 8, rng=rng(), mlp_ratio=2, eps=EPS))

    @jax.jit
    def slopes(params, x):
        factors = jnp.ones((1, 2, 1, 1, 1, 1))
        return jax.grad(lambda p, x: jnp.sin(merge_model(graph, {**weights, "params": p})(x, factors)).sum(), (0, 1))(
            params, x
        )

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes(weights["params"], draw(1, h, w, 3))))


@pytest.mark.parametrize("size", ["b0", "b3"])
def test_stages_are_the_papers(size):
    net = nnx.eval_shape(lambda: MiT(rng=rng(), **mit.SIZES[size]))
    assert tuple(len(stage.blocks) for stage in net.stages) == {"b0": (2, 2, 2, 2), "b3": (3, 4, 18, 3)}[size]
    embeds = [(stage.embed.kernel.shape[0], stage.embed.stride, stage.embed.padding) for stage in net.stages]
    assert embeds == [(7, 4, 3), (3, 2, 1), (3, 2, 1), (3, 2, 1)]
    for stage, heads, reduction in zip(net.stages, (1, 2, 5, 8), (8, 4, 2, 1), strict=True):
        for block in stage.blocks:
            c = block.norm1.scale.size
            assert block.attention.heads == heads
            assert c // heads == {"b0": 32, "b3": 64}[size]
            assert block.ffn.expand.kernel.shape == (1, 1, c, 4 * c)
            reduce = getattr(block.attention, "reduce", None)
            assert (reduce.kernel.shape[0] if reduce else 1) == (reduce.stride if reduce else 1) == reduction
    assert all(layer.bias is not None for _, layer in nnx.iter_modules(net) if isinstance(layer, Conv))


def test_norm_eps_reaches_every_norm():
    norms = [layer for _, layer in nnx.iter_modules(build(norm_eps=0.5)) if isinstance(layer, LayerNorm)]
    assert {norm.eps for norm in norms} == {0.5}
    assert len(norms) == 4 * (2 + 2) + 3  # embedding, two in the block, stage; three reductions
