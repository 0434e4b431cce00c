"""Small data sets on disk, laid out as the real ones are."""

import cv2
import numpy as np
from PIL import Image

from cropjax.data.labels import COMMA10K


def cityscapes_tree(root, counts, size=(20, 40), labels="labelIds"):
    """`counts` {split: images} of noise, their `labels` all "labelIds" or "labelTrainIds"; returns `root`."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for i in range(count):
            for folder, ending, pixels in (
                ("leftImg8bit", "leftImg8bit", rng.integers(0, 256, (*size, 3), np.uint8)),
                ("gtFine", f"gtFine_{labels}", rng.integers(0, {"labelIds": 34, "labelTrainIds": 19}[labels], size)),
            ):
                save(root / folder / split / "ulm" / f"ulm_{i:06d}_000019_{ending}.png", pixels)
    return root


def comma10k_tree(root, labels):
    """Images of noise for `labels` {name: int [h,w]}, shown in comma10k's colours; returns `root`."""
    rng = np.random.default_rng(0)
    for name, label in labels.items():
        save(root / "imgs" / f"{name}.png", rng.integers(0, 256, (*label.shape, 3)))
        save(root / "masks" / f"{name}.png", np.array(COMMA10K.palette)[label])
    return root


def folders_tree(root, counts, num_classes, colours=(), size=(20, 40)):
    """`counts` {split: images} of noise, their labels ids with some 255, or in `colours`; returns `root`."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for i in range(count):
            ids = rng.integers(0, num_classes, size)
            label = np.array(colours)[ids] if colours else np.where(rng.random(size) < 0.1, 255, ids)
            save(root / "images" / split / f"{i:04d}.png", rng.integers(0, 256, (*size, 3)))
            save(root / "labels" / split / f"{i:04d}.png", label)
    return root


def film(path, frames, size=(32, 48)):
    """A video whose frames are of one red each, lighter and lighter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter_fourcc(*"MJPG" if path.suffix == ".avi" else "mp4v"), 5, size[::-1]
    )
    assert writer.isOpened()
    for index in range(frames):
        writer.write(np.full((*size, 3), (0, 0, 20 * index % 256), np.uint8))
    writer.release()


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
