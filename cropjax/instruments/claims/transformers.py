"""Section 4: SegFormer's and SegNeXt's attention and maps."""

import math

from cropjax.instruments import consistency
from cropjax.instruments.claims.claim import UNDECIDED, Claims, Finding, compared, is_so, text
from cropjax.instruments.claims.network import CROPS

CLAIMS = Claims()


@CLAIMS.states("4.1", "The patches of SegFormer overlap.", "layers as built")
def overlapping(networks):
    found = [networks["segformer"].layer(f"backbone.stages.{i}.embed") for i in range(4)]
    value = ", ".join(f"{one.kernel[0]}x{one.kernel[1]} every {one.stride[0]}" for one in found)
    return is_so(all(one.kernel[0] > one.stride[0] for one in found), value, "they do not overlap")


def tokens(networks, side):
    """Queries and keys of each stage of SegFormer."""
    network = networks["segformer"]
    found = []
    for i in range(4):
        queries = network.map_side(f"stage {i + 1}", side) ** 2
        reduced = [x for x in network.traced(side).layers if f"stages.{i}.blocks.0.attention.reduce." in x.name]
        found.append((queries, math.prod(reduced[0].size) if reduced else queries))
    return found


@CLAIMS.states("4.1", "Keys are reduced 8 times a side in stage 1.", "reach", stated=(8,))
def key_reduction(networks, *, stated):
    found = [math.sqrt(queries / keys) for queries, keys in tokens(networks, 512)]
    return compared(stated, found[: len(stated)], "times", within=0)


@CLAIMS.states("4.1", "Attention with reduced keys is linear in the number of pixels.", "queries times keys")
def complexity(networks):
    (q0, k0), (q1, k1) = tokens(networks, 512)[0], tokens(networks, 1024)[0]
    growth = q1 * k1 / (q0 * k0)
    return is_so(growth < 5, f"{growth:.0f} times the products for 4 times the pixels, in stage 1", "it is quadratic")


@CLAIMS.states("4.1", "There is no position encoding, so the network does not mind the resolution.", "layers as built")
def position_cue(networks):
    """Zero padding in the feed-forward network tells a position how far the border is (Islam et al. 2020)."""
    found = [layer for layer in networks["segformer"].traced(512).layers if layer.name.endswith("ffn.depthwise.kernel")]
    padded = sum(layer.padding != ((0, 0), (0, 0)) for layer in found)
    return is_so(
        padded == 0, f"{padded} of {len(found)} blocks have a zero-padded 3x3", "padding tells positions apart"
    )


@CLAIMS.states("4.1", "So its predictions are the same on a crop and on the whole image.", "consistency, drawn weights")
def same_on_crops(networks):
    (found,) = networks["segformer"].measured(consistency)
    difference = [one.middle(one.difference) for one in found.crops]
    value = ", ".join(f"{d:.4f} at {crop}" for d, crop in zip(difference, CROPS, strict=True))
    return is_so(
        max(difference) < 1e-4, f"total variation furthest from the cut {value}", "context and padding are felt"
    )


@CLAIMS.states("4.2", "And 64 keys.", "reach", which=1, stated=64)
@CLAIMS.states("4.2", "At 512 stage 1 has 4096 queries.", "reach", which=0, stated=4096)
def first_stage_tokens(networks, *, which, stated):
    return compared(stated, tokens(networks, 512)[0][which], within=0)


@CLAIMS.states("4.2", "Every query can attend to the whole image, from the first stage on.", "receptive_field")
def global_attention(networks):
    field = networks["segformer"].fields["stage 1"]
    return is_so(None in field.size, "the field of every position of stage 1 grows with the image", "it does not")


@CLAIMS.states("4.2", "The CNNs are never global.", "receptive_field of the logits")
def cnn_never_global(networks):
    found = {name: networks[name].fields["logits"].size[0] is None for name in ("pspnet", "deeplabv3plus")}
    return is_so(
        not any(found.values()), "the logits of both see the whole image", "by pooling over it they are global"
    )


@CLAIMS.states("4.3", "SegFormer's maps have strides 4, 8, 16 and 32.", "receptive_field, jump")
def segformer_maps(networks):
    strides = [networks["segformer"].fields[f"stage {i}"].jump[0] for i in (1, 2, 3, 4)]
    return compared((4, 8, 16, 32), strides, "pixels")


@CLAIMS.states("4.3", "And 64, 128, 320 and 512 channels.", "layers as built")
def segformer_channels(networks):
    found = [networks["segformer"].layer(f"head.projections.{i}.conv").channels[0] for i in range(4)]
    return compared((64, 128, 320, 512), found, within=0)


@CLAIMS.states("4.3", "Its head works at a quarter of the resolution.", "reach")
def decoder_stride(networks):
    return compared(4, 512 / networks["segformer"].map_side("logits", 512), "pixels", within=0)


@CLAIMS.states("4.3", "It takes all four maps in equal parts, at any size.", "layers as built")
def equal_parts(networks):
    found = [networks["segformer"].layer(f"head.projections.{i}.conv").channels[1] for i in range(4)]
    return Finding(f"{', '.join(map(str, found))} channels", UNDECIDED)


@CLAIMS.states("4.3", "The ratios of the scales are the same at any size.", "reach, sides of stages 1 and 4")
def scale_ratios(networks):
    """Of SegFormer, beside the same ratio in a CNN."""
    found = {
        name: [networks[name].map_side("stage 1", crop) / networks[name].map_side("stage 4", crop) for crop in CROPS]
        for name in ("segformer", "pspnet")
    }
    value = "; ".join(f"{name}: {', '.join(map(text, ratios))} at 512, 769" for name, ratios in found.items())
    return Finding(value, "holds but for rounding, and so it does in a CNN")


@CLAIMS.states("4.4", "SegNeXt's attention has kernels of 5, 7, 11 and 21.", "layers as built")
def strips(networks):
    network = networks["segnext"]
    sides = [
        max(network.layer(f"backbone.blocks.0.0.attention.{name}").kernel)
        for name in ("conv0", "strips.0.0", "strips.1.0", "strips.2.0")
    ]
    return compared((5, 7, 11, 21), sides, within=0)


@CLAIMS.states("4.4", "Its strips see far without dilations.", "receptive_field")
def strip_range(networks):
    fields = networks["segnext"].fields
    found = [fields[f"stage {i}"].size[0] for i in (1, 2, 3, 4)]
    dilated = max(layer.dilation[0] for layer in networks["segnext"].traced(512).layers)
    return is_so(dilated == 1 and found[-1] > 769, f"fields of {', '.join(map(str, found))} pixels", "it has dilations")


@CLAIMS.states("4.4", "Every channel has strips of its own.", "layers as built")
def depthwise_strips(networks):
    found = [layer for layer in networks["segnext"].traced(512).layers if ".strips." in layer.name]
    own = sum(layer.groups == layer.channels[0] for layer in found)
    return is_so(own == len(found), f"{own} of {len(found)} convolutions are depthwise", "some mix channels")


@CLAIMS.states("4.4", "Its factorisation has rank 16 and takes 6 steps in training and 7 at test.", "configuration")
def hamburger(networks):
    head = networks["segnext"].config.model.head
    return compared((16, 6, 7), (head.rank, head.train_steps, head.eval_steps), within=0)


@CLAIMS.states("4.4", "The factorisation gives global context.", "receptive_field")
def hamburger_global(networks):
    field = networks["segnext"].fields["logits"]
    return is_so(None in field.size, "the logits' field grows with the image", "it does not")
