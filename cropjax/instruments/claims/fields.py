"""Section 1: the theoretical and the effective field of ResNet-50-D8."""

import math
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from cropjax.instruments import effective_field
from cropjax.instruments.claims.claim import HOLDS, Claims, Finding, compared, is_so
from cropjax.instruments.claims.network import CROPS
from cropjax.instruments.gridding import dilated_stages
from cropjax.instruments.receptive_field import inside_share

CLAIMS = Claims()


@CLAIMS.states(
    "1.1", "The field of stages 1 to 4 of ResNet-50-D8 is about 35, 91, 219 and 475 pixels.", "receptive_field"
)
def stage_fields(networks):
    fields = networks["deeplabv3plus"].fields
    return compared((35, 91, 219, 475), [fields[f"stage {i}"].size[0] for i in (1, 2, 3, 4)], "pixels")


@CLAIMS.states("1.1", "The first convolution has a field of 7 pixels.", "receptive_field, last convolution of the stem")
def stem_field(networks):
    """What the stem's last convolution sees; the study's network has the three 3x3 of ResNetV1c."""
    return compared(7, networks["deeplabv3plus"].fields["backbone.stem.2.conv"].size[0], "pixels")


@CLAIMS.states("1.1", "It has an output stride of 4.", "receptive_field, jump; the pooling behind it makes 4")
def stem_stride(networks):
    return compared(4, networks["deeplabv3plus"].fields["backbone.stem.2.conv"].jump[0], "pixels", within=0)


@CLAIMS.states(
    "1.1", "The dilated kernels of stages 3 and 4 span 7 and 15 positions.", "2 d + 1 of the layers as built"
)
def effective_kernels(networks):
    stages = dilated_stages(networks["deeplabv3plus"].traced(512).layers)
    return compared((7, 15), [2 * max(stages[i]) + 1 for i in (3, 4)], "positions")


@CLAIMS.states(
    "1.1", "The theoretical field seems large enough for a crop of 512.", "receptive_field, share of positions"
)
def field_against_crop(networks):
    field = networks["deeplabv3plus"].fields["stage 4"]
    inside = [inside_share(field, (crop, crop)) for crop in CROPS]
    return Finding(
        f"{field.size[0]} < 512; inside the crop at {inside[0]:.1%} of stage 4's positions ({inside[1]:.1%} at 769)",
        "holds for the centre of the crop alone",
    )


@CLAIMS.states("1.2", "The theoretical field grows linearly with depth.", "receptive_field, block by block")
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


@CLAIMS.states("1.2", "150 to 240 pixels are 29 to 47 % of the diagonal of a crop of 512.", "arithmetic")
def share_of_diagonal(networks):
    diagonal = 512 * math.sqrt(2)
    found = (150 / diagonal, 240 / diagonal)
    return Finding(
        f"{found[0]:.0%} to {found[1]:.0%} of the diagonal, {150 / 512:.0%} to {240 / 512:.0%} of the side",
        "off: the shares given are of the side",
    )


@CLAIMS.states("1.2", "The diagonal of a crop of 769 has 1088 pixels.", "arithmetic")
def diagonal_769(networks):
    return compared(1088, 769 * math.sqrt(2), "pixels")


@CLAIMS.states(
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


@CLAIMS.states(
    "1.2", "That is 30 to 50 % of the theoretical field.", "effective_field over receptive_field, drawn weights"
)
def effective_share(networks):
    (one,) = networks["deeplabv3plus"].measured(effective_field, "769x769/drawn/stage_4")
    shares = (2 * one.radius.mean(0) + 1) / one.theory
    value = ", ".join(f"{share:.0%}" for share in shares) + " of the side for 50, 90, 95 % of the mass"
    return is_so(0.3 <= shares[1] <= 0.5, value, "by 90 % of the mass it is more" if shares[1] > 0.5 else "it is less")


@CLAIMS.states(
    "1.2", "The effective field is a Gaussian.", "effective_field, radii of stage 4's mass at 769, drawn weights"
)
def gaussian(networks):
    """Squares that hold shares p of a Gaussian have half sides r with erf(r / (sigma sqrt 2))^2 = p."""
    (one,) = networks["deeplabv3plus"].measured(effective_field, "769x769/drawn/stage_4")
    found = one.radius.mean(0) / one.radius.mean(0)[0]
    normal = [NormalDist().inv_cdf((1 + math.sqrt(share)) / 2) for share in effective_field.SHARES]
    finding = compared(np.array(normal) / normal[0], found, within=0.1)
    value = f"90 and 95 % lie {found[1]:.2f} and {found[2]:.2f} times as far as 50 %; "
    value += f"of a Gaussian {normal[1] / normal[0]:.2f} and {normal[2] / normal[0]:.2f}"
    return Finding(value, HOLDS if finding.verdict == HOLDS else "does not hold: the mass is spread otherwise")


@CLAIMS.states("1.3", "A larger crop does not make the field larger.", "receptive_field on two sizes")
def field_of_both_crops(networks):
    """The same span away from the border, whatever the crop."""
    network, sizes = networks["deeplabv3plus"], []
    for side in (2048, 4096):
        rows = network.traced(side).maps["stage 4"].rows
        first, last = rows[len(rows) // 2]
        sizes.append(last - first + 1)
    return is_so(sizes[0] == sizes[1], f"{sizes[0]} pixels on images of 2048 and of 4096", "it does")


CLAIMS.undecided("1.3", "Larger crops help by more context, whole objects and borders, and richer statistics.")
