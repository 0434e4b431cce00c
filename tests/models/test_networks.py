"""What holds for every network: one set of tests, run on each."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from cropjax.config import build_model, defaults
from cropjax.errors import UserError
from cropjax.losses.objective import Objective
from cropjax.models import mit, mscan
from cropjax.models.layers import BatchNorm, Conv, DepthwiseConv, GroupNorm, LayerNorm
from cropjax.step import merge_model, segmentation_loss, split_model

pytestmark = pytest.mark.usefixtures("quick_compile")

POOLED = {"pspnet": [f"head.pools.{i}" for i in range(4)], "deeplabv3plus": ["head.image_pool"]}
CNNS = pytest.mark.parametrize("network", POOLED)
# Strides of the four maps and of the logits, where a CNN's output stride is 8.
MAPS = {"pspnet": (4, 8, 8, 8), "deeplabv3plus": (4, 8, 8, 8), "segformer": (4, 8, 16, 32), "segnext": (4, 8, 16, 32)}
LOGITS = {"pspnet": 8, "deeplabv3plus": 4, "segformer": 4, "segnext": 8}
NETWORKS = pytest.mark.parametrize("network", MAPS)
# Upstream's, for 19 classes and with its widths of the heads.
FULL_SIZE = {
    "pspnet": {50: 48975494, 18: 12790086},
    "deeplabv3plus": {50: 43589878, 18: 12468962},
    "segformer": {"b0": 3720051, "b1": 13683155, "b2": 24728019, "b3": 44603859, "b4": 61374419, "b5": 81974739},
    "segnext": {"t": 4229747, "s": 13899219, "b": 27569107, "l": 48792275},
}
# What adds the same number everywhere, and a norm behind it takes it away again: rounding is all its gradient.
CANCELLED = {
    "segformer": r"backbone\.stages\.3\.norm\.bias",
    "segnext": r"backbone\.embeds\.\d\.\d\.conv\.bias|backbone\.norms\.3\.bias",
}
NARROW = {
    "segformer": dict(widths=(4, 8, 20, 32), depths=(1, 1, 1, 1)),
    "segnext": dict(widths=(4, 8, 12, 16), depths=(1, 1, 1, 1)),
}


def narrow(network, **model):
    """A config of the whole topology with a few channels."""
    config = defaults(network)
    config.model.backbone.update(NARROW.get(network, dict(depth=18, width=4)))
    config.model.head.channels = 32 if network == "segnext" else 8
    config.model.auxiliary.channels = 4
    config.model.update(model)
    return config


@pytest.fixture
def short_strips(monkeypatch):
    """MSCAN's strips of up to 21 taps are what takes its compilation long; test_mscan.py has them as they are."""
    monkeypatch.setattr(mscan, "STRIPS", (3,))


def modules(net, kind):
    return {".".join(map(str, path)): module for path, module in nnx.iter_modules(net) if isinstance(module, kind)}


def images(*shape):
    return np.random.default_rng(shape).standard_normal(shape, np.float32)


def shapes(config, n, h, w, train, dtype=np.float32):
    """The shapes of the output; nothing is computed. Evaluation has no key."""
    graph, weights = split_model(build_model(config))
    key = jax.random.key(0) if train else None
    return jax.eval_shape(
        lambda weights, x: merge_model(graph, weights)(x, train=train, key=key),
        weights,
        jax.ShapeDtypeStruct((n, h, w, 3), dtype),
    )


@NETWORKS
@given(n=st.integers(2, 3), h=st.integers(1, 600), w=st.integers(1, 1100), align_corners=st.booleans())
@settings(max_examples=5)
def test_output_shapes_at_any_size(network, n, h, w, align_corners):
    if network == "segformer":
        h, w = max(h, 29), max(w, 29)  # fewer make no keys
    config = narrow(network, align_corners=align_corners)
    config.loss.auxiliary_weight = 0.4

    def sizes(*strides):
        return [(n, -(-h // stride), -(-w // stride)) for stride in strides]

    for train in (False, True):
        output = shapes(config, n, h, w, train)
        assert [output.logits.shape] == [(*size, 19) for size in sizes(LOGITS[network])]
        assert [m.shape[:3] for m in output.maps] == sizes(*MAPS[network])
        assert tuple(m.shape[3] for m in output.maps) == build_model(config).backbone.channels
        if train:
            assert [output.auxiliary.shape] == [(*size, 19) for size in sizes(MAPS[network][2])]
        else:
            assert output.auxiliary is None


@pytest.mark.parametrize("backbone", [mit, mscan])
def test_every_block_of_a_transformer_gets_its_own_factors(backbone, monkeypatch):
    seen = []
    monkeypatch.setattr(
        backbone, "stochastic_depth", lambda x, rate, blocks, *, train, key: jnp.arange(2.0 * blocks).reshape(blocks, 2)
    )
    monkeypatch.setattr(backbone.Block, "__call__", lambda self, x, stay, *train: (seen.append(stay.tolist()), x)[1])
    config = narrow({mit: "segformer", mscan: "segnext"}[backbone])
    config.model.backbone.depths = (1, 2, 3, 1)
    build_model(config).backbone(images(2, 33, 47, 3), True)
    assert seen == [[2 * i, 2 * i + 1] for i in range(7)]


@NETWORKS
@pytest.mark.parametrize("train", [False, True])
def test_bfloat16_passes_through_every_layer(network, train):
    output = shapes(narrow(network), 2, 33, 47, train, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(output)} == {jnp.dtype(jnp.bfloat16)}


def full_size(network, size):
    config = defaults(network)
    match network, size:
        case "segformer", _:
            config.model.backbone.update(mit.SIZES[size])
        case "segnext", _:
            config.model.backbone.update(mscan.SIZES[size])
            config.model.head.channels = {"b": 512, "l": 1024}.get(size, 256)
        case _, 18:
            config.model.backbone.depth = 18
            config.model.head.channels = 128
            config.model.auxiliary.channels = 64
            if network == "deeplabv3plus":
                config.model.head.skip_channels = 12
    return config


class Zeros:
    """In place of a generator, where only shapes are asked for."""

    def standard_normal(self, shape, dtype):
        return np.zeros(shape, dtype)

    def uniform(self, low, high, shape):
        return np.zeros(shape)


@pytest.mark.parametrize(("network", "size"), [(network, size) for network in FULL_SIZE for size in FULL_SIZE[network]])
def test_published_networks_have_upstreams_number_of_parameters(network, size, monkeypatch):
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Zeros())
    params = jax.tree.leaves(split_model(build_model(full_size(network, size)))[1]["params"])
    assert sum(p.size for p in params) == FULL_SIZE[network][size]
    assert {p.dtype for p in params} == {np.dtype(np.float32)}


@NETWORKS
@pytest.mark.usefixtures("short_strips")
def test_one_training_step_reaches_every_parameter_and_statistic(network):
    config = narrow(network)
    if network == "segnext":
        config.model.head.train_steps = 1
    graph, weights = split_model(build_model(config))
    weights = jax.tree.map(jnp.asarray, weights)
    # Residual branches start at zero, and nothing in front of a zero has a gradient.
    weights["params"] = jax.tree.map(lambda p: jnp.where((p == 0).all(), 0.1, p), weights["params"])
    labels = np.random.default_rng(0).integers(0, 19, (3, 33, 47), np.uint8)

    @jax.jit
    def slope(weights, x):
        def loss(params):
            net = merge_model(graph, weights | {"params": params})
            total, _ = segmentation_loss(
                net, x, labels, key=jax.random.key(0), objective=Objective(align_corners=True), auxiliary_weight=0.4
            )
            return total, split_model(net)[1]["batch_stats"]

        return jax.value_and_grad(loss, has_aux=True)(weights["params"])

    (loss, stats), grads = slope(weights, images(3, 33, 47, 3))
    assert np.log(19) / 2 < loss < 3 * np.log(19)
    for keys, grad in jax.tree_util.tree_leaves_with_path(grads):
        path = jax.tree_util.keystr(keys, simple=True, separator=".")
        assert np.isfinite(grad).all(), path
        cancelled = re.fullmatch(CANCELLED.get(network, ""), path)
        assert (np.abs(grad).max() > 1e-8) == (not cancelled), path
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), stats, weights["batch_stats"])
    assert all(jax.tree.leaves(moved))


@NETWORKS
@pytest.mark.usefixtures("short_strips")
def test_evaluation_sees_each_image_alone_and_training_the_batch(network):
    config = narrow(network)
    config.model.head.dropout = config.model.auxiliary.dropout = 0.0
    graph, weights = split_model(build_model(config))

    @jax.jit
    def both(weights, x):
        net = merge_model(graph, weights)
        return net(x).logits, net(x, train=True, key=jax.random.key(0)).logits

    x = images(3, 41, 33, 3)
    other = np.concatenate([x[:1], x[1:] ** 2])
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
        sizes = [-(-40 // stride) for stride in MAPS[network]]
        maps = [images(1, size, size, c) for size, c in zip(sizes, net.backbone.channels, strict=True)]
        results.append(jax.jit(lambda w, m, g=graph: merge_model(g, w)(m, False, None))(weights, maps))
    assert results[0].shape == results[1].shape
    assert (results[0] != results[1]).any()


@CNNS
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


@CNNS
@pytest.mark.parametrize("align_corners", [False, True])
def test_a_pool_window_that_covers_the_image_changes_nothing(network, align_corners):
    """And one that does not changes what is pooled at test alone."""
    config = narrow(network, align_corners=align_corners)
    x = images(2, 65, 90, 3)
    results = {}
    for window in ((), (72, 96), (32, 48)):  # the map has 9 x 12 positions of 8 pixels
        config.eval.pool_window = window
        graph, weights = split_model(build_model(config))
        for train in (False, True):
            run = jax.jit(lambda w, x, g=graph, t=train: merge_model(g, w)(x, train=t, key=jax.random.key(0)).logits)
            results[window, train] = run(weights, x)
    largest = np.abs(results[(), False]).max()
    np.testing.assert_allclose(results[(72, 96), False], results[(), False], atol=1e-5 * largest)
    assert np.abs(results[(32, 48), False] - results[(), False]).max() > 1e-2 * largest
    for window in ((72, 96), (32, 48)):
        np.testing.assert_array_equal(results[window, True], results[(), True])


@CNNS
def test_config_fields_reach_the_layers_of_a_cnn(network):
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


@pytest.mark.parametrize("network", NARROW)
def test_config_fields_reach_the_layers_of_a_transformer(network):
    config = narrow(network, norm=dict(groups=2, momentum=0.7, eps=1e-3))
    config.model.backbone.update(depths=(1, 2, 3, 1), drop_path=0.2)
    config.model.head.dropout = 0.3
    if network == "segformer":
        config.model.backbone.update(mlp_ratio=3, norm_eps=1e-4)
    else:
        config.model.head.update(rank=5, train_steps=2, eval_steps=3)
    net = build_model(config)
    norms = modules(net, BatchNorm)
    assert {(norm.groups, norm.momentum, norm.eps) for norm in norms.values()} == {(2, 0.7, 1e-3)}
    assert all(norm.name == path for path, norm in norms.items())
    assert (net.backbone.drop_path, net.head.classifier.dropout) == (0.2, 0.3)
    if network == "segformer":
        assert tuple(len(stage.blocks) for stage in net.backbone.stages) == (1, 2, 3, 1)
        assert {norm.eps for norm in modules(net, LayerNorm).values()} == {1e-4}
        assert net.backbone.stages[1].blocks[1].ffn.expand.kernel.shape == (1, 1, 8, 24)
    else:
        assert tuple(map(len, net.backbone.blocks)) == (1, 2, 3, 1)
        assert (net.head.rank, net.head.train_steps, net.head.eval_steps) == (5, 2, 3)
        assert {norm.groups for norm in modules(net, GroupNorm).values()} == {32}


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
