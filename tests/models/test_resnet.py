"""The form of the backbone: sizes, strides, dilations and the first weights; nothing is computed."""

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from cropjax.models.layers import BatchNorm, Conv
from cropjax.models.resnet import BasicBlock, Bottleneck, ResNet


def build(depth=18, width=2, **args):
    return ResNet(depth, rng=np.random.default_rng(0), norm=BatchNorm, width=width, **args)


def sizes(net, h, w):
    maps = jax.eval_shape(lambda x: net(x, False), jax.ShapeDtypeStruct((1, h, w, 3), np.float32))
    assert tuple(m.shape[3] for m in maps) == net.channels
    return [m.shape[1:3] for m in maps]


@pytest.mark.parametrize(
    ("output_stride", "expected"), [(8, [193, 97, 97, 97]), (16, [193, 97, 49, 49]), (32, [193, 97, 49, 25])]
)
def test_maps_of_a_769_crop(output_stride, expected):
    net = build(output_stride=output_stride)
    assert sizes(net, 769, 769) == [(n, n) for n in expected]


def test_maps_of_upstreams_test_image():
    assert sizes(build(50), 97, 129) == [(25, 33), (13, 17), (13, 17), (13, 17)]


@given(h=st.integers(1, 1100), w=st.integers(1, 2100), output_stride=st.sampled_from([8, 16, 32]))
@settings(max_examples=8)
def test_a_map_has_a_pixel_for_every_started_stride(h, w, output_stride):
    strides = [4, *(min(stride, output_stride) for stride in (8, 16, 32))]
    assert sizes(build(output_stride=output_stride), h, w) == [(-(-h // s), -(-w // s)) for s in strides]


def spatial(block):
    """The convolution that carries a block's stride and dilation, by depth."""
    return (block.conv1 if isinstance(block, BasicBlock) else block.conv2).conv


@pytest.mark.parametrize(("depth", "blocks"), [(18, (2, 2, 2, 2)), (50, (3, 4, 6, 3)), (101, (3, 4, 23, 3))])
@pytest.mark.parametrize(
    ("output_stride", "strides", "dilations"),
    [(8, (1, 2, 1, 1), (1, 1, 2, 4)), (16, (1, 2, 2, 1), (1, 1, 1, 2)), (32, (1, 2, 2, 2), (1, 1, 1, 1))],
)
@pytest.mark.parametrize("contract", [True, False])
def test_strides_and_dilations(depth, blocks, output_stride, strides, dilations, contract):
    net = build(depth, output_stride=output_stride, contract_dilation=contract)
    assert tuple(map(len, net.stages)) == blocks
    for stage, stride, dilation in zip(net.stages, strides, dilations, strict=True):
        first = max(dilation // 2, 1) if contract else dilation
        assert [spatial(b).stride for b in stage] == [stride] + [1] * (len(stage) - 1)
        assert [spatial(b).dilation for b in stage] == [first] + [dilation] * (len(stage) - 1)
        for block in stage:
            others = [block.conv2] if depth == 18 else [block.conv1, block.conv3]
            assert {(layer.conv.stride, layer.conv.dilation) for layer in others} == {(1, 1)}
            assert spatial(block).padding == spatial(block).dilation


@pytest.mark.parametrize(("depth", "projections"), [(18, [False, True, True, True]), (50, [True] * 4)])
def test_only_a_first_block_that_changes_the_shape_projects(depth, projections):
    for stage, projects in zip(build(depth).stages, projections, strict=True):
        assert [block.downsample is not None for block in stage] == [projects] + [False] * (len(stage) - 1)
        if projects:
            assert stage[0].downsample.conv.stride == spatial(stage[0]).stride
            assert stage[0].downsample.conv.kernel.shape[:2] == (1, 1)


def test_stem_is_three_3x3():
    assert [layer.conv.kernel.shape for layer in build(width=8).stem] == [(3, 3, 3, 4), (3, 3, 4, 4), (3, 3, 4, 8)]


@given(h=st.integers(1, 300), w=st.integers(1, 300))
@settings(max_examples=4)
def test_the_7x7_stem_gives_maps_of_the_same_sizes(h, w):
    net = build(width=8, deep_stem=False)
    assert (net.conv1.conv.kernel.shape, net.conv1.conv.stride, net.conv1.conv.padding) == ((7, 7, 3, 8), 2, 3)
    assert not hasattr(net, "stem")
    assert sizes(net, h, w) == sizes(build(width=8), h, w)


def test_the_7x7_stem_changes_nothing_behind_it():
    deep, shallow = (
        {path: module.kernel.shape for path, module in nnx.iter_modules(net) if isinstance(module, Conv)}
        for net in (build(50), build(50, deep_stem=False))
    )
    assert {path: shape for path, shape in deep.items() if path[0] != "stem"} == {
        path: shape for path, shape in shallow.items() if path[0] != "conv1"
    }


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_residual_branches_start_at_zero(block):
    layer = block(
        block.expansion * 4, 4, stride=1, dilation=2, rng=np.random.default_rng(0), norm=BatchNorm, padding_mode="zeros"
    )
    x = np.random.default_rng(0).standard_normal((2, 5, 6, block.expansion * 4), np.float32)
    np.testing.assert_array_equal(layer(x, True), np.maximum(x, 0))


@pytest.mark.parametrize("depth", [18, 50])
def test_first_weights(depth):
    net = build(depth, width=16)
    zero = {path for path, module in nnx.iter_modules(net) if isinstance(module, BatchNorm) and not module.scale.any()}
    last = "conv2" if depth == 18 else "conv3"
    assert zero == {("stages", i, j, last, "norm") for i, stage in enumerate(net.stages) for j in range(len(stage))}
    for path, module in nnx.iter_modules(net):
        if isinstance(module, BatchNorm):
            assert path in zero or (module.scale[...] == 1).all()
            assert not module.bias.any()
        elif isinstance(module, Conv) and module.kernel.size > 2000:
            kh, kw, _, o = module.kernel.shape
            assert np.std(module.kernel[...]) == pytest.approx(np.sqrt(2 / (kh * kw * o)), rel=0.1), path


def test_padding_mode_reaches_every_convolution_that_pads():
    net = build(50, padding_mode="reflect")
    padded = [module for _, module in nnx.iter_modules(net) if isinstance(module, Conv) and module.padding]
    assert len(padded) == 3 + sum(map(len, net.stages))
    assert {module.padding_mode for module in padded} == {"reflect"}
    assert build(deep_stem=False, padding_mode="reflect").conv1.conv.padding_mode == "reflect"
