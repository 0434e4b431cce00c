"""Layers against their definitions; the arithmetic in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cropjax.errors import UserError
from cropjax.models.layers import (
    BatchNorm,
    Classifier,
    Conv,
    ConvNorm,
    DepthwiseConv,
    GroupNorm,
    LayerNorm,
    Linear,
    MixFFN,
    SeparableConvNorm,
    grouped_depthwise_conv,
    name_norms,
    stochastic_depth,
)
from cropjax.ops.conv import conv
from cropjax.ops.depthwise import depthwise_conv
from cropjax.step import merge_model, split_model

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")

EPS = 1e-5


def rng():
    return np.random.default_rng(0)


def draw(*shape):
    return np.random.default_rng(shape).standard_normal(shape)


def run(module, x, *args):
    """One jitted call: the result, and the weights behind it as a pure dict."""
    graph, weights = split_model(module)

    @jax.jit
    def call(weights, x):
        module = merge_model(graph, weights)
        y = module(x, *args)
        return y, split_model(module)[1]

    return call(weights, x)


def plain_norm(x, scale, bias, eps=EPS):
    mean = x.mean((0, 1, 2))
    var = ((x - mean) ** 2).mean((0, 1, 2))
    return (x - mean) / jnp.sqrt(var + eps) * scale + bias


# Batch normalisation ---------------------------------------------------------------------------------------


def batch_norm(c=3, **args):
    norm = BatchNorm(c, **args)
    norm.scale[...], norm.bias[...] = 1 + 0.1 * draw(c), draw(c)
    return norm


@given(
    groups=st.integers(1, 3), per_group=st.integers(1, 3), h=st.integers(1, 4), w=st.integers(1, 4),
    momentum=st.sampled_from([0.9, 0.5]),
)  # fmt: skip
@settings(max_examples=8)
def test_groups_are_separate_norms_and_running_statistics_their_mean(groups, per_group, h, w, momentum):
    count = per_group * h * w
    assume(count > 1)
    x = draw(groups * per_group, h, w, 3) * 2 + 5
    norm = batch_norm(groups=groups, momentum=momentum)
    scale, bias = np.asarray(norm.scale[...]), np.asarray(norm.bias[...])
    y, weights = run(norm, x, True)

    parts = np.split(x, groups)
    np.testing.assert_allclose(y, np.concatenate([plain_norm(part, scale, bias) for part in parts]), atol=1e-12)
    mean = np.mean([part.mean((0, 1, 2)) for part in parts], 0)
    var = np.mean([part.var((0, 1, 2), ddof=1) for part in parts], 0)
    stats = weights["batch_stats"]
    np.testing.assert_allclose(stats["mean"], (1 - momentum) * mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats["var"], momentum + (1 - momentum) * var, rtol=1e-5, atol=1e-6)


def test_evaluation_uses_the_running_statistics_and_leaves_them():
    norm = batch_norm(eps=1e-3)
    norm.mean[...], norm.var[...] = np.array([1.0, 2, 3]), np.array([4.0, 0.25, 1])
    x = draw(2, 4, 5, 3)
    y, weights = run(norm, x, False)
    expected = (x - [1, 2, 3]) / np.sqrt(np.array([4, 0.25, 1]) + 1e-3) * norm.scale[...] + norm.bias[...]
    np.testing.assert_allclose(y, expected, atol=1e-12)
    np.testing.assert_array_equal(weights["batch_stats"]["mean"], [1, 2, 3])
    np.testing.assert_array_equal(weights["batch_stats"]["var"], [4, 0.25, 1])


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_are_those_of_the_definition(groups):
    x = draw(4, 3, 2, 3)
    graph, weights = split_model(batch_norm(groups=groups))

    def ours(params, x):
        return merge_model(graph, weights | {"params": params})(x, True)

    def plain(params, x):
        return jnp.concatenate([plain_norm(part, params["scale"], params["bias"]) for part in jnp.split(x, groups)])

    weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), weights)
    slopes = [jax.jit(jax.grad(lambda *a, f=f: jnp.sin(f(*a)).sum(), (0, 1))) for f in (ours, plain)]
    got, expected = (slope(weights["params"], x) for slope in slopes)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), got, expected)


def test_float32_survives_a_mean_far_above_the_deviation():
    x = (1000 + 1e-3 * draw(2, 65, 65, 3)).astype(np.float32)
    norm = BatchNorm(3, momentum=0.0)
    wide = x.astype(np.float64)
    y, weights = run(norm, x, True)
    assert y.dtype == jnp.float32
    # One-pass float32, E[x^2] - E[x]^2, is off by about 0.06 where the variance is 1e-6.
    np.testing.assert_allclose(weights["batch_stats"]["var"], wide.var((0, 1, 2), ddof=1), rtol=1e-2)
    np.testing.assert_allclose(y, plain_norm(wide, 1, 0), atol=1e-2)


def test_bfloat16_is_normalised_in_float32():
    x = jnp.asarray(draw(2, 8, 9, 3) + 3, jnp.bfloat16)
    y, weights = run(BatchNorm(3, momentum=0.0), x, True)
    assert y.dtype == jnp.bfloat16
    assert weights["batch_stats"]["var"].dtype == jnp.float32
    wide = np.asarray(x, np.float64)
    np.testing.assert_allclose(weights["batch_stats"]["mean"], wide.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(weights["batch_stats"]["var"], wide.var((0, 1, 2), ddof=1), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(y, np.float64), plain_norm(wide, 1, 0), rtol=2**-8, atol=1e-5)


def test_training_does_not_depend_on_the_running_statistics():
    norm, x = batch_norm(), draw(2, 3, 3, 3)
    y, _ = run(norm, x, True)
    norm.mean[...], norm.var[...] = np.full(3, 7.0), np.full(3, 9.0)
    np.testing.assert_array_equal(run(norm, x, True)[0], y)


@pytest.mark.parametrize(("n", "groups"), [(1, 1), (2, 2)])
def test_one_value_a_channel_names_the_layer_and_the_mend(n, groups):
    layer = ConvNorm(2, 4, 1, rng=rng(), norm=lambda c, scale: BatchNorm(c, groups=groups, scale=scale))
    name_norms(layer)
    with pytest.raises(UserError, match=r"^norm: .*one value.*train\.batch_size.*data\.crop_size") as error:
        layer(draw(n, 1, 1, 2), True)
    assert "\n" not in str(error.value)
    layer(draw(n, 1, 1, 2), False)  # evaluation needs no batch


def test_groups_that_do_not_divide_the_batch_are_an_error():
    with pytest.raises(UserError, match=r"model\.norm\.groups = 2 does not divide the batch of 3"):
        BatchNorm(3, groups=2)(draw(3, 2, 2, 3), True)


# Norms of one position, and of one image -------------------------------------------------------------------


def with_weights(norm):
    """`norm` with a scale and a bias that show."""
    c = norm.scale.shape[0]
    norm.scale[...], norm.bias[...] = 1 + 0.1 * draw(c), draw(c)
    return norm


def standard(x, axes, eps):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_layer_norm_standardises_each_position(eps):
    x = draw(2, 3, 4, 6) * 2 + 5
    norm = with_weights(LayerNorm(6, eps=eps))
    y, _ = run(norm, x)
    np.testing.assert_allclose(y, standard(x, -1, eps) * norm.scale[...] + norm.bias[...], atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm_standardises_each_image_and_group_of_neighbouring_channels(groups):
    x = draw(2, 3, 4, 6) * 2 + 5
    norm = with_weights(GroupNorm(6, groups=groups, eps=1e-3))
    parts = [standard(part, (1, 2, 3), 1e-3) for part in np.split(x, groups, axis=-1)]
    expected = np.concatenate(parts, -1) * norm.scale[...] + norm.bias[...]
    for train in (False, True):
        np.testing.assert_allclose(run(norm, x, train)[0], expected, atol=1e-12)


@pytest.mark.parametrize(
    ("norm", "args", "axes"),
    [(LayerNorm(64, eps=1e-6), (), -1), (GroupNorm(64, groups=1), (True,), (1, 2, 3))],
    ids=["layer", "group"],
)
def test_other_norms_take_bfloat16_and_compute_in_float32(norm, args, axes):
    x = jnp.asarray(draw(2, 3, 4, 64) + 100, jnp.bfloat16)
    y, weights = run(norm, x, *args)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(weights)} == {jnp.dtype(jnp.float32)}
    exact = standard(np.asarray(x, np.float64), axes, norm.eps)
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, rtol=2**-8, atol=1e-4)  # one rounding, at the end


# Dropout and the classifier --------------------------------------------------------------------------------


def transparent_classifier(c, dropout):
    """A classifier whose convolution changes nothing, so that dropout is what one sees."""
    layer = Classifier(c, c, rng=rng(), dropout=dropout)
    layer.conv.kernel[...] = np.eye(c, dtype=np.float32)[None, None]
    return layer


def test_dropout_takes_whole_channels_and_keeps_the_mean():
    x = np.ones((64, 2, 3, 256))
    y, _ = run(transparent_classifier(256, 0.25), x, True, jax.random.key(0))
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1, :1], x.shape))
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.75])
    share = np.asarray(y[:, 0, 0] == 0)
    assert share.mean() == pytest.approx(0.25, abs=0.02)  # 16384 draws: 0.0034 is one deviation
    assert y.mean() == pytest.approx(1, abs=0.03)
    assert len(np.unique(share, axis=0)) == 64  # every image has channels of its own


def test_dropout_follows_its_key():
    layer, x = transparent_classifier(64, 0.5), np.ones((1, 1, 1, 64))
    first, again, other = (run(layer, x, True, jax.random.key(seed))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_dropout_is_off_in_evaluation_and_at_rate_zero():
    x = draw(2, 3, 3, 8)
    np.testing.assert_allclose(transparent_classifier(8, 0.5)(x, False, None), x, atol=1e-12)
    np.testing.assert_allclose(transparent_classifier(8, 0.0)(x, True, None), x, atol=1e-12)


def test_dropout_without_a_key_is_an_error():
    with pytest.raises(TypeError):
        transparent_classifier(8, 0.5)(draw(2, 3, 3, 8), True, None)


# Stochastic depth ------------------------------------------------------------------------------------------


def test_stochastic_depth_drops_branches_at_rates_that_grow_and_keeps_the_mean():
    images, rate = 4096, 0.4
    factors = stochastic_depth(np.ones((images, 2, 3, 4)), rate, 5, train=True, key=jax.random.key(0))
    assert factors.shape == (5, 2, images, 1, 1, 1)  # one a branch and image, for all its positions and channels
    np.testing.assert_array_equal(factors[0], 1)
    for block, branches in enumerate(factors):
        dropped = rate * block / 4
        for branch in branches:
            deviation = np.sqrt(dropped * (1 - dropped) / images)
            assert np.mean(branch == 0) == pytest.approx(dropped, abs=5 * deviation)
            np.testing.assert_allclose(branch[branch != 0], 1 / (1 - dropped), rtol=1e-6)
            assert branch.mean() == pytest.approx(1, abs=5 * deviation / (1 - dropped))


def test_stochastic_depth_draws_for_every_block_branch_and_image_and_follows_its_key():
    def draws(seed):
        factors = stochastic_depth(np.ones((64, 1, 1, 1)), 0.5, 3, train=True, key=jax.random.key(seed))
        return np.asarray(factors[1:] == 0).reshape(4, 64)

    np.testing.assert_array_equal(draws(0), draws(0))
    assert (draws(0) != draws(1)).any()
    assert len(np.unique(draws(0), axis=0)) == 4  # no two branches share their images


@pytest.mark.parametrize(("train", "rate"), [(False, 0.5), (True, 0.0)], ids=["evaluation", "rate-zero"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_stochastic_depth_is_off_in_evaluation_and_at_rate_zero(train, rate, dtype):
    factors = stochastic_depth(jnp.ones((2, 1, 1, 1), dtype), rate, 3, train=train, key=None)
    assert factors.dtype == dtype
    np.testing.assert_array_equal(factors, np.ones((3, 2, 2, 1, 1, 1)))


def test_stochastic_depth_has_the_type_of_the_map_and_spares_a_lone_block():
    x = jnp.ones((64, 1, 1, 1), jnp.bfloat16)
    factors = stochastic_depth(x, 0.9, 1, train=True, key=jax.random.key(0))
    assert factors.dtype == jnp.bfloat16
    np.testing.assert_array_equal(factors, 1)


# What the layers are made of -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "std"),
    [
        (Conv(8, 96, 3, rng=rng()), np.sqrt(2 / (9 * 96))),
        (Conv(96, 64, 1, rng=rng()), np.sqrt(2 / 64)),
        (DepthwiseConv(1024, 3, rng=rng()), np.sqrt(2 / (9 * 1024))),  # torch's fan_out ignores the groups
        (grouped_depthwise_conv(1024, 3, rng=rng()), np.sqrt(2 / 9)),
        (grouped_depthwise_conv(1024, (1, 7), rng=rng()), np.sqrt(2 / 7)),
        (Classifier(512, 19, rng=rng(), dropout=0.1).conv, 0.01),
    ],
    ids=["3x3", "1x1", "depthwise", "grouped", "strip", "classifier"],
)
def test_kernels_start_as_torchs(layer, std):
    kernel = np.asarray(layer.kernel[...])
    assert kernel.dtype == np.float32
    assert kernel.std() == pytest.approx(std, rel=0.05)
    assert abs(kernel.mean()) < 5 * std / np.sqrt(kernel.size)


def test_layers_draw_different_numbers_and_equal_seeds_equal_ones():
    generator = rng()
    first, second = (Conv(3, 4, 3, rng=generator).kernel[...] for _ in range(2))
    assert (first != second).any()
    np.testing.assert_array_equal(first, Conv(3, 4, 3, rng=rng()).kernel[...])


def test_conv_norm_has_a_norm_or_a_bias():
    x = draw(2, 5, 6, 3)
    plain = ConvNorm(3, 4, 3, rng=rng(), norm=None, dilation=2, padding_mode="reflect")
    plain.conv.bias[...] = np.arange(4.0)
    y = conv(x, plain.conv.kernel[...], dilation=2, padding=2, padding_mode="reflect") + np.arange(4.0)
    np.testing.assert_allclose(plain(x, True), jax.nn.relu(y), atol=1e-12)
    plain.relu = False
    np.testing.assert_allclose(plain(x, True), y, atol=1e-12)

    normed = ConvNorm(3, 4, 3, rng=rng(), norm=BatchNorm, stride=2)
    assert normed.conv.bias is None
    y = plain_norm(conv(x, normed.conv.kernel[...], stride=2, padding=1), 1, 0)
    np.testing.assert_allclose(normed(x, True), jax.nn.relu(y), atol=1e-12)


def test_separable_conv_is_depthwise_norm_relu_pointwise_norm_relu():
    x = draw(2, 5, 6, 3)
    layer = SeparableConvNorm(3, 4, rng=rng(), norm=BatchNorm, dilation=3, padding_mode="circular")
    kernel = layer.depthwise.kernel[...]
    y = depthwise_conv(x, kernel, dilation=3, padding=(3, 3), padding_mode="circular")
    y = jax.nn.relu(plain_norm(y, 1, 0))
    y = jax.nn.relu(plain_norm(y @ layer.pointwise.conv.kernel[0, 0], 1, 0))
    np.testing.assert_allclose(run(layer, x, True)[0], y, atol=1e-12)


def test_linear_is_a_product_and_a_bias():
    layer = Linear(draw(3, 4).astype(np.float32))
    layer.bias[...] = np.arange(4.0)
    x = draw(2, 5, 3)
    np.testing.assert_allclose(layer(x), np.einsum("npi,io->npo", x, layer.kernel[...]) + np.arange(4.0), atol=1e-12)


def test_mix_ffn_is_1x1_depthwise_gelu_1x1():
    x = draw(2, 5, 6, 3)
    layer = MixFFN(3, 7, rng=rng())
    for i, part in enumerate((layer.expand, layer.depthwise, layer.project)):
        part.bias[...] = draw(*part.bias.shape) + i
    y = x @ layer.expand.kernel[0, 0] + layer.expand.bias[...]
    y = depthwise_conv(y, layer.depthwise.kernel[...], padding=(1, 1)) + layer.depthwise.bias[...]
    y = y * (1 + np.vectorize(math.erf)(y / np.sqrt(2))) / 2
    y = y @ layer.project.kernel[0, 0] + layer.project.bias[...]
    np.testing.assert_allclose(run(layer, x)[0], y, atol=1e-12)


def test_bfloat16_passes_through_layers_of_float32_parameters():
    layer = SeparableConvNorm(3, 4, rng=rng(), norm=BatchNorm)
    y, weights = run(layer, jnp.asarray(draw(2, 5, 6, 3), jnp.bfloat16), True)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(weights)} == {jnp.dtype(jnp.float32)}


def test_norms_are_named_by_their_path():
    layer = nnx.List([SeparableConvNorm(3, 4, rng=rng(), norm=BatchNorm)])
    name_norms(layer)
    assert layer[0].depthwise_norm.name == "0.depthwise_norm"
    assert layer[0].pointwise.norm.name == "0.pointwise.norm"
