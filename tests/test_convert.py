"""Weights to upstream's names and back, and every way in which a file can be the wrong one."""

import jax
import numpy as np
import pytest

from cropjax.config import build_model, defaults
from cropjax.convert import from_upstream, load_torch_state, to_upstream, upstream_name
from cropjax.errors import UserError
from cropjax.step import split_model

# Entries of the published files without BatchNorm's counters.
ENTRIES = {("pspnet", 50): 309, ("pspnet", 18): 144, ("deeplabv3plus", 50): 354, ("deeplabv3plus", 18): 189}
NETWORKS = pytest.mark.parametrize("network", ["pspnet", "deeplabv3plus"])


def weights(network, depth=18, seed=0):
    """A narrow network's, with statistics and scales that tell every leaf from the others."""
    config = defaults(network)
    config.seed = seed
    config.model.backbone.update(depth=depth, width=2)
    config.model.head.channels = 4
    config.model.auxiliary.channels = 2
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape, x.dtype), split_model(build_model(config))[1])


def paths(tree):
    return {
        jax.tree_util.keystr(keys[1:], simple=True, separator="."): leaf
        for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def exported(tree):
    """As torch would save it."""
    return {upstream_name(path): to_upstream(path, leaf) for path, leaf in paths(tree).items()}


def assert_equal(got, expected):
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize(("network", "depth"), ENTRIES)
def test_there_and_back_is_the_identity(network, depth):
    tree = weights(network, depth)
    state_dict = exported(tree)
    assert len(state_dict) == len(paths(tree)) == ENTRIES[network, depth]  # so every name is unique
    state_dict |= {"backbone.stem.1.num_batches_tracked": np.int64(7)}
    filled = load_torch_state(weights(network, depth, seed=1), state_dict)
    assert_equal(filled, tree)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("backbone.stem.0.conv.kernel", "backbone.stem.0.weight"),
        ("backbone.stem.2.norm.var", "backbone.stem.7.running_var"),
        ("backbone.stages.3.1.conv2.conv.kernel", "backbone.layer4.1.conv2.weight"),
        ("backbone.stages.0.2.conv3.norm.scale", "backbone.layer1.2.bn3.weight"),
        ("backbone.stages.1.0.downsample.conv.kernel", "backbone.layer2.0.downsample.0.weight"),
        ("backbone.stages.1.0.downsample.norm.mean", "backbone.layer2.0.downsample.1.running_mean"),
        ("head.classifier.conv.bias", "decode_head.conv_seg.bias"),
        ("head.pools.3.conv.kernel", "decode_head.psp_modules.3.1.conv.weight"),
        ("head.pools.0.norm.bias", "decode_head.psp_modules.0.1.bn.bias"),
        ("head.bottleneck.norm.mean", "decode_head.bottleneck.bn.running_mean"),
        ("head.image_pool.conv.kernel", "decode_head.image_pool.1.conv.weight"),
        ("head.branches.0.conv.kernel", "decode_head.aspp_modules.0.conv.weight"),
        ("head.branches.2.depthwise.kernel", "decode_head.aspp_modules.2.depthwise_conv.conv.weight"),
        ("head.branches.2.depthwise_norm.var", "decode_head.aspp_modules.2.depthwise_conv.bn.running_var"),
        ("head.branches.3.pointwise.norm.scale", "decode_head.aspp_modules.3.pointwise_conv.bn.weight"),
        ("head.skip.conv.kernel", "decode_head.c1_bottleneck.conv.weight"),
        ("head.refine.1.pointwise.conv.kernel", "decode_head.sep_bottleneck.1.pointwise_conv.conv.weight"),
        ("auxiliary.convs.0.norm.bias", "auxiliary_head.convs.0.bn.bias"),
        ("auxiliary.classifier.conv.kernel", "auxiliary_head.conv_seg.weight"),
    ],
)
def test_names_are_upstreams(path, key):
    assert upstream_name(path) == key


def test_layouts_are_torchs():
    dense, depthwise = (np.random.default_rng(0).standard_normal(shape) for shape in [(3, 5, 2, 4), (3, 5, 4)])
    there = to_upstream("head.bottleneck.conv.kernel", dense)
    assert there.shape == (4, 2, 3, 5)
    assert there[3, 1, 2, 4] == dense[2, 4, 1, 3]
    np.testing.assert_array_equal(from_upstream("head.bottleneck.conv.kernel", there), dense)
    there = to_upstream("head.refine.0.depthwise.kernel", depthwise)
    assert there.shape == (4, 1, 3, 5)
    assert there[3, 0, 2, 4] == depthwise[2, 4, 3]
    np.testing.assert_array_equal(from_upstream("head.refine.0.depthwise.kernel", there), depthwise)


def test_filling_keeps_types_and_leaves_the_arguments_alone():
    tree, before = weights("pspnet", seed=1), weights("pspnet", seed=1)
    state_dict = {key: value.astype(np.float16) for key, value in exported(weights("pspnet")).items()}
    filled = load_torch_state(tree, state_dict)
    assert {leaf.dtype for leaf in jax.tree.leaves(filled)} == {np.dtype(np.float32)}
    assert_equal(tree, before)


@NETWORKS
@pytest.mark.parametrize("extra", [{}, {"fc.weight": np.zeros((1000, 16)), "fc.bias": np.zeros(1000)}])
def test_a_backbone_file_fills_the_backbone(network, extra):
    tree, start = weights(network), weights(network, seed=1)
    state_dict = {k.removeprefix("backbone."): v for k, v in exported(tree).items() if k.startswith("backbone.")}
    filled = load_torch_state(start, state_dict | extra, parts=("backbone",))
    for kind in ("params", "batch_stats"):
        assert_equal(filled[kind]["backbone"], tree[kind]["backbone"])
        assert_equal(filled[kind]["head"], start[kind]["head"])


def test_parts_left_out_keep_their_values_and_may_have_any_shape():
    tree, start = weights("pspnet"), weights("pspnet", seed=1)
    state_dict = exported(tree)
    state_dict["decode_head.conv_seg.weight"] = np.zeros((150, 4, 1, 1), np.float32)
    state_dict = {key: value for key, value in state_dict.items() if not key.startswith("auxiliary_head")}
    filled = load_torch_state(start, state_dict, parts=("backbone",))
    assert_equal(filled["params"]["backbone"], tree["params"]["backbone"])
    for part in ("head", "auxiliary"):
        assert_equal(filled["params"][part], start["params"][part])
        assert_equal(filled["batch_stats"][part], start["batch_stats"][part])


# The wrong file --------------------------------------------------------------------------------------------


def refusal(state_dict, network="pspnet", **args):
    with pytest.raises(UserError, match=r"^init_from: file\.pth ") as error:
        load_torch_state(weights(network), state_dict, source="file.pth", **args)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_parameter_is_named():
    state_dict = exported(weights("pspnet"))
    del state_dict["backbone.layer2.0.bn1.running_mean"]
    assert "lacks backbone.layer2.0.bn1.running_mean;" in refusal(state_dict)


def test_many_missing_parameters_are_counted():
    state_dict = {k: v for k, v in exported(weights("pspnet")).items() if not k.startswith("auxiliary_head.")}
    assert " and 4 more;" in refusal(state_dict)


def test_an_unknown_key_is_named():
    state_dict = exported(weights("pspnet")) | {"decode_head.extra.weight": np.zeros(3)}
    assert "unknown to the network: decode_head.extra.weight;" in refusal(state_dict)


def test_another_shape_is_named_in_torchs_layout():
    state_dict = exported(weights("pspnet"))
    state_dict["backbone.stem.0.weight"] = np.zeros((1, 3, 7, 7), np.float32)
    assert "backbone.stem.0.weight [1, 3, 7, 7], wanted [1, 3, 3, 3]" in refusal(state_dict)


def test_another_number_of_classes_is_named():
    state_dict = exported(weights("pspnet"))
    state_dict["decode_head.conv_seg.weight"] = np.zeros((150, 4, 1, 1), np.float32)
    state_dict["decode_head.conv_seg.bias"] = np.zeros(150, np.float32)
    message = refusal(state_dict)
    assert "decode_head.conv_seg.weight [150, 4, 1, 1], wanted [19, 4, 1, 1]" in message
    assert "decode_head.conv_seg.bias [150], wanted [19]" in message


@NETWORKS
def test_another_network_is_refused(network):
    other = {"pspnet": "deeplabv3plus", "deeplabv3plus": "pspnet"}[network]
    refusal(exported(weights(other)), network)


def test_a_deeper_backbone_is_refused():
    refusal(exported(weights("pspnet", 50)))


def test_a_depthwise_kernel_of_another_kind_is_refused():
    state_dict = exported(weights("deeplabv3plus"))
    key = "decode_head.aspp_modules.1.depthwise_conv.conv.weight"
    dense = np.zeros((16, 16, 3, 3), np.float32)
    assert f"{key} [16, 16, 3, 3]" in refusal(state_dict | {key: dense}, "deeplabv3plus")
