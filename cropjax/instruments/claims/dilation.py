"""Section 6: gridding."""

import numpy as np

from cropjax.config import build_model, defaults
from cropjax.instruments.claims.claim import HOLDS, Claims, Finding, compared, is_so
from cropjax.instruments.claims.network import CROPS
from cropjax.instruments.gridding import HDC, dilated_stages, stack
from cropjax.instruments.reach import trace
from cropjax.step import merge_model, split_model

CLAIMS = Claims()


@CLAIMS.states("6.1", "The dilated network has stride 8 and the plain one makes 7 of 224.", "reach")
def output_strides(networks):
    found = [512 / networks["pspnet"].map_side("stage 4", 512)]
    config = defaults("pspnet")
    config.model.backbone.output_stride = 32
    graph, weights = split_model(build_model(config))
    plain = trace(lambda w, x: merge_model(graph, w)(x).maps[-1], weights, (224, 224), spans=True).maps
    return compared((8, 7), [*found, len(plain.rows)], within=0)


@CLAIMS.states("6.2", "A kernel of rate 4 reads nine positions of a square of 9x9.", "gridding")
def sampled(networks):
    one = stack("", (4,))
    return is_so(len(one.paths) == 9, f"{int((one.paths > 0).sum())} of the {one.paths.size} positions", "it does not")


@CLAIMS.states("6.2", "It misses three quarters of what is there.", "gridding, 1 - coverage")
def missing(networks):
    one = stack("", (4,))
    return compared(0.75, 1 - one.coverage)


@CLAIMS.states("6.3", "It helps less where the map is small.", "gridding")
@CLAIMS.states("6.2", "Gridding is worse on a small map and diluted on a large one.", "gridding")
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


@CLAIMS.states("6.3", "contract_dilation is hybrid dilated convolution.", "gridding")
def contract_is_hybrid(networks):
    stages = dilated_stages(networks["deeplabv3plus"].traced(512).layers)
    hybrid = sum((tuple(HDC[max(d)][i % 3] for i in range(len(d))) for d in stages.values()), ())
    plain = sum(((max(d),) * len(d) for d in stages.values()), ())
    found = [stack("", pattern) for pattern in (plain, sum(stages.values(), ()), hybrid)]
    value = "evenness of one rate, as built, hybrid: " + ", ".join(f"{one.evenness:.3f}" for one in found)
    value += "; coverage " + ", ".join(f"{one.coverage:.2f}" for one in found)
    return Finding(
        value,
        "does not hold: only the first block of a stage has another rate; it does take the stages off one grid"
        if found[1].evenness < found[2].evenness
        else HOLDS,
    )
