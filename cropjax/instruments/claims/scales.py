"""Section 5: what is absolute and what is relative to the input."""

import numpy as np

from cropjax.instruments.claims.claim import Claims, Finding, compared, is_so
from cropjax.instruments.claims.network import CROPS
from cropjax.instruments.claims.pyramid import cell_pixels
from cropjax.instruments.claims.transformers import key_reduction, scale_ratios, tokens
from cropjax.ops.pool import adaptive_bins

CLAIMS = Claims()


@CLAIMS.states("5.1", "Pool scales are absolute and not relative to the input.", "adaptive_bins")
def relative_bins(networks):
    """What a scale of s averages over, as a share of the side, at any size of the map."""
    spread = [np.ptp(adaptive_bins(side, 6), axis=1).mean() / side for side in (60, 64, 97, 128, 256)]
    shares = f"{min(spread):.3f} to {max(spread):.3f} of the side on maps of 60 to 256"
    return Finding(
        shares, "does not hold: a scale is a share of the map, whatever its size; what changes is train against test"
    )


@CLAIMS.states("5.1", "PSPNet joins the map and four pooled maps (2048 + 4 x 512 channels).", "layers as built")
def pyramid_channels(networks):
    return compared(2048 + 4 * 512, networks["pspnet"].layer("head.bottleneck.conv").channels[0], within=0)


CLAIMS.undecided("5.1", "Dilation rates are made for one size of the input.")


@CLAIMS.states("5.2", "Attention is global in every stage.", "receptive_field")
def global_stages(networks):
    found = [f"stage {i}" for i in (1, 2, 3, 4) if None in networks["segformer"].fields[f"stage {i}"].size]
    return is_so(len(found) == 4, f"the fields of {', '.join(found)} grow with the image", "others do not")


@CLAIMS.states("5.2", "Keys are reduced 8, 4, 2 and 1 times a side in stages 1 to 4.", "reach")
def all_key_reductions(networks):
    return key_reduction(networks, stated=(8, 4, 2, 1))


@CLAIMS.states("5.2", "The stages keep their scales relative to each other.", "reach, sides of stages 1 and 4")
def relative_scales(networks):
    return scale_ratios(networks)


@CLAIMS.states("5.3", "And 128 at 769.", "adaptive_bins, largest", crop=769, stated=128)
@CLAIMS.states("5.3", "A cell of scale 6 is 85 pixels wide at 512.", "adaptive_bins, largest", crop=512, stated=85)
def cell_width(networks, *, crop, stated):
    return cell_pixels(networks, crop=crop, stated=stated)


@CLAIMS.states("5.3", "A car of 80 pixels lies in one or two cells of scale 6 at 512.", "adaptive_bins, all places")
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


@CLAIMS.states("5.3", "Attention covers 4096 tokens at 512 and 9216 at 769.", "reach, stage 1")
def car_tokens(networks):
    found = [tokens(networks, crop)[0][0] for crop in CROPS]
    return compared((4096, 9216), found, "tokens", within=0)
