"""Section 2: the cells of PSPNet's pyramid."""

import numpy as np

from cropjax.instruments.claims.claim import UNDECIDED, Claims, Finding, compared, is_so, text
from cropjax.instruments.claims.network import CROPS
from cropjax.ops.pool import adaptive_bins

CLAIMS = Claims()


@CLAIMS.states("2.1", "Scales 1, 2, 3 and 6 make 1, 4, 9 and 36 regions.", "adaptive_bins")
def regions(networks):
    scales = networks["pspnet"].config.model.head.pool_scales
    side = networks["pspnet"].map_side("stage 4", 512)
    return compared((1, 4, 9, 36), [len(np.unique(adaptive_bins(side, s), axis=0)) ** 2 for s in scales], within=0)


@CLAIMS.states("2.1", "The last map has 2048 channels, and each branch makes 512 of them.", "layers as built")
def branch_channels(networks):
    found = [networks["pspnet"].layer(f"head.pools.{k}.conv").channels for k in range(4)]
    return is_so(set(found) == {(2048, 512)}, ", ".join(f"{i} to {o}" for i, o in found), "they have others")


@CLAIMS.states("2.2", "A crop of 769 gives a map of 96x96.", "reach", crop=769, stated=96)
@CLAIMS.states("2.2", "A crop of 512 gives a map of 64x64.", "reach", crop=512, stated=64)
def map_side(networks, *, crop, stated):
    return compared(stated, networks["pspnet"].map_side("stage 4", crop), "rows", within=0)


@CLAIMS.states(
    "2.2",
    "At 769 they have 9216, 2304, 1024 and 256.",
    "adaptive_bins, largest",
    crop=769,
    stated=(9216, 2304, 1024, 256),
)
@CLAIMS.states(
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


@CLAIMS.states("2.3", "The pyramid was designed for larger images, where its 36 cells hold objects.", "adaptive_bins")
def trained_for_large(networks):
    sides = [networks["pspnet"].map_side("stage 4", side) for side in (*CROPS, 1024)]
    shares = [np.ptp(adaptive_bins(side, 6), axis=1).max() * 8 for side in sides]
    return Finding(f"{shares[0]}, {shares[1]} and {shares[2]} pixels a side at 512, 769 and 1024 rows", UNDECIDED)


CLAIMS.undecided("2.3", "At 512 a cell of scale 6 holds parts of objects and its average cannot discriminate.")


CLAIMS.undecided("2.3", "The global average of a smaller crop has less to tell.")


@CLAIMS.states("2.4", "At 769 it is 128x128 pixels.", "adaptive_bins, largest", crop=769, stated=128)
@CLAIMS.states("2.4", "At 512 a cell of scale 6 is 80x80 pixels.", "adaptive_bins, largest", crop=512, stated=80)
def cell_pixels(networks, *, crop, stated):
    side = networks["pspnet"].map_side("stage 4", crop)
    stride = networks["pspnet"].fields["stage 4"].jump[0]
    sizes = np.unique(np.ptp(adaptive_bins(side, 6), axis=1)) * stride
    finding = compared(stated, sizes.max(), "pixels a side")
    return Finding(f"{' or '.join(map(text, sizes))} pixels a side", finding.verdict)


@CLAIMS.states("2.4", "These are 2.4 % and 2.8 % of the input.", "adaptive_bins, mean")
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


@CLAIMS.states("2.4", "The cell at 769 has 2.56 times the positions of the one at 512.", "adaptive_bins, mean")
def cell_pixel_ratio(networks):
    sides = [networks["pspnet"].map_side("stage 4", crop) for crop in CROPS]
    small, large = (np.mean(np.ptp(adaptive_bins(side, 6), axis=1)) for side in sides)
    return compared(2.56, (large / small) ** 2, "times")
