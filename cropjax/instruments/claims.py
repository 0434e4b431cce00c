"""The statements of the study that this project repeats, each beside what the instruments find.

    python -m cropjax.instruments.claims docs/claims.md

The study, "Why crop size significantly impacts CNN-based segmentation vs transformers", is an unpublished report of
2026 with ten numbered sections; statements of the first seven are given here in our words. Nothing that is compared is
typed: what the study states is, what is found is computed from the networks as they are built, or measured on images of
drawn streets.
"""

import dataclasses
import math
import sys
from collections.abc import Callable
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cropjax.config import build_model, defaults
from cropjax.instruments import consistency, effective_field, gradient_noise, normalization, pooling
from cropjax.instruments.gridding import HDC, dilated_stages, stack
from cropjax.instruments.reach import trace
from cropjax.instruments.receptive_field import inside_share, receptive_fields
from cropjax.instruments.subject import QUICK, Subject, drawn_weights, normalized
from cropjax.instruments.valid_taps import valid_taps
from cropjax.models.layers import LayerNorm
from cropjax.ops.pool import adaptive_bins
from cropjax.progress import Progress
from cropjax.step import merge_model, split_model
from cropjax.workdir import write_text

HOLDS, UNDECIDED = "holds", "cannot be decided without training"
CROPS = (512, 769)
TEST_SIZE = (1024, 2048)
BATCHES = 24  # of the statistics whose differences are small against their noise


class Finding(NamedTuple):
    """What was found, as text, and the verdict: `HOLDS`, `UNDECIDED`, or what is wrong with the statement."""

    value: str
    verdict: str


class Claim(NamedTuple):
    """The statement, what of ours decides it, and `find(networks)`, which does: a `Finding`."""

    section: str
    words: str
    how: str
    find: Callable


CLAIMS = []


def claim(section, words, how, **stated):
    """Makes a function the finder of a claim; what `stated` are its arguments then. The lowest comes first."""

    def add(find):
        CLAIMS.append(Claim(section, words, how, partial(find, **stated)))
        return find

    return add


def undecided(section, words):
    """A claim that no instrument can decide."""
    CLAIMS.append(Claim(section, words, "-", lambda networks: Finding("-", UNDECIDED)))


class Network:
    """One of the study's four networks as it is built, and what the instruments read off it."""

    def __init__(self, name):
        self.config = defaults(name)
        self.graph, self.weights = split_model(build_model(self.config))

    def function(self, weights, images):
        output = merge_model(self.graph, weights)(images)
        return {f"stage {i + 1}": x for i, x in enumerate(output.maps)} | {"logits": output.logits}

    @cached_property
    def fields(self):
        """{map or convolution: Field}."""
        return {field.name: field for fields in receptive_fields(self.function, self.weights) for field in fields}

    @cached_property
    def _traced(self):
        return {}

    def traced(self, side):
        """What the maps and convolutions see of an image of `side` pixels, as spans."""
        if side not in self._traced:
            self._traced[side] = trace(self.function, self.weights, (side, side), spans=True)
        return self._traced[side]

    def map_side(self, name, side):
        """Rows of a map for an image of `side` rows."""
        return len(self.traced(side).maps[name].rows)

    def layer(self, name, side=512):
        (found,) = [layer for layer in self.traced(side).layers if layer.name == f"params.{name}.kernel"]
        return found

    @cached_property
    def subject(self):
        """The network with drawn weights on drawn streets, under a quick budget."""
        config = defaults(self.config.model.name)
        config.data.source = "streets"
        config.data.streets.size = TEST_SIZE
        sizes = tuple((crop, crop) for crop in CROPS)
        subject = Subject(config.model.name, config, None, {}, sizes, TEST_SIZE)
        images = normalized(np.stack([subject.crop(index, sizes[0])[2] for index in (0, 1)]))
        graph, drawn = drawn_weights(config, images)
        return dataclasses.replace(subject, graph=graph, weight_sets={"drawn": drawn})

    @cached_property
    def noise_scales(self):
        """One a crop, for batches of two."""
        return [one.parts[0] for one in self.measured(gradient_noise, "/2_images/", batches=BATCHES)]

    def measured(self, instrument, *words, batches=QUICK.batches):
        """The results of an instrument's steps whose names have one of `words`, or of all."""
        subject = dataclasses.replace(self.subject, budget=dataclasses.replace(QUICK, batches=batches))
        steps = [step for step in instrument.steps(subject) if not words or any(word in step.name for word in words)]
        return [step.measure() for step in steps]


class Networks(dict):
    """The four by name, built when they are asked for."""

    def __missing__(self, name):
        self[name] = Network(name)
        return self[name]


# ------------------------------------------------------------------------------------------------------ comparisons


def text(number):
    """Four digits, whole numbers in full."""
    if isinstance(number, bool | np.bool_):
        return "yes" if number else "no"
    return f"{number:.0f}" if float(number).is_integer() else f"{number:.4g}"


def compared(stated, found, unit="", *, within=0.02):
    """A `Finding` of numbers against those that are stated, off where one differs by more than the share `within`."""
    stated, found = (np.atleast_1d(x).astype(float) for x in (stated, found))
    off = np.abs(found - stated) > within * np.abs(stated)
    value = ", ".join(map(text, found)) + (f" {unit}" if unit else "")
    if not off.any():
        return Finding(value, HOLDS)
    worst = int(np.argmax(np.abs(np.log(found.clip(1e-12) / stated))))
    return Finding(
        value, f"off: {text(found[worst])} and not {text(stated[worst])}, {found[worst] / stated[worst]:.2f} times"
    )


def is_so(found, value, wrong):
    """A `Finding` of a statement that is true or false; `wrong` says what is the case if it is false."""
    return Finding(value, HOLDS if found else f"does not hold: {wrong}")


# ------------------------------------------------------------------------------------------------------- what is found


@claim("1.1", "The field of stages 1 to 4 of ResNet-50-D8 is about 35, 91, 219 and 475 pixels.", "receptive_field")
def stage_fields(networks):
    fields = networks["deeplabv3plus"].fields
    return compared((35, 91, 219, 475), [fields[f"stage {i}"].size[0] for i in (1, 2, 3, 4)], "pixels")


@claim("1.1", "The first convolution has a field of 7 pixels.", "receptive_field, last convolution of the stem")
def stem_field(networks):
    """What the stem's last convolution sees; the study's network has the three 3x3 of ResNetV1c."""
    return compared(7, networks["deeplabv3plus"].fields["backbone.stem.2.conv"].size[0], "pixels")


@claim("1.1", "It has an output stride of 4.", "receptive_field, jump; the pooling behind it makes 4")
def stem_stride(networks):
    return compared(4, networks["deeplabv3plus"].fields["backbone.stem.2.conv"].jump[0], "pixels", within=0)


@claim("1.1", "The dilated kernels of stages 3 and 4 span 7 and 15 positions.", "2 d + 1 of the layers as built")
def effective_kernels(networks):
    stages = dilated_stages(networks["deeplabv3plus"].traced(512).layers)
    return compared((7, 15), [2 * max(stages[i]) + 1 for i in (3, 4)], "positions")


@claim("1.1", "The theoretical field seems large enough for a crop of 512.", "receptive_field, share of positions")
def field_against_crop(networks):
    field = networks["deeplabv3plus"].fields["stage 4"]
    inside = [inside_share(field, (crop, crop)) for crop in CROPS]
    return Finding(
        f"{field.size[0]} < 512; inside the crop at {inside[0]:.1%} of stage 4's positions ({inside[1]:.1%} at 769)",
        "holds for the centre of the crop alone",
    )


@claim("1.2", "The theoretical field grows linearly with depth.", "receptive_field, block by block")
def growth(networks):
    """What each block's 3x3 convolution adds to the field of the block before it."""
    fields = networks["deeplabv3plus"].fields
    added = {}
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        sizes = [fields[f"backbone.stages.{stage - 1}.{k}.conv2.conv"].size[0] for k in range(blocks)]
        added[stage] = sorted({after - before for before, after in pairwise(sizes)})
    value = "; ".join(f"stage {stage}: {' or '.join(map(str, steps))}" for stage, steps in added.items())
    even = all(len(steps) == 1 for steps in added.values())
    return Finding(
        f"pixels that a block adds: {value}",
        "holds within a stage; from stage to stage the steps grow" if even else "does not hold: blocks add unequally",
    )


@claim("1.2", "150 to 240 pixels are 29 to 47 % of the diagonal of a crop of 512.", "arithmetic")
def share_of_diagonal(networks):
    diagonal = 512 * math.sqrt(2)
    found = (150 / diagonal, 240 / diagonal)
    return Finding(
        f"{found[0]:.0%} to {found[1]:.0%} of the diagonal, {150 / 512:.0%} to {240 / 512:.0%} of the side",
        "off: the shares given are of the side",
    )


@claim("1.2", "The diagonal of a crop of 769 has 1088 pixels.", "arithmetic")
def diagonal_769(networks):
    return compared(1088, 769 * math.sqrt(2), "pixels")


@claim("1.3", "A larger crop does not make the field larger.", "receptive_field on two sizes")
def field_of_both_crops(networks):
    """The same span away from the border, whatever the crop."""
    network, sizes = networks["deeplabv3plus"], []
    for side in (2048, 4096):
        rows = network.traced(side).maps["stage 4"].rows
        first, last = rows[len(rows) // 2]
        sizes.append(last - first + 1)
    return is_so(sizes[0] == sizes[1], f"{sizes[0]} pixels on images of 2048 and of 4096", "it does")


@claim("2.2", "A crop of 769 gives a map of 96x96.", "reach", crop=769, stated=96)
@claim("2.2", "A crop of 512 gives a map of 64x64.", "reach", crop=512, stated=64)
def map_side(networks, *, crop, stated):
    return compared(stated, networks["pspnet"].map_side("stage 4", crop), "rows", within=0)


@claim(
    "2.2",
    "At 769 they have 9216, 2304, 1024 and 256.",
    "adaptive_bins, largest",
    crop=769,
    stated=(9216, 2304, 1024, 256),
)
@claim(
    "2.2",
    "At 512 the cells of scales 1, 2, 3, 6 have 4096, 1024, 441 and 100 positions.",
    "adaptive_bins, largest",
    crop=512,
    stated=(4096, 1024, 441, 100),
)
def cells(networks, *, crop, stated):
    """Positions of the map in the largest bin of each scale."""
    side = networks["pspnet"].map_side("stage 4", crop)
    return compared(
        stated, [np.ptp(adaptive_bins(side, scale), axis=1).max() ** 2 for scale in (1, 2, 3, 6)], "positions"
    )


@claim("5.3", "And 128 at 769.", "adaptive_bins, largest", crop=769, stated=128)
@claim("5.3", "A cell of scale 6 is 85 pixels wide at 512.", "adaptive_bins, largest", crop=512, stated=85)
@claim("2.4", "At 769 it is 128x128 pixels.", "adaptive_bins, largest", crop=769, stated=128)
@claim("2.4", "At 512 a cell of scale 6 is 80x80 pixels.", "adaptive_bins, largest", crop=512, stated=80)
def cell_pixels(networks, *, crop, stated):
    side = networks["pspnet"].map_side("stage 4", crop)
    stride = networks["pspnet"].fields["stage 4"].jump[0]
    sizes = np.unique(np.ptp(adaptive_bins(side, 6), axis=1)) * stride
    finding = compared(stated, sizes.max(), "pixels a side")
    return Finding(f"{' or '.join(map(text, sizes))} pixels a side", finding.verdict)


@claim("2.4", "These are 2.4 % and 2.8 % of the input.", "adaptive_bins, mean")
def cell_share(networks):
    shares = [
        np.mean(np.ptp(adaptive_bins(networks["pspnet"].map_side("stage 4", crop), 6), axis=1)) ** 2
        / networks["pspnet"].map_side("stage 4", crop) ** 2
        for crop in CROPS
    ]
    found = compared((0.024, 0.028), shares)
    return Finding(
        f"{shares[0]:.1%} and {shares[1]:.1%} on average (1/36 = {1 / 36:.1%} without overlap)", found.verdict
    )


@claim("2.4", "The cell at 769 has 2.56 times the positions of the one at 512.", "adaptive_bins, mean")
def cell_pixel_ratio(networks):
    sides = [networks["pspnet"].map_side("stage 4", crop) for crop in CROPS]
    small, large = (np.mean(np.ptp(adaptive_bins(side, 6), axis=1)) for side in sides)
    return compared(2.56, (large / small) ** 2, "times")


@claim("2.1", "Scales 1, 2, 3 and 6 make 1, 4, 9 and 36 regions.", "adaptive_bins")
def regions(networks):
    scales = networks["pspnet"].config.model.head.pool_scales
    side = networks["pspnet"].map_side("stage 4", 512)
    return compared((1, 4, 9, 36), [len(np.unique(adaptive_bins(side, s), axis=0)) ** 2 for s in scales], within=0)


@claim("2.1", "The last map has 2048 channels, and each branch makes 512 of them.", "layers as built")
def branch_channels(networks):
    found = [networks["pspnet"].layer(f"head.pools.{k}.conv").channels for k in range(4)]
    return is_so(set(found) == {(2048, 512)}, ", ".join(f"{i} to {o}" for i, o in found), "they have others")


@claim("5.3", "A car of 80 pixels lies in one or two cells of scale 6 at 512.", "adaptive_bins, all places")
def cells_of_a_car(networks):
    """Cells that share a pixel with the car, along the rows, wherever the car is."""
    stride, found = int(networks["pspnet"].fields["stage 4"].jump[0]), []
    for crop in CROPS:
        first, last = (adaptive_bins(networks["pspnet"].map_side("stage 4", crop), 6) * stride).T
        left = np.arange(crop - 80 + 1)[:, None]
        found.append(((first < left + 80) & (left < last)).sum(1))
    value = " and ".join(f"{one.min()} to {one.max()} at {crop}" for one, crop in zip(found, CROPS, strict=True))
    value += f", {found[0].mean():.2f} and {found[1].mean():.2f} on average"
    return is_so(found[0].max() <= 2, value, "it can lie in more")


@claim("5.1", "Pool scales are absolute and not relative to the input.", "adaptive_bins")
def relative_bins(networks):
    """What a scale of s averages over, as a share of the side, at any size of the map."""
    spread = [np.ptp(adaptive_bins(side, 6), axis=1).mean() / side for side in (60, 64, 97, 128, 256)]
    shares = f"{min(spread):.3f} to {max(spread):.3f} of the side on maps of 60 to 256"
    return Finding(
        shares, "does not hold: a scale is a share of the map, whatever its size; what changes is train against test"
    )


@claim("2.3", "The pyramid was designed for larger images, where its 36 cells hold objects.", "adaptive_bins")
def trained_for_large(networks):
    sides = [networks["pspnet"].map_side("stage 4", side) for side in (*CROPS, 1024)]
    shares = [np.ptp(adaptive_bins(side, 6), axis=1).max() * 8 for side in sides]
    return Finding(f"{shares[0]}, {shares[1]} and {shares[2]} pixels a side at 512, 769 and 1024 rows", UNDECIDED)


@claim("3.1", "The kernels of rates 12, 24 and 36 span 25, 49 and 73 positions.", "layers as built")
def kernel_spans(networks):
    layers = [networks["deeplabv3plus"].layer(f"head.branches.{i}.depthwise") for i in (1, 2, 3)]
    return compared((25, 49, 73), [layer.dilation[0] * (layer.kernel[0] - 1) + 1 for layer in layers], "positions")


@claim("3.1", "The branch of rate 1 is a 3x3 convolution.", "layers as built")
def first_branch(networks):
    kernel = networks["deeplabv3plus"].layer("head.branches.0.conv").kernel
    return is_so(kernel == (3, 3), f"{kernel[0]}x{kernel[1]}", "it sees its own position alone")


@claim("3.1", "The skip takes 256 channels of stage 1 and makes 48 of them.", "layers as built")
def skip_channels(networks):
    return compared((256, 48), networks["deeplabv3plus"].layer("head.skip.conv").channels, within=0)


def inside(layer):
    return valid_taps(
        layer.input_size, kernel=layer.kernel, dilation=layer.dilation, padding=layer.padding, stride=layer.stride
    )


def taps(networks, branch, crop):
    return inside(networks["deeplabv3plus"].layer(f"head.branches.{branch}.depthwise", crop))


@claim("3.2", "At 512 the kernel of rate 36 is larger than the map.", "valid_taps")
def exceeds(networks):
    found = taps(networks, 3, 512)
    span = 2 * 36 + 1
    side = len(found.inside)
    return is_so(
        span > side, f"{span} > {side}; {found.full:.0%} of the positions have all nine taps inside", "it fits"
    )


@claim("3.2", "At 769 it fits, without padding.", "valid_taps")
def fits(networks):
    found = taps(networks, 3, 769)
    side = len(found.inside)
    return is_so(
        found.full > 0.5,
        f"73 < {side}, and yet {found.full:.1%} of the positions have all nine taps inside",
        "the kernel fits around the centre alone",
    )


@claim("3.3", "Rate 36: 60 % and 97 %.", "valid_taps, mean", branch=3, stated=(0.6, 0.97))
@claim("3.3", "Rate 24: 85 % and 100 %.", "valid_taps, mean", branch=2, stated=(0.85, 1))
@claim("3.3", "Valid at 512 and 769, rate 12: 100 % and 100 %.", "valid_taps, mean", branch=1, stated=(1, 1))
def validity(networks, *, branch, stated):
    """The mean share of taps inside, which is what a ratio of valid weights means (Chen et al. 2017)."""
    found = [taps(networks, branch, crop) for crop in CROPS]
    finding = compared(stated, [one.mean / 9 for one in found])
    value = " and ".join(f"{one.mean / 9:.0%} (all taps at {one.full:.0%})" for one in found)
    return Finding(value, finding.verdict)


@claim("3.3", "Rate 1: 100 % and 100 %.", "valid_taps, mean")
def first_validity(networks):
    """Whatever the kernel of rate 1 is."""
    layers = [networks["deeplabv3plus"].layer("head.branches.0.conv", crop) for crop in CROPS]
    shares = [inside(layer).mean / math.prod(layer.kernel) for layer in layers]
    return compared((1, 1), shares, within=0)


@claim("3.3", "40 % of the rate 36 kernel sees padding at 512.", "valid_taps, mean")
def padded_share(networks):
    return compared(0.40, 1 - taps(networks, 3, 512).mean / 9)


@claim("3.4", "Rates 12 and 24 are still valid at 512.", "valid_taps")
def moderate_rates(networks):
    found = [taps(networks, branch, 512) for branch in (1, 2)]
    value = " and ".join(f"{one.mean:.2f} of 9 taps, all at {one.full:.0%}" for one in found)
    return is_so(all(one.full > 0.5 for one in found), value, "most positions miss taps of both")


@claim("4.1", "The patches of SegFormer overlap.", "layers as built")
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


@claim("4.2", "And 64 keys.", "reach", which=1, stated=64)
@claim("4.2", "At 512 stage 1 has 4096 queries.", "reach", which=0, stated=4096)
def first_stage_tokens(networks, *, which, stated):
    return compared(stated, tokens(networks, 512)[0][which], within=0)


@claim("5.2", "Keys are reduced 8, 4, 2 and 1 times a side in stages 1 to 4.", "reach")
@claim("4.1", "Keys are reduced 8 times a side in stage 1.", "reach", stated=8)
def key_reduction(networks, *, stated=(8, 4, 2, 1)):
    found = [math.sqrt(queries / keys) for queries, keys in tokens(networks, 512)]
    return compared(stated, found[: np.size(stated)], "times", within=0)


@claim("5.2", "Attention is global in every stage.", "receptive_field")
def global_stages(networks):
    found = [f"stage {i}" for i in (1, 2, 3, 4) if None in networks["segformer"].fields[f"stage {i}"].size]
    return is_so(len(found) == 4, f"the fields of {', '.join(found)} grow with the image", "others do not")


@claim("4.1", "Attention with reduced keys is linear in the number of pixels.", "queries times keys")
def complexity(networks):
    (q0, k0), (q1, k1) = tokens(networks, 512)[0], tokens(networks, 1024)[0]
    growth = q1 * k1 / (q0 * k0)
    return is_so(growth < 5, f"{growth:.0f} times the products for 4 times the pixels, in stage 1", "it is quadratic")


@claim("4.2", "Every query can attend to the whole image, from the first stage on.", "receptive_field")
def global_attention(networks):
    field = networks["segformer"].fields["stage 1"]
    return is_so(None in field.size, "the field of every position of stage 1 grows with the image", "it does not")


@claim("4.2", "The CNNs are never global.", "receptive_field of the logits")
def cnn_never_global(networks):
    found = {name: networks[name].fields["logits"].size[0] is None for name in ("pspnet", "deeplabv3plus")}
    return is_so(
        not any(found.values()), "the logits of both see the whole image", "by pooling over it they are global"
    )


@claim("4.1", "There is no position encoding, so the network does not mind the resolution.", "layers as built")
def position_cue(networks):
    """Zero padding in the feed-forward network tells a position how far the border is (Islam et al. 2020)."""
    found = [layer for layer in networks["segformer"].traced(512).layers if layer.name.endswith("ffn.depthwise.kernel")]
    padded = sum(layer.padding != ((0, 0), (0, 0)) for layer in found)
    return is_so(
        padded == 0, f"{padded} of {len(found)} blocks have a zero-padded 3x3", "padding tells positions apart"
    )


@claim("4.3", "SegFormer's maps have strides 4, 8, 16 and 32.", "receptive_field, jump")
def segformer_maps(networks):
    strides = [networks["segformer"].fields[f"stage {i}"].jump[0] for i in (1, 2, 3, 4)]
    return compared((4, 8, 16, 32), strides, "pixels")


@claim("4.3", "And 64, 128, 320 and 512 channels.", "layers as built")
def segformer_channels(networks):
    found = [networks["segformer"].layer(f"head.projections.{i}.conv").channels[0] for i in range(4)]
    return compared((64, 128, 320, 512), found, within=0)


@claim("4.3", "Its head works at a quarter of the resolution.", "reach")
def decoder_stride(networks):
    return compared(4, 512 / networks["segformer"].map_side("logits", 512), "pixels", within=0)


@claim("4.3", "It takes all four maps in equal parts, at any size.", "layers as built")
def equal_parts(networks):
    found = [networks["segformer"].layer(f"head.projections.{i}.conv").channels[1] for i in range(4)]
    return Finding(f"{', '.join(map(str, found))} channels", UNDECIDED)


@claim("5.2", "The stages keep their scales relative to each other.", "reach, sides of stages 1 and 4")
@claim("4.3", "The ratios of the scales are the same at any size.", "reach, sides of stages 1 and 4")
def scale_ratios(networks):
    """Of SegFormer, beside the same ratio in a CNN."""
    found = {
        name: [networks[name].map_side("stage 1", crop) / networks[name].map_side("stage 4", crop) for crop in CROPS]
        for name in ("segformer", "pspnet")
    }
    value = "; ".join(f"{name}: {', '.join(map(text, ratios))} at 512, 769" for name, ratios in found.items())
    return Finding(value, "holds but for rounding, and so it does in a CNN")


@claim("4.4", "SegNeXt's attention has kernels of 5, 7, 11 and 21.", "layers as built")
def strips(networks):
    network = networks["segnext"]
    sides = [
        max(network.layer(f"backbone.blocks.0.0.attention.{name}").kernel)
        for name in ("conv0", "strips.0.0", "strips.1.0", "strips.2.0")
    ]
    return compared((5, 7, 11, 21), sides, within=0)


@claim("4.4", "Its strips see far without dilations.", "receptive_field")
def strip_range(networks):
    fields = networks["segnext"].fields
    found = [fields[f"stage {i}"].size[0] for i in (1, 2, 3, 4)]
    dilated = max(layer.dilation[0] for layer in networks["segnext"].traced(512).layers)
    return is_so(dilated == 1 and found[-1] > 769, f"fields of {', '.join(map(str, found))} pixels", "it has dilations")


@claim("4.4", "Every channel has strips of its own.", "layers as built")
def depthwise_strips(networks):
    found = [layer for layer in networks["segnext"].traced(512).layers if ".strips." in layer.name]
    own = sum(layer.groups == layer.channels[0] for layer in found)
    return is_so(own == len(found), f"{own} of {len(found)} convolutions are depthwise", "some mix channels")


@claim("4.4", "Its factorisation has rank 16 and takes 6 steps in training and 7 at test.", "configuration")
def hamburger(networks):
    head = networks["segnext"].config.model.head
    return compared((16, 6, 7), (head.rank, head.train_steps, head.eval_steps), within=0)


@claim("4.4", "The factorisation gives global context.", "receptive_field")
def hamburger_global(networks):
    field = networks["segnext"].fields["logits"]
    return is_so(None in field.size, "the logits' field grows with the image", "it does not")


@claim("5.1", "PSPNet joins the map and four pooled maps (2048 + 4 x 512 channels).", "layers as built")
def pyramid_channels(networks):
    return compared(2048 + 4 * 512, networks["pspnet"].layer("head.bottleneck.conv").channels[0], within=0)


@claim("5.3", "Attention covers 4096 tokens at 512 and 9216 at 769.", "reach, stage 1")
def car_tokens(networks):
    found = [tokens(networks, crop)[0][0] for crop in CROPS]
    return compared((4096, 9216), found, "tokens", within=0)


@claim("6.1", "The dilated network has stride 8 and the plain one makes 7 of 224.", "reach")
def output_strides(networks):
    found = [512 / networks["pspnet"].map_side("stage 4", 512)]
    config = defaults("pspnet")
    config.model.backbone.output_stride = 32
    graph, weights = split_model(build_model(config))
    plain = trace(lambda w, x: merge_model(graph, w)(x).maps[-1], weights, (224, 224), spans=True).maps
    return compared((8, 7), [*found, len(plain.rows)], within=0)


@claim("6.2", "A kernel of rate 4 reads nine positions of a square of 9x9.", "gridding")
def sampled(networks):
    one = stack("", (4,))
    return is_so(len(one.paths) == 9, f"{int((one.paths > 0).sum())} of the {one.paths.size} positions", "it does not")


@claim("6.2", "It misses three quarters of what is there.", "gridding, 1 - coverage")
def missing(networks):
    one = stack("", (4,))
    return compared(0.75, 1 - one.coverage)


def as_built(networks):
    stages = dilated_stages(networks["deeplabv3plus"].traced(512).layers)
    return sum(stages.values(), ())


@claim("6.3", "It helps less where the map is small.", "gridding")
@claim("6.2", "Gridding is worse on a small map and diluted on a large one.", "gridding")
def gridding_by_size(networks):
    """What the middle of the last map sees of the map that the first dilated stage is given, at both crops."""
    network = networks["deeplabv3plus"]

    def dilated(weights, x):
        for blocks in merge_model(network.graph, weights).backbone.stages[2:]:
            for block in blocks:
                x = block(x, False)
        return x

    seen = []
    for crop in CROPS:
        side = network.map_side("stage 4", crop)
        rows = trace(dilated, network.weights, (side, side), channels=512).maps.rows
        seen.append(np.flatnonzero(rows[side // 2]) - side // 2)
    value = f"{len(seen[0])} and {len(seen[1])} positions in a row of maps of 512 and 769, the same ones"
    return (
        Finding(value, "does not hold: it does not depend on the map")
        if np.array_equal(*seen)
        else Finding(f"{len(seen[0])} and {len(seen[1])} positions in a row", HOLDS)
    )


@claim("6.3", "contract_dilation is hybrid dilated convolution.", "gridding")
def contract_is_hybrid(networks):
    stages = dilated_stages(networks["deeplabv3plus"].traced(512).layers)
    hybrid = sum((tuple(HDC[max(d)][i % 3] for i in range(len(d))) for d in stages.values()), ())
    plain = sum(((max(d),) * len(d) for d in stages.values()), ())
    found = [stack("", pattern) for pattern in (plain, as_built(networks), hybrid)]
    value = "evenness of one rate, as built, hybrid: " + ", ".join(f"{one.evenness:.3f}" for one in found)
    value += "; coverage " + ", ".join(f"{one.coverage:.2f}" for one in found)
    return Finding(
        value,
        "does not hold: only the first block of a stage has another rate; it does take the stages off one grid"
        if found[1].evenness < found[2].evenness
        else HOLDS,
    )


@claim("7.2", "A batch of two has 524 thousand pixels at 512 and 1.18 million at 769.", "arithmetic")
def norm_pixels(networks):
    return compared((524e3, 1.18e6), [2 * crop**2 for crop in CROPS], "pixels", within=0.01)


@claim("7.2", "BatchNorm's statistics are over these.", "reach")
def norm_positions(networks):
    """What the last stage's BatchNorms see of a batch of two."""
    found = [2 * networks["pspnet"].map_side("stage 4", crop) ** 2 for crop in CROPS]
    return Finding(
        f"{found[0]} and {found[1]} positions at stage 4, ratio {found[1] / found[0]:.2f}",
        "off: a norm sees positions of its map, not pixels; the ratio is nearly the same",
    )


@claim("7.2", "LayerNorm depends neither on the batch nor on the crop.", "LayerNorm of a map, of its positions alone")
def layer_norm_alone(networks):
    norm = LayerNorm(8, eps=1e-6)
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 8)).astype(np.float32)
    together, alone = norm(x), np.stack([norm(one[None])[0] for one in x.reshape(-1, 8)])
    differ = float(np.abs(np.reshape(together, alone.shape) - alone).max())
    return is_so(differ < 1e-6, f"outputs differ by {differ:.0g}", "they do")


@claim("7.2", "That is 2.25 times as many.", "arithmetic")
def pixel_ratio(networks):
    return compared(2.25, (769 / 512) ** 2, "times")


@claim("7.3", "The learning rates are 0.01 and 0.00006, a ratio of 167.", "configuration")
def learning_rates(networks):
    found = [networks[name].config.optim.lr for name in ("pspnet", "segformer")]
    return compared((0.01, 6e-5, 167), (*found, found[0] / found[1]))


@claim("7.3", "The CNNs are trained by SGD, the others by AdamW.", "configuration")
def optimizers(networks):
    found = {name: networks[name].config.optim.name for name in ("pspnet", "deeplabv3plus", "segformer", "segnext")}
    value = ", ".join(f"{network}: {name}" for network, name in found.items())
    return is_so(list(found.values()) == ["sgd", "sgd", "adamw", "adamw"], value, "they are not")


@claim("7.1", "The heads of CNNs get gradients that the backbone has filtered.", "gradients, PSPNet's narrow twin")
def head_gradients(networks):
    """The gradient of the head's weights, with the backbone's maps and with constants in their place."""
    config = gradient_noise.narrow_twin(networks["pspnet"].config)
    graph, weights = split_model(build_model(config))
    images = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype(np.float32)

    def loss(params, cut):
        model = merge_model(graph, weights | {"params": params})
        maps = model.backbone(images, False)
        maps = jax.lax.stop_gradient(maps) if cut else maps
        return jnp.square(model.head(maps, False, None)).sum()

    through, cut = (jax.grad(loss)(weights["params"], cut) for cut in (False, True))
    same = all(map(np.array_equal, jax.tree.leaves(through["head"]), jax.tree.leaves(cut["head"])))
    reached = any(np.any(leaf) for leaf in jax.tree.leaves(cut["backbone"]))
    return is_so(
        not same,
        f"the head's are the same without the backbone's; the backbone then gets {'some' if reached else 'none'}",
        "the backbone's have passed the head",
    )


@claim("7.1", "Global context is learned in every layer of SegFormer and SegNeXt.", "receptive_field")
@claim("7.1", "Attention lets a gradient flow from any output to any input.", "receptive_field")
def direct_paths(networks):
    """Fields of stage 1: where one is smaller than the crop, no gradient of its positions gets further."""
    found = {name: networks[name].fields["stage 1"].size[0] for name in ("segformer", "segnext")}
    value = ", ".join(
        f"{name} {'the whole image' if side is None else f'{side} pixels'}" for name, side in found.items()
    )
    everywhere = [name for name, side in found.items() if side is None]
    return Finding(
        f"stage 1 sees: {value}",
        HOLDS if len(everywhere) == 2 else f"holds for {' and '.join(everywhere) or 'neither'} alone",
    )


@claim(
    "1.2", "The effective field is 150 to 240 pixels wide.", "effective_field, 90 % of stage 4's mass, drawn weights"
)
def effective_width(networks):
    found = networks["deeplabv3plus"].measured(effective_field, "512x512/drawn/stage_4", "769x769/drawn/stage_4")
    sides = [2 * one.radius.mean(0) + 1 for one in found]
    value = "; ".join(
        f"{half:.0f}, {most:.0f}, {nearly:.0f} pixels hold 50, 90, 95 % at {crop}"
        for (half, most, nearly), crop in zip(sides, CROPS, strict=True)
    )
    fits = all(150 <= most <= 240 for _, most, _ in sides)
    return is_so(fits, value, "the square that holds 90 % is of another width")


@claim("1.2", "That is 30 to 50 % of the theoretical field.", "effective_field over receptive_field, drawn weights")
def effective_share(networks):
    (one,) = networks["deeplabv3plus"].measured(effective_field, "769x769/drawn/stage_4")
    shares = (2 * one.radius.mean(0) + 1) / one.theory
    value = ", ".join(f"{share:.0%}" for share in shares) + " of the side for 50, 90, 95 % of the mass"
    return is_so(0.3 <= shares[1] <= 0.5, value, "by 90 % of the mass it is more" if shares[1] > 0.5 else "it is less")


@claim("1.2", "The effective field is a Gaussian.", "effective_field, radii of stage 4's mass at 769, drawn weights")
def gaussian(networks):
    """Squares that hold shares p of a Gaussian have half sides r with erf(r / (sigma sqrt 2))^2 = p."""
    (one,) = networks["deeplabv3plus"].measured(effective_field, "769x769/drawn/stage_4")
    found = one.radius.mean(0) / one.radius.mean(0)[0]
    normal = [NormalDist().inv_cdf((1 + math.sqrt(share)) / 2) for share in effective_field.SHARES]
    finding = compared(np.array(normal) / normal[0], found, within=0.1)
    value = f"90 and 95 % lie {found[1]:.2f} and {found[2]:.2f} times as far as 50 %; "
    value += f"of a Gaussian {normal[1] / normal[0]:.2f} and {normal[2] / normal[0]:.2f}"
    return Finding(value, HOLDS if finding.verdict == HOLDS else "does not hold: the mass is spread otherwise")


@claim(
    "3.4", "The pooled branch gives the same context at any size.", "pooling, shift to the whole image, drawn weights"
)
def pooled_context(networks):
    (found,) = networks["deeplabv3plus"].measured(pooling)
    plain = found.pooled[0].plain
    moved, error, spread = (float(np.nanmedian(x)) for x in (plain.mean, plain.error, plain.variance))
    value = (
        f"from crops of 512 to the whole image its mean moves by {moved:.2f} ± {error:.2f} deviations, its variance "
    )
    value += f"is {spread:.2f} times theirs"
    same = moved < 2 * error and 0.8 < spread < 1.25
    return is_so(same, value, "what it is given is distributed otherwise")


@claim("4.1", "So its predictions are the same on a crop and on the whole image.", "consistency, drawn weights")
def same_on_crops(networks):
    (found,) = networks["segformer"].measured(consistency)
    difference = [one.middle(one.difference) for one in found.crops]
    value = ", ".join(f"{d:.4f} at {crop}" for d, crop in zip(difference, CROPS, strict=True))
    return is_so(
        max(difference) < 1e-4, f"total variation furthest from the cut {value}", "context and padding are felt"
    )


@claim("7.2", "So BatchNorm's statistics are 2.25 times as stable at 769.", "normalization, PSPNet, drawn weights")
def stability(networks):
    found = [one.noise[0][1] for one in networks["pspnet"].measured(normalization, batches=BATCHES)]
    logs, errors = zip(
        *((np.mean(np.log([x.effective for x in one])), normalization.jackknife(np.mean([x.without for x in one], 0)))
          for one in found),
        strict=True,
    )  # fmt: skip
    ratio, error = math.exp(logs[1] - logs[0]), math.hypot(*errors)
    parts = [normalization.by_part(one) for one in found]
    value = f"{ratio:.2f} times as many independent samples, relative error {error:.0%} ("
    value += ", ".join(f"{part} {parts[1][part][1] / parts[0][part][1]:.2f}" for part in parts[0]) + ")"
    if abs(math.log(ratio / 2.25)) < 2 * error:
        return Finding(value, "cannot be decided: within the errors of these batches")
    return Finding(value, "off: it does not follow the pixels")


@claim("7.2", "SegFormer and SegNeXt use LayerNorm.", "normalization, count of norms")
def transformers_norms(networks):
    counts = {
        name: normalization.kinds(merge_model(networks[name].graph, networks[name].weights))
        for name in ("segformer", "segnext")
    }
    value = "; ".join(
        f"{name}: " + ", ".join(f"{count} {kind} in the {part}" for part, kind, count in found)
        for name, found in counts.items()
    )
    batch = {(name, part) for name, found in counts.items() for part, kind, _ in found if kind == "BatchNorm"}
    return is_so(
        not batch, value, f"BatchNorm in {' and '.join(f'the {part} of {name}' for name, part in sorted(batch))}"
    )


@claim(
    "7.3", "CNNs have noisier gradients than transformers.", "gradient_noise, narrow twins, drawn weights", of="network"
)
@claim(
    "7.3",
    "At small crops the noise of CNNs' gradients grows.",
    "gradient_noise, narrow twins, drawn weights",
    of="crop",
)
def gradients(networks, *, of):
    names = ("pspnet", "segformer") if of == "network" else ("pspnet",)
    found = [networks[name].noise_scales for name in names]
    value = "; ".join(
        f"{name}: "
        + ", ".join(f"{x.scale:.1f} ± {x.error:.1f} images at {crop}" for x, crop in zip(one, CROPS, strict=True))
        for name, one in zip(names, found, strict=True)
    )
    if of == "crop":
        return Finding(value, order(*found[0]))
    verdicts = list(map(order, *found))
    if len(set(verdicts)) == 1:
        return Finding(value, verdicts[0])
    return Finding(value, "; ".join(f"{one}, at {crop}" for crop, one in zip(CROPS, verdicts, strict=True)))


def order(larger, smaller):
    """The verdict on two noise scales, of which the first is said to be larger."""
    numbers = (larger.scale, smaller.scale, larger.error, smaller.error)
    if not np.isfinite(numbers).all() or abs(larger.scale - smaller.scale) < 2 * math.hypot(*numbers[2:]):
        return "cannot be decided: within the errors of these batches"
    return HOLDS if larger.scale > smaller.scale else "does not hold: it is the other way around on untrained twins"


undecided("1.3", "Larger crops help by more context, whole objects and borders, and richer statistics.")
undecided("2.3", "At 512 a cell of scale 6 holds parts of objects and its average cannot discriminate.")
undecided("2.3", "The global average of a smaller crop has less to tell.")
undecided("3.3", "Padding biases predictions at the border.")
undecided("3.4", "DeepLabV3+ loses less because of its skip, its rates and its pooled branch.")
undecided("5.1", "Dilation rates are made for one size of the input.")
undecided("7.1", "Deep layers of CNNs get attenuated gradients, attention direct ones.")


def page(findings):
    """docs/claims.md: the table of `findings`, a `Finding` for each of `CLAIMS`, and how many of each verdict."""
    verdicts = [finding.verdict for finding in findings]
    holds, open_ = (sum(one.startswith(start) for one in verdicts) for start in (HOLDS, "cannot be decided"))
    lines = [
        "# The study's claims, computed",
        "",
        "What the crop-size study states in its sections 1 to 7, in our words, beside what the instruments find. Made",
        "by `make claims`; nothing in it is typed. Sections 8 to 10 sum up, recommend and list configurations.",
        "",
        f"Of {len(findings)} statements {holds} hold, {open_} cannot be decided here, and "
        f"{len(findings) - holds - open_} are off or do not hold.",
        "",
        "| section | claim | found | how | verdict |",
        "|---|---|---|---|---|",
    ]
    for claim, finding in sorted(zip(CLAIMS, findings, strict=True), key=lambda pair: pair[0].section):
        lines.append(f"| {claim.section} | {claim.words} | {finding.value} | {claim.how} | {finding.verdict} |")
    return "\n".join(lines) + "\n"


def write(path):
    """Finds everything, which takes minutes, and writes the page."""
    networks, findings = Networks(), []
    with Progress(len(CLAIMS), unit="claim", label="claims") as progress:
        for done, claim in enumerate(CLAIMS, 1):
            findings.append(claim.find(networks))
            progress.update(done)
    write_text(path, page(findings))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
