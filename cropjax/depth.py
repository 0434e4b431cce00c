"""How deep in the network a parameter is: what layer-wise learning rates go by.

The backbone's stem, part 0 of models/frozen.py, has depth 0. Then each block has a depth of its own, all stages one
after another, 1 to N. The heads have N + 1. A later stage's patch embedding is as deep as the first block of the stage,
and a stage's closing norm as its last.

So `mmseg/engine/optimizers/layer_decay_optimizer_constructor.py` numbers the layers of BEiT and MAE; it knows none of
our backbones, and several blocks of ConvNeXt are one layer there. Clark et al. 2020 (ELECTRA), Bao et al. 2021 (BEiT).
"""

import re
from itertools import accumulate

HEADS = 5  # the part behind the backbone's, which are the stem and four stages
LAST = -1  # instead of the number of a block

_STEM = re.compile(r"backbone\.(stem|conv1|stages\.0\.embed|stages\.0\.embed_norm|embeds\.0)\.")
_EMBEDDING = re.compile(r"backbone\.(?:stages\.(\d)\.embed|stages\.(\d)\.embed_norm|embeds\.(\d))\.")
_BLOCK = re.compile(r"backbone\.(?:stages\.(\d)|stages\.(\d)\.blocks|blocks\.(\d))\.(\d+)\.")
_NORM = re.compile(r"backbone\.(?:stages\.(\d)\.norm|norms\.(\d))\.")


def part(path):
    """The part of the network that the parameter at `path` is of: 0 is the stem, 1 to 4 the stages, 5 the heads."""
    return _place(path)[0]


def depths(paths):
    """The depth of the parameter at each of `paths`, all of a network's: ({path: depth}, the heads' depth)."""
    places = {path: _place(path) for path in paths}
    lengths = [1 + max((block for i, block in places.values() if i == part), default=0) for part in range(HEADS)]
    starts = list(accumulate(lengths, initial=0))
    found = {path: starts[i] + (lengths[i] - 1 if block == LAST else block) for path, (i, block) in places.items()}
    return found, starts[HEADS]


def _place(path):
    """The part, and the block within it."""
    if _STEM.match(path):
        return 0, 0
    if found := _EMBEDDING.match(path):
        return _part_of_stage(found), 0
    if found := _BLOCK.match(path):
        return _part_of_stage(found), int(found[4])
    if found := _NORM.match(path):
        return _part_of_stage(found), LAST
    return HEADS, 0


def _part_of_stage(found):
    return 1 + int(next(group for group in found.groups() if group))
