"""What holds for every network: one set of tests, run on each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from cropjax.config import build_model, defaults
from cropjax.errors import UserError
from cropjax.models.layers import BatchNorm, Conv, DepthwiseConv
from cropjax.step import merge_model, segmentation_loss, split_model

pytestmark = pytest.mark.usefixtures("quick_compile")

POOLED = {"pspnet": [f"head.pools.{i}" for i in range(4)], "deeplabv3plus": ["head.image_pool"]}
# Stride of the logits where the output stride is 8.
STRIDES = {"pspnet": 8, "deeplabv3plus": 4}
NETWORKS = pytest.mark.parametrize("network", STRIDES)
FULL_SIZE = {("pspnet", 50): 48975494, ("pspnet", 18): 12790086, ("deeplabv3plus", 50): 43589878,
             ("deeplabv3plus", 18): 12468962}  # fmt: skip


def narrow(network, **model):
    """A config of the whole topology with a few channels."""
    config = defaults(network)
    config.model.backbone.update(depth=18, width=4)
    config.model.head.channels = 8
    config.model.auxiliary.channels = 4
    config.model.update(model)
    return config


def modules(net, kind):
    return {".".join(map(str, path)): module for path, module in nnx.iter_modules(net) if isinstance(module, kind)}


def images(*shape):
    return np.random.default_rng(shape).standard_normal(shape, np.float32)


def shapes(config, n, h, w, train):
    """The shapes of the output; nothing is computed."""
    graph, weights = split_model(build_model(config))
    return jax.eval_shape(
        lambda weights, x: merge_model(graph, weights)(x, train=train, key=jax.random.key(0)),
        weights,
        jax.ShapeDtypeStruct((n, h, w, 3), np.float32),
    )


@NETWORKS
@given(n=st.integers(2, 3), h=st.integers(1, 200), w=st.integers(1, 200), align_corners=st.booleans())
@settings(max_examples=5)
def test_output_shapes_at_any_size(network, n, h, w, align_corners):
    config, s = narrow(network, align_corners=align_corners), STRIDES[network]
    for train in (False, True):
        output = shapes(config, n, h, w, train)
        assert output.logits.shape == (n, -(-h // s), -(-w // s), 19)
        assert [m.shape[1] for m in output.maps] == [-(-h // 4)] + [-(-h // 8)] * 3
        if train:
            assert output.auxiliary.shape == (n, -(-h // 8), -(-w // 8), 19)
        else:
            assert output.auxiliary is None


@pytest.mark.parametrize(("network", "depth"), FULL_SIZE)
def test_published_networks_have_upstreams_number_of_parameters(network, depth):
    config = defaults(network)
    if depth == 18:
        config.model.backbone.depth = 18
        config.model.head.channels = 128
        config.model.auxiliary.channels = 64
        if network == "deeplabv3plus":
            config.model.head.skip_channels = 12
    params = jax.tree.leaves(split_model(build_model(config))[1]["params"])
    assert sum(p.size for p in params) == FULL_SIZE[network, depth]
    assert {p.dtype for p in params} == {np.dtype(np.float32)}


@NETWORKS
def test_one_training_step_reaches_every_parameter_and_statistic(network):
    config = narrow(network)
    graph, weights = split_model(build_model(config))
    weights = jax.tree.map(jnp.asarray, weights)
    # Residual branches start at zero, and nothing in front of a zero has a gradient.
    weights["params"] = jax.tree.map(lambda p: jnp.where((p == 0).all(), 0.1, p), weights["params"])
    labels = np.random.default_rng(0).integers(0, 19, (3, 41, 33), np.uint8)

    @jax.jit
    def slope(weights, x):
        def loss(params):
            net = merge_model(graph, weights | {"params": params})
            total, _ = segmentation_loss(
                net, x, labels, key=jax.random.key(0), align_corners=True, average="all", auxiliary_weight=0.4
            )
            return total, split_model(net)[1]["batch_stats"]

        return jax.value_and_grad(loss, has_aux=True)(weights["params"])

    (loss, stats), grads = slope(weights, images(3, 41, 33, 3))
    assert np.log(19) / 2 < loss < 3 * np.log(19)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all(), path
        assert np.any(grad), path
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), stats, weights["batch_stats"])
    assert all(jax.tree.leaves(moved))


@NETWORKS
def test_evaluation_sees_each_image_alone_and_training_the_batch(network):
    config = narrow(network)
    config.model.head.dropout = config.model.auxiliary.dropout = 0.0
    graph, weights = split_model(build_model(config))

    @jax.jit
    def both(weights, x):
        return tuple(merge_model(graph, weights)(x, train=train).logits for train in (False, True))

    x = images(3, 41, 33, 3)
    other = np.concatenate([x[:1], 5 * x[1:]])
    (evaluated, trained), (evaluated_other, trained_other) = both(weights, x), both(weights, other)
    assert evaluated.dtype == np.float32
    np.testing.assert_array_equal(evaluated[0], evaluated_other[0])
    assert not np.allclose(trained[0], trained_other[0], rtol=1e-3)


@NETWORKS
def test_align_corners_reaches_the_head(network):
    results = []
    for align_corners in (False, True):
        net = build_model(narrow(network, align_corners=align_corners))
        graph, weights = split_model(net.head)
        maps = [images(1, size, size, c) for size, c in zip((10, 5, 5, 5), net.backbone.channels, strict=True)]
        results.append(jax.jit(lambda w, m, g=graph: merge_model(g, w)(m, False, None))(weights, maps))
    assert results[0].shape == results[1].shape
    assert (results[0] != results[1]).any()


@NETWORKS
def test_pool_norm_off_is_a_bias_and_trains_on_one_image(network):
    config = narrow(network)
    pooled = POOLED[network]
    with pytest.raises(UserError, match=rf"^{pooled[0]}\.norm: .*--config\.model\.head\.pool_norm=False"):
        shapes(config, 1, 41, 33, train=True)

    config.model.head.pool_norm = False
    shapes(config, 1, 41, 33, train=True)
    net = build_model(config)
    with_bias = {path for path, module in modules(net, Conv).items() if module.bias is not None}
    assert with_bias == {f"{p}.conv" for p in pooled} | {"head.classifier.conv", "auxiliary.classifier.conv"}
    assert not any(path.startswith(tuple(pooled)) for path in modules(net, BatchNorm))


@NETWORKS
def test_config_fields_reach_the_layers(network):
    config = narrow(network, norm=dict(groups=2, momentum=0.7, eps=1e-3))
    config.model.backbone.padding_mode = "reflect"
    config.model.head.update(padding_mode="replicate", dropout=0.3)
    config.model.auxiliary.update(padding_mode="circular", dropout=0.2, convs=2, index=1)
    net = build_model(config)
    norms = modules(net, BatchNorm)
    assert {(norm.groups, norm.momentum, norm.eps) for norm in norms.values()} == {(2, 0.7, 1e-3)}
    assert all(norm.name == path for path, norm in norms.items())
    modes = {"backbone": "reflect", "head": "replicate", "auxiliary": "circular"}
    for path, layer in modules(net, (Conv, DepthwiseConv)).items():
        if layer.kernel.shape[:2] != (1, 1):
            assert layer.padding_mode == modes[path.split(".")[0]], path
    assert (net.head.classifier.dropout, net.auxiliary.classifier.dropout) == (0.3, 0.2)
    assert (len(net.auxiliary.convs), net.auxiliary.index) == (2, 1)


def test_head_fields_make_the_branches():
    config = narrow("pspnet")
    config.model.head.pool_scales = (1, 4)
    head = build_model(config).head
    assert head.pool_scales == (1, 4)
    assert head.bottleneck.conv.kernel.shape == (3, 3, 32 + 2 * 8, 8)

    config = narrow("deeplabv3plus")
    config.model.head.update(dilations=(1, 6, 5), skip_channels=7)
    head = build_model(config).head
    assert head.branches[0].conv.kernel.shape == (1, 1, 32, 8)
    assert [branch.depthwise.dilation for branch in head.branches[1:]] == [6, 5]
    assert head.bottleneck.conv.kernel.shape == (3, 3, 4 * 8, 8)
    assert head.refine[0].depthwise.kernel.shape == (3, 3, 8 + 7)


def test_without_its_loss_there_is_no_auxiliary_head():
    config = narrow("pspnet")
    config.loss.auxiliary_weight = 0.0
    assert build_model(config).auxiliary is None
    assert shapes(config, 2, 33, 33, train=True).auxiliary is None


@NETWORKS
def test_equal_seeds_build_equal_networks(network):
    config = narrow(network)
    first, again = (jax.tree.leaves(split_model(build_model(config))[1]) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    config.seed = 1
    other = jax.tree.leaves(split_model(build_model(config))[1])
    assert any((a != b).any() for a, b in zip(first, other, strict=True))
