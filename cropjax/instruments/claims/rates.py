"""Section 3: the dilated branches of DeepLabV3+, and what of their kernels lies on the map."""

import math

import numpy as np

from cropjax.instruments import pooling
from cropjax.instruments.claims.claim import Claims, Finding, compared, is_so
from cropjax.instruments.claims.network import CROPS
from cropjax.instruments.valid_taps import valid_taps

CLAIMS = Claims()


@CLAIMS.states("3.1", "The kernels of rates 12, 24 and 36 span 25, 49 and 73 positions.", "layers as built")
def kernel_spans(networks):
    layers = [networks["deeplabv3plus"].layer(f"head.branches.{i}.depthwise") for i in (1, 2, 3)]
    return compared((25, 49, 73), [layer.dilation[0] * (layer.kernel[0] - 1) + 1 for layer in layers], "positions")


@CLAIMS.states("3.1", "The branch of rate 1 is a 3x3 convolution.", "layers as built")
def first_branch(networks):
    kernel = networks["deeplabv3plus"].layer("head.branches.0.conv").kernel
    return is_so(kernel == (3, 3), f"{kernel[0]}x{kernel[1]}", "it sees its own position alone")


@CLAIMS.states("3.1", "The skip takes 256 channels of stage 1 and makes 48 of them.", "layers as built")
def skip_channels(networks):
    return compared((256, 48), networks["deeplabv3plus"].layer("head.skip.conv").channels, within=0)


def inside(layer):
    return valid_taps(
        layer.input_size, kernel=layer.kernel, dilation=layer.dilation, padding=layer.padding, stride=layer.stride
    )


def taps(networks, branch, crop):
    return inside(networks["deeplabv3plus"].layer(f"head.branches.{branch}.depthwise", crop))


@CLAIMS.states("3.2", "At 512 the kernel of rate 36 is larger than the map.", "valid_taps")
def exceeds(networks):
    found = taps(networks, 3, 512)
    span = 2 * 36 + 1
    side = len(found.inside)
    return is_so(
        span > side, f"{span} > {side}; {found.full:.0%} of the positions have all nine taps inside", "it fits"
    )


@CLAIMS.states("3.2", "At 769 it fits, without padding.", "valid_taps")
def fits(networks):
    found = taps(networks, 3, 769)
    side = len(found.inside)
    return is_so(
        found.full > 0.5,
        f"73 < {side}, and yet {found.full:.1%} of the positions have all nine taps inside",
        "the kernel fits around the centre alone",
    )


@CLAIMS.states("3.3", "Rate 36: 60 % and 97 %.", "valid_taps, mean", branch=3, stated=(0.6, 0.97))
@CLAIMS.states("3.3", "Rate 24: 85 % and 100 %.", "valid_taps, mean", branch=2, stated=(0.85, 1))
@CLAIMS.states("3.3", "Valid at 512 and 769, rate 12: 100 % and 100 %.", "valid_taps, mean", branch=1, stated=(1, 1))
def validity(networks, *, branch, stated):
    """The mean share of taps inside, which is what a ratio of valid weights means (Chen et al. 2017)."""
    found = [taps(networks, branch, crop) for crop in CROPS]
    finding = compared(stated, [one.mean / 9 for one in found])
    value = " and ".join(f"{one.mean / 9:.0%} (all taps at {one.full:.0%})" for one in found)
    return Finding(value, finding.verdict)


@CLAIMS.states("3.3", "Rate 1: 100 % and 100 %.", "valid_taps, mean")
def first_validity(networks):
    """Whatever the kernel of rate 1 is."""
    layers = [networks["deeplabv3plus"].layer("head.branches.0.conv", crop) for crop in CROPS]
    shares = [inside(layer).mean / math.prod(layer.kernel) for layer in layers]
    return compared((1, 1), shares, within=0)


@CLAIMS.states("3.3", "40 % of the rate 36 kernel sees padding at 512.", "valid_taps, mean")
def padded_share(networks):
    return compared(0.40, 1 - taps(networks, 3, 512).mean / 9)


CLAIMS.undecided("3.3", "Padding biases predictions at the border.")


@CLAIMS.states("3.4", "Rates 12 and 24 are still valid at 512.", "valid_taps")
def moderate_rates(networks):
    found = [taps(networks, branch, 512) for branch in (1, 2)]
    value = " and ".join(f"{one.mean:.2f} of 9 taps, all at {one.full:.0%}" for one in found)
    return is_so(all(one.full > 0.5 for one in found), value, "most positions miss taps of both")


@CLAIMS.states(
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


CLAIMS.undecided("3.4", "DeepLabV3+ loses less because of its skip, its rates and its pooled branch.")
