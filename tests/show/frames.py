"""Makes photographs of Cityscapes' size out of comma10k's, to time reading on: a tree of 2048x1024 PNGs with train ids.

    python tests/show/frames.py COMMA10K OUT

Every image, enlarged, gives four: its upper and its lower part, each also mirrored. Drawn scenes decode too easily.
"""

import sys
from pathlib import Path

import cv2
from PIL import Image

from cropjax.data.sources import Comma10k

SIZE = (1024, 2048)


def frames(record):
    """(image, label) of the four."""
    h, w = record["label"].shape
    scaled = (SIZE[1], round(h * SIZE[1] / w))
    image = cv2.resize(record["image"], scaled, interpolation=cv2.INTER_CUBIC)
    label = cv2.resize(record["label"], scaled, interpolation=cv2.INTER_NEAREST)
    for rows in (slice(SIZE[0]), slice(-SIZE[0], None)):
        for step in (1, -1):
            yield image[rows, ::step], label[rows, ::step]


def main(root, out):
    for split in ("train", "val"):
        for record in Comma10k(root, split):
            for i, pixels in enumerate(frames(record)):
                for folder, ending, part in zip(
                    ("leftImg8bit", "gtFine"), ("leftImg8bit", "gtFine_labelTrainIds"), pixels, strict=True
                ):
                    path = Path(out, folder, split, "comma10k", f"{record['name']}_{i}_{ending}.png")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(part).save(path)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
