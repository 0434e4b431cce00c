"""The classes of each data set: train ids, names and colours.

A train id is the class's position in `LabelSet.names`; `IGNORE` marks the pixels that neither loss nor
metrics count. Past `sources` nothing else is ever seen: the ids that a data set's files hold stop there.
"""

import dataclasses

import numpy as np

IGNORE = 255


@dataclasses.dataclass(frozen=True)
class LabelSet:
    """Class names and colours, both in the order of the train ids; colours are (r, g, b) of 0..255."""

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    @property
    def num_classes(self) -> int:
        return len(self.names)


# (name, id in the *_labelIds.png files, colour) in the order of the train ids, after Cordts et al. 2016.
_CITYSCAPES = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)

# The 11 classes of SegNet's CamVid (Badrinarayanan et al. 2015) and the colours that its demo paints.
_CAMVID = (
    ("sky", (128, 128, 128)),
    ("building", (128, 0, 0)),
    ("pole", (192, 192, 128)),
    ("road", (128, 64, 128)),
    ("pavement", (60, 40, 222)),
    ("tree", (128, 128, 0)),
    ("sign symbol", (192, 128, 128)),
    ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)),
    ("pedestrian", (64, 64, 0)),
    ("bicyclist", (0, 128, 192)),
)

# comma10k's five classes in the colours of its masks (commaai/comma10k, README).
_COMMA10K = (
    ("road", (64, 32, 32)),
    ("lane markings", (255, 0, 0)),
    ("undrivable", (128, 128, 96)),
    ("movable", (0, 255, 102)),
    ("my car", (204, 0, 255)),
)

CITYSCAPES = LabelSet(
    names=tuple(name for name, _, _ in _CITYSCAPES), palette=tuple(colour for _, _, colour in _CITYSCAPES)
)
CAMVID, COMMA10K = (
    LabelSet(names=tuple(name for name, _ in classes), palette=tuple(colour for _, colour in classes))
    for classes in (_CAMVID, _COMMA10K)
)

# uint8[19]: the id of each train id in the *_labelIds.png files.
CITYSCAPES_LABEL_ID = np.array([label_id for _, label_id, _ in _CITYSCAPES], np.uint8)
CITYSCAPES_LABEL_ID.flags.writeable = False
# uint8[256]: the 34 label ids 0..33 to train ids; the 15 that are not evaluated, and all else, to IGNORE.
CITYSCAPES_TRAIN_ID = np.full(256, IGNORE, np.uint8)
CITYSCAPES_TRAIN_ID[CITYSCAPES_LABEL_ID] = np.arange(len(_CITYSCAPES))
CITYSCAPES_TRAIN_ID.flags.writeable = False
# What a file of label ids may hold -> train id.
CITYSCAPES_IDS = {value: int(CITYSCAPES_TRAIN_ID[value]) for value in (*range(34), IGNORE)}
