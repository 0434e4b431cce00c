"""The classes of each data set: train ids, names and colours.

A train id is the class's position in `LabelSet.names`; `IGNORE` marks the pixels that neither loss nor
metrics count. Past `sources` nothing else is ever seen: the ids that a data set's files hold stop there.
"""

import dataclasses

import numpy as np

from cropjax.errors import UserError

IGNORE = 255
MOST_CLASSES = 254  # 254 itself is what `files` marks unknown values with


@dataclasses.dataclass(frozen=True)
class LabelSet:
    """Class names and colours, both in the order of the train ids; colours are (r, g, b) of 0..255."""

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    @property
    def num_classes(self) -> int:
        return len(self.names)


def own_labels(classes, colours=()) -> LabelSet:
    """The classes of a data set of one's own, `data.classes` and `data.colours`; `UserError` for what cannot be.

    Without colours the palette is PASCAL VOC's from its second colour on (VOCcode/VOClabelcolormap.m of its development
    kit): no two are the same, and none is black.
    """
    names, palette = tuple(classes), tuple(tuple(np.atleast_1d(colour).tolist()) for colour in colours)
    if len(names) < 2:
        raise UserError(
            f"data.classes = {names} must name two classes or more, in the order of their ids: what is none of the "
            "others is a class too, as in ('background', 'crack')"
        )
    if len(names) > MOST_CLASSES:
        raise UserError(f"data.classes has {len(names)} names; {MOST_CLASSES} are the most")
    for name in names:
        if not (isinstance(name, str) and name.strip()):
            raise UserError(f"data.classes: {name!r} is no name")
        if names.count(name) > 1:
            raise UserError(f"data.classes has {name!r} twice")
    if palette and len(palette) != len(names):
        raise UserError(f"data.colours has {len(palette)} colours for the {len(names)} names of data.classes")
    for colour in palette:
        if len(colour) != 3 or any(value not in range(256) for value in colour):
            raise UserError(f"data.colours: {colour} is no colour; one is (red, green, blue), each of 0 to 255")
        if palette.count(colour) > 1:
            raise UserError(f"data.colours has {colour} twice")
    return LabelSet(names, palette or tuple(_voc_colour(i + 1) for i in range(len(names))))


def _voc_colour(i: int) -> tuple[int, int, int]:
    """The bits of `i` go to red, green and blue in turn, the lowest to the highest."""
    return tuple(sum((i >> 3 * k + channel & 1) << 7 - k for k in range(3)) for channel in range(3))


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
