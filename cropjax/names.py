"""What upstream calls our parameters, and how it lays them out: mmsegmentation's keys, torch's axes.

A table of substitutions a network. All of them are applied to a path, from top to bottom: a pattern sees what those
above it left. Patterns are anchored, or use names that one network alone has, so the order of the tables says nothing,
but for `ENDINGS`, which come last.
"""

import re

RESNET = [
    # The stems: three convolutions, each with its norm and a ReLU in one sequence, or `conv1` and `bn1` (below).
    (r"^backbone\.stem\.(\d)\.conv\.", lambda m: f"backbone.stem.{3 * int(m[1])}."),
    (r"^backbone\.stem\.(\d)\.norm\.", lambda m: f"backbone.stem.{3 * int(m[1]) + 1}."),
    (r"^backbone\.stages\.(\d)\.(\d+)\.", lambda m: f"backbone.layer{int(m[1]) + 1}.{m[2]}."),
    (r"^(backbone.*)\.downsample\.conv\.", r"\1.downsample.0."),
    (r"^(backbone.*)\.downsample\.norm\.", r"\1.downsample.1."),
    (r"^(backbone.*)\.conv(\d)\.conv\.", r"\1.conv\2."),
    (r"^(backbone.*)\.conv(\d)\.norm\.", r"\1.bn\2."),
]

MIT = [
    # A stage is the sequence of its embedding, its blocks and its norm.
    (r"^backbone\.stages\.(\d)\.embed\.", r"backbone.layers.\1.0.projection."),
    (r"^backbone\.stages\.(\d)\.embed_norm\.", r"backbone.layers.\1.0.norm."),
    (r"^backbone\.stages\.(\d)\.blocks\.", r"backbone.layers.\1.1."),
    (r"^backbone\.stages\.(\d)\.norm\.", r"backbone.layers.\1.2."),
    # `attn` is upstream's attention, with the reduction; `attn.attn` is torch's MultiheadAttention in it.
    (r"\.attention\.in_proj\.kernel$", ".attn.attn.in_proj_weight"),
    (r"\.attention\.in_proj\.bias$", ".attn.attn.in_proj_bias"),
    (r"\.attention\.out_proj\.", ".attn.attn.out_proj."),
    (r"\.attention\.reduce\.", ".attn.sr."),
    (r"\.attention\.reduce_norm\.", ".attn.norm."),
    # The sequence 1x1, 3x3, GELU, dropout, 1x1, dropout.
    (r"^(backbone\.layers.*)\.ffn\.expand\.", r"\1.ffn.layers.0."),
    (r"^(backbone\.layers.*)\.ffn\.depthwise\.", r"\1.ffn.layers.1."),
    (r"^(backbone\.layers.*)\.ffn\.project\.", r"\1.ffn.layers.4."),
]

MSCAN = [
    # The first embedding is the sequence 3x3, norm, GELU, 3x3, norm; the others have one convolution.
    (r"^backbone\.embeds\.0\.(\d)\.conv\.", lambda m: f"backbone.patch_embed1.proj.{3 * int(m[1])}."),
    (r"^backbone\.embeds\.0\.(\d)\.norm\.", lambda m: f"backbone.patch_embed1.proj.{3 * int(m[1]) + 1}."),
    (r"^backbone\.embeds\.(\d)\.0\.conv\.", lambda m: f"backbone.patch_embed{int(m[1]) + 1}.proj."),
    (r"^backbone\.embeds\.(\d)\.0\.norm\.", lambda m: f"backbone.patch_embed{int(m[1]) + 1}.norm."),
    (r"^backbone\.blocks\.(\d)\.", lambda m: f"backbone.block{int(m[1]) + 1}."),
    (r"^backbone\.norms\.(\d)\.", lambda m: f"backbone.norm{int(m[1]) + 1}."),
    (r"\.attention\.proj(\d)\.", r".attn.proj_\1."),
    (r"\.attention\.conv0\.", ".attn.spatial_gating_unit.conv0."),
    # Pair k of strips, 1xK and Kx1, is conv{k}_1 and conv{k}_2; the 1x1 behind their sum has the next free name.
    (r"\.attention\.strips\.(\d)\.(\d)\.", lambda m: f".attn.spatial_gating_unit.conv{m[1]}_{int(m[2]) + 1}."),
    (r"\.attention\.mix\.", ".attn.spatial_gating_unit.conv3."),
    (r"^(backbone\.block\d.*)\.ffn\.expand\.", r"\1.mlp.fc1."),
    (r"^(backbone\.block\d.*)\.ffn\.depthwise\.", r"\1.mlp.dwconv."),
    (r"^(backbone\.block\d.*)\.ffn\.project\.", r"\1.mlp.fc2."),
    (r"\.scale([12])$", r".layer_scale_\1"),
]

HEADS = [
    (r"^auxiliary\.", "auxiliary_head."),
    (r"^head\.", "decode_head."),
    (r"\.classifier\.conv\.", ".conv_seg."),
    # PSPNet and DeepLabV3+; the number is the place behind a pooling.
    (r"\.image_pool\.", ".image_pool.1."),
    (r"\.pools\.(\d)\.", r".psp_modules.\1.1."),
    (r"\.branches\.", ".aspp_modules."),
    (r"\.skip\.", ".c1_bottleneck."),
    (r"\.refine\.", ".sep_bottleneck."),
    (r"^(decode_head.*)\.depthwise\.", r"\1.depthwise_conv.conv."),
    (r"^(decode_head.*)\.depthwise_norm\.", r"\1.depthwise_conv.bn."),
    (r"\.pointwise\.", ".pointwise_conv."),
    # SegFormer
    (r"\.projections\.", ".convs."),
    (r"\.fuse\.", ".fusion_conv."),
    # SegNeXt, which alone has group normalisation
    (r"^decode_head\.ham_in\.", "decode_head.hamburger.ham_in.conv."),
    (r"^decode_head\.ham_out\.", "decode_head.hamburger.ham_out."),
    (r"\.(squeeze|ham_out|align)\.norm\.", r".\1.gn."),
    (r"^(decode_head.*|auxiliary_head.*)\.norm\.", r"\1.bn."),
]

ENDINGS = [
    (r"\.(kernel|scale)$", ".weight"),
    (r"\.mean$", ".running_mean"),
    (r"\.var$", ".running_var"),
]

NAMES = [(re.compile(pattern), name) for pattern, name in [*RESNET, *MIT, *MSCAN, *HEADS, *ENDINGS]]

PARTS = {"backbone": "backbone", "head": "decode_head", "auxiliary": "auxiliary_head"}


def upstream_name(path):
    """mmsegmentation's key of the parameter or statistic at `path`, dotted: `head.skip.conv.kernel` and so on."""
    for pattern, name in NAMES:
        path = pattern.sub(name, path)
    return path


def to_upstream(path, value):
    """Our layout to torch's, by the number of axes of our kernel; whatever is no kernel stays.

    4: dense [kh,kw,i,o] -> [o,i,kh,kw]. 3: depthwise [kh,kw,c] -> [c,1,kh,kw]. 2: linear [i,o] -> [o,i].
    """
    if not path.endswith(".kernel"):
        return value
    match value.ndim:
        case 4:
            return value.transpose(3, 2, 0, 1)
        case 3:
            return value.transpose(2, 0, 1)[:, None]
        case 2:
            return value.T


def from_upstream(path, value, ndim):
    """The inverse of `to_upstream`, for a leaf of ours that has `ndim` axes."""
    if not path.endswith(".kernel"):
        return value
    match ndim:
        case 4:
            return value.transpose(2, 3, 1, 0)
        case 3:
            return value[:, 0].transpose(1, 2, 0)
        case 2:
            return value.T
