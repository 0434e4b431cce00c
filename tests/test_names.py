"""Our paths by upstream's names, and the layouts of kernels.

Keys were printed by mmsegmentation 1.2.2; that the whole lists agree is for test_convert.py and the fixtures.
"""

import numpy as np
import pytest

from cropjax.names import from_upstream, to_upstream, upstream_name

RESNET = [
    ("backbone.stem.0.conv.kernel", "backbone.stem.0.weight"),
    ("backbone.stem.2.norm.var", "backbone.stem.7.running_var"),
    ("backbone.conv1.conv.kernel", "backbone.conv1.weight"),
    ("backbone.conv1.norm.mean", "backbone.bn1.running_mean"),
    ("backbone.stages.3.1.conv2.conv.kernel", "backbone.layer4.1.conv2.weight"),
    ("backbone.stages.2.22.conv3.norm.scale", "backbone.layer3.22.bn3.weight"),
    ("backbone.stages.1.0.downsample.conv.kernel", "backbone.layer2.0.downsample.0.weight"),
    ("backbone.stages.1.0.downsample.norm.mean", "backbone.layer2.0.downsample.1.running_mean"),
]
MIT = [
    ("backbone.stages.0.embed.kernel", "backbone.layers.0.0.projection.weight"),
    ("backbone.stages.3.embed_norm.scale", "backbone.layers.3.0.norm.weight"),
    ("backbone.stages.2.blocks.17.norm1.bias", "backbone.layers.2.1.17.norm1.bias"),
    ("backbone.stages.1.blocks.0.norm2.scale", "backbone.layers.1.1.0.norm2.weight"),
    ("backbone.stages.1.blocks.0.attention.in_proj.kernel", "backbone.layers.1.1.0.attn.attn.in_proj_weight"),
    ("backbone.stages.1.blocks.0.attention.in_proj.bias", "backbone.layers.1.1.0.attn.attn.in_proj_bias"),
    ("backbone.stages.1.blocks.0.attention.out_proj.kernel", "backbone.layers.1.1.0.attn.attn.out_proj.weight"),
    ("backbone.stages.1.blocks.0.attention.out_proj.bias", "backbone.layers.1.1.0.attn.attn.out_proj.bias"),
    ("backbone.stages.0.blocks.1.attention.reduce.kernel", "backbone.layers.0.1.1.attn.sr.weight"),
    ("backbone.stages.0.blocks.1.attention.reduce_norm.bias", "backbone.layers.0.1.1.attn.norm.bias"),
    ("backbone.stages.0.blocks.1.ffn.expand.bias", "backbone.layers.0.1.1.ffn.layers.0.bias"),
    ("backbone.stages.0.blocks.1.ffn.depthwise.kernel", "backbone.layers.0.1.1.ffn.layers.1.weight"),
    ("backbone.stages.0.blocks.1.ffn.project.kernel", "backbone.layers.0.1.1.ffn.layers.4.weight"),
    ("backbone.stages.3.norm.bias", "backbone.layers.3.2.bias"),
]
MSCAN = [
    ("backbone.embeds.0.0.conv.kernel", "backbone.patch_embed1.proj.0.weight"),
    ("backbone.embeds.0.1.conv.bias", "backbone.patch_embed1.proj.3.bias"),
    ("backbone.embeds.0.1.norm.var", "backbone.patch_embed1.proj.4.running_var"),
    ("backbone.embeds.3.0.conv.kernel", "backbone.patch_embed4.proj.weight"),
    ("backbone.embeds.1.0.norm.scale", "backbone.patch_embed2.norm.weight"),
    ("backbone.blocks.2.11.norm1.mean", "backbone.block3.11.norm1.running_mean"),
    ("backbone.blocks.2.11.attention.proj1.kernel", "backbone.block3.11.attn.proj_1.weight"),
    ("backbone.blocks.0.0.attention.conv0.kernel", "backbone.block1.0.attn.spatial_gating_unit.conv0.weight"),
    ("backbone.blocks.0.0.attention.strips.0.0.bias", "backbone.block1.0.attn.spatial_gating_unit.conv0_1.bias"),
    ("backbone.blocks.0.0.attention.strips.2.1.kernel", "backbone.block1.0.attn.spatial_gating_unit.conv2_2.weight"),
    ("backbone.blocks.0.0.attention.mix.kernel", "backbone.block1.0.attn.spatial_gating_unit.conv3.weight"),
    ("backbone.blocks.0.0.attention.proj2.bias", "backbone.block1.0.attn.proj_2.bias"),
    ("backbone.blocks.0.0.ffn.expand.kernel", "backbone.block1.0.mlp.fc1.weight"),
    ("backbone.blocks.0.0.ffn.depthwise.bias", "backbone.block1.0.mlp.dwconv.bias"),
    ("backbone.blocks.0.0.ffn.project.kernel", "backbone.block1.0.mlp.fc2.weight"),
    ("backbone.blocks.3.1.scale1", "backbone.block4.1.layer_scale_1"),
    ("backbone.blocks.3.1.scale2", "backbone.block4.1.layer_scale_2"),
    ("backbone.norms.0.scale", "backbone.norm1.weight"),
]
HEADS = [
    ("head.classifier.conv.bias", "decode_head.conv_seg.bias"),
    ("auxiliary.convs.0.norm.bias", "auxiliary_head.convs.0.bn.bias"),
    ("auxiliary.classifier.conv.kernel", "auxiliary_head.conv_seg.weight"),
    # PSPNet
    ("head.pools.3.conv.kernel", "decode_head.psp_modules.3.1.conv.weight"),
    ("head.pools.0.norm.bias", "decode_head.psp_modules.0.1.bn.bias"),
    ("head.bottleneck.norm.mean", "decode_head.bottleneck.bn.running_mean"),
    # DeepLabV3+
    ("head.image_pool.conv.kernel", "decode_head.image_pool.1.conv.weight"),
    ("head.branches.0.conv.kernel", "decode_head.aspp_modules.0.conv.weight"),
    ("head.branches.2.depthwise.kernel", "decode_head.aspp_modules.2.depthwise_conv.conv.weight"),
    ("head.branches.2.depthwise_norm.var", "decode_head.aspp_modules.2.depthwise_conv.bn.running_var"),
    ("head.branches.3.pointwise.norm.scale", "decode_head.aspp_modules.3.pointwise_conv.bn.weight"),
    ("head.skip.conv.kernel", "decode_head.c1_bottleneck.conv.weight"),
    ("head.refine.1.pointwise.conv.kernel", "decode_head.sep_bottleneck.1.pointwise_conv.conv.weight"),
    # SegFormer
    ("head.projections.2.conv.kernel", "decode_head.convs.2.conv.weight"),
    ("head.projections.2.norm.var", "decode_head.convs.2.bn.running_var"),
    ("head.fuse.conv.kernel", "decode_head.fusion_conv.conv.weight"),
    ("head.fuse.norm.mean", "decode_head.fusion_conv.bn.running_mean"),
    # SegNeXt
    ("head.squeeze.conv.kernel", "decode_head.squeeze.conv.weight"),
    ("head.squeeze.norm.scale", "decode_head.squeeze.gn.weight"),
    ("head.ham_in.kernel", "decode_head.hamburger.ham_in.conv.weight"),
    ("head.ham_in.bias", "decode_head.hamburger.ham_in.conv.bias"),
    ("head.ham_out.conv.kernel", "decode_head.hamburger.ham_out.conv.weight"),
    ("head.ham_out.norm.bias", "decode_head.hamburger.ham_out.gn.bias"),
    ("head.align.norm.bias", "decode_head.align.gn.bias"),
]


@pytest.mark.parametrize(("path", "key"), [*RESNET, *MIT, *MSCAN, *HEADS])
def test_names_are_upstreams(path, key):
    assert upstream_name(path) == key


@pytest.mark.parametrize(
    ("shape", "index", "torch_shape", "torch_index"),
    [
        ((3, 5, 2, 4), (2, 4, 1, 3), (4, 2, 3, 5), (3, 1, 2, 4)),
        ((3, 5, 4), (2, 4, 3), (4, 1, 3, 5), (3, 0, 2, 4)),
        ((1, 7, 1), (0, 6, 0), (1, 1, 1, 7), (0, 0, 0, 6)),  # one channel: not to be taken for a dense kernel
        ((2, 6), (1, 5), (6, 2), (5, 1)),
    ],
    ids=["dense", "depthwise", "strip", "linear"],
)
def test_layouts_are_torchs(shape, index, torch_shape, torch_index):
    ours = np.random.default_rng(0).standard_normal(shape)
    theirs = to_upstream("head.any.kernel", ours)
    assert theirs.shape == torch_shape
    assert theirs[torch_index] == ours[index]
    np.testing.assert_array_equal(from_upstream("head.any.kernel", theirs, len(shape)), ours)


@pytest.mark.parametrize("path", ["backbone.norms.0.scale", "backbone.blocks.0.0.scale1", "head.classifier.conv.bias"])
def test_what_is_no_kernel_stays(path):
    ours = np.arange(3)
    assert to_upstream(path, ours) is ours
    assert from_upstream(path, ours, 1) is ours
