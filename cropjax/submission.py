"""The files that the Cityscapes server and cityscapesScripts score: one greyscale PNG of label ids an image.

Both look for `<city>_<sequence>_<frame>*.png` at any depth (evalPixelLevelSemanticLabeling.getPrediction), and stop
where an image has two; so these lie in a folder of their own. The ids are those of the official table, not train ids.
"""

import re
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from cropjax.data.files import read_values
from cropjax.data.labels import CITYSCAPES, CITYSCAPES_LABEL_ID
from cropjax.errors import UserError

_IMAGE = re.compile(r"([^_/]+_\d{6}_\d{6})_leftImg8bit")


def check_names(inputs, labels) -> None:
    """UserError unless the `inputs` are images of Cityscapes, each once, and `labels` its classes."""
    if labels != CITYSCAPES:
        raise UserError(f"--submission: the network has {labels.num_classes} classes of its own, not Cityscapes' 19")
    taken = {}
    for one in inputs:
        other = taken.setdefault(label_name(one.path), one.path)
        if other is not one.path:
            raise UserError(f"--submission: {other} and {one.path} are the same image to the server: leave one out")


def label_name(image: str | Path) -> str:
    """`berlin_000000_000019_pred_labelIds.png` of an image `berlin_000000_000019_leftImg8bit.png`.

    Raises:
        UserError: it has another name.
    """
    match = _IMAGE.fullmatch(Path(image).stem)
    if not match:
        raise UserError(
            f"--submission: {image} is not named <city>_<sequence>_<frame>_leftImg8bit.png: the server finds a result "
            "by its image's name"
        )
    return f"{match[1]}_pred_labelIds.png"


def label_ids(ids: np.ndarray) -> np.ndarray:
    """Train ids uint8 [h,w] to label ids uint8 [h,w]."""
    return CITYSCAPES_LABEL_ID[ids]


def check_labels(images: dict[Path, Path]) -> int:
    """Reads back each file of label ids and returns how many there are; `images` says of which image each is.

    Raises:
        UserError: one has not its image's size, or holds an id that no class has.
    """
    for label, image in images.items():
        values = read_values(label)
        with Image.open(image) as picture:
            w, h = picture.size
            if picture.getexif().get(ExifTags.Base.Orientation, 1) > 4:  # lies on its side
                w, h = h, w
        if values.shape != (h, w):
            raise UserError(f"{label}: {values.shape[0]}x{values.shape[1]} pixels of an image of {h}x{w}; delete it")
        if unknown := set(np.unique(values).tolist()) - set(CITYSCAPES_LABEL_ID.tolist()):
            raise UserError(f"{label}: holds {min(unknown)}, which is no class's label id; delete it")
    return len(images)
