"""A prepared data set: a TFDS data set in ArrayRecord whose images are read by the window.

A record holds its name, its size, the image in tiles, the label as train ids, and how many pixels each class has. A
tile is TILE x TILE pixels (less at the right and the bottom), each pixel as its difference from the one above it,
compressed with Blosc: its bits in planes, and those by LZ4. So a crop takes the decoding of the tiles that it touches.
The label is stored as its `Runs`, compressed with Zstandard.
"""

import contextlib
import json
import math
from pathlib import Path
from unittest import mock

import imagecodecs
import numpy as np
import tensorflow_datasets as tfds

from cropjax.data.files import Ids, read_image
from cropjax.data.labels import CITYSCAPES_IDS, LabelSet
from cropjax.data.runs import Runs
from cropjax.errors import UserError

FORM = 3  # of the records, `TILE` included; a store of another form is refused
TILE = 128
FEATURES = tfds.features.FeaturesDict(
    {
        "name": tfds.features.Text(),
        "size": tfds.features.Tensor(shape=(2,), dtype=np.int32),
        "tiles": tfds.features.Sequence(tfds.features.Text()),
        "label": tfds.features.Text(),
        "pixels": tfds.features.Tensor(shape=(None,), dtype=np.int64),
    }
)
# What FEATURES and TFDS's own cityscapes consist of.
_FEATURE_KINDS = [getattr(tfds.features, kind) for kind in ("FeaturesDict", "Image", "Sequence", "Tensor", "Text")]
_SMALLEST = 9  # level of LZ4's high compression, which is read as fast as any


def encode(record: dict, num_classes: int) -> bytes:
    """One record of a source as it is stored; read back and compared before it is given away."""
    image, label = record["image"], record["label"]
    h, w = label.shape
    tiles = [encode_tile(image[y : y + TILE, x : x + TILE]) for y in range(0, h, TILE) for x in range(0, w, TILE)]
    pixels = np.bincount(label.ravel(), minlength=256)[:num_classes]
    example = {"name": record["name"], "size": np.array([h, w], np.int32), "tiles": tiles, "pixels": pixels}
    data = FEATURES.serialize_example(example | {"label": _runs(label)})
    stored = decode(FEATURES.deserialize_example_np(data), record["name"])
    if not (np.array_equal(stored["image"][:, :], image) and np.array_equal(stored["label"][:, :], label)):
        raise RuntimeError(f"{record['name']}: what was stored does not read back")
    return data


def decode(example: dict, where: str) -> dict:
    """A stored example as a record whose image is `Tiles` and whose label is `Runs`."""
    size = tuple(example["size"].tolist())
    image, label = Tiles(size, example["tiles"], where), _read_runs(example["label"], size, where)
    return {"image": image, "label": label, "name": example["name"].decode()}


class Tiles:
    """An image that decodes what it is asked for: `image[rows, columns]` -> uint8 [h, w, 3]."""

    def __init__(self, size: tuple[int, int], tiles: list[bytes], where: str):
        self.shape = (*size, 3)
        self._tiles, self._where = tiles, where
        self._across = -(-size[1] // TILE)

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        (top, bottom), (left, right) = (part.indices(n)[:2] for part, n in zip(window, self.shape, strict=False))
        above, before = top // TILE * TILE, left // TILE * TILE
        ys, xs = range(above, bottom, TILE), range(before, right, TILE)
        lines = np.empty((len(ys), TILE, len(xs) * TILE, 3), np.uint8)
        for row_of_tiles, y in zip(lines, ys, strict=True):
            for x in xs:
                tile = self._tile(y, x)
                row_of_tiles[: len(tile), x - before : x - before + tile.shape[1]] = tile
        for row in range(1, TILE):  # of all tiles at once
            lines[:, row] += lines[:, row - 1]
        return lines.reshape(-1, *lines.shape[2:])[top - above : bottom - above, left - before : right - before]

    def _tile(self, y: int, x: int) -> np.ndarray:
        """The differences in the tile that begins at (y, x)."""
        size = min(TILE, self.shape[0] - y), min(TILE, self.shape[1] - x), 3
        with _damage(self._where):
            tile = self._tiles[y // TILE * self._across + x // TILE]
            pixels = imagecodecs.blosc_decode(tile, numthreads=1, out=math.prod(size))
            return np.frombuffer(pixels, np.uint8).reshape(size)


def encode_tile(pixels: np.ndarray) -> bytes:
    """uint8 [h, w, 3] as it is stored."""
    differences = imagecodecs.delta_encode(np.ascontiguousarray(pixels), axis=0).tobytes()
    options = {"compressor": "lz4hc", "level": _SMALLEST, "shuffle": "bitshuffle", "typesize": 1, "numthreads": 1}
    return imagecodecs.blosc_encode(differences, **options)


def _runs(label: np.ndarray) -> bytes:
    """`per_row` and `starts` as little-endian uint32, then `values`."""
    runs = Runs.of(label)
    numbers = np.concatenate([runs.per_row, runs.starts]).astype("<u4").tobytes()
    return imagecodecs.zstd_encode(numbers + runs.values.tobytes())


def _read_runs(data: bytes, size: tuple[int, int], where: str) -> Runs:
    with _damage(where):
        data = bytes(imagecodecs.zstd_decode(data))
        h, n = size[0], (len(data) - 4 * size[0]) // 5
        per_row, starts = np.split(np.frombuffer(data, "<u4", h + n).astype(np.int64), [h])
        return Runs(size, per_row, starts, np.frombuffer(data, np.uint8, n, 4 * (h + n)))


@contextlib.contextmanager
def _damage(where: str):
    try:
        yield
    except (imagecodecs.BloscError, imagecodecs.ZstdError, ValueError) as error:
        raise UserError(f"{where}: is damaged ({error}); prepare the data set again") from error


# ------------------------------------------------------------------------------------------------------------- sources


class Prepared:
    """The records of one split of what `cropjax.data.prepare` has written at `root` out of `source`."""

    def __init__(self, root: Path, split: str, source: str, labels: LabelSet):
        metadata = _metadata(root)
        if metadata.get("form") != FORM:
            raise UserError(
                f"data.root: {root} was prepared in form {metadata.get('form')}, and this version reads form {FORM}: "
                "prepare it again (python -m cropjax.data.prepare)"
            )
        if metadata["source"] != source:
            raise UserError(f"data.root: {root} was prepared from {metadata['source']}: set data.source to it")
        if metadata["classes"] != list(labels.names):
            mend = "set data.classes to them, or prepare it again" if source == "folders" else "prepare it again"
            raise UserError(f"data.root: {root} has the classes {', '.join(metadata['classes'])}: {mend}")
        self.labels = labels
        self._where = f"{root}, {split}"
        self._examples = _split(root, split)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict:
        example = _read(self._examples, index, self._where)
        return decode(example, f"{self._where}: {example['name'].decode()}")

    def pixels(self, index: int) -> np.ndarray:
        """int64 [k], how many pixels of the record each class has."""
        return _read(self._examples, index, self._where)["pixels"]


class CityscapesTfds:
    """One split of TFDS's own cityscapes/semantic_segmentation, prepared elsewhere and read without TensorFlow.

    "val" is what TFDS calls "validation". Its labels are label ids, and become train ids here.
    """

    def __init__(self, root: Path, split: str, labels: LabelSet):
        self.labels = labels
        split = {"val": "validation"}.get(split, split)
        self._where = f"{root}, {split}"
        self._examples = _split(root, split, decoders={k: tfds.decode.SkipDecoding() for k in _OFFICIAL[1:]})
        self._read_label = Ids(CITYSCAPES_IDS)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict:
        example = _read(self._examples, index, self._where)
        name, image, label = (example[key] for key in _OFFICIAL)
        where = f"{self._where}: {name.decode()}"
        image, label = read_image(_Stored(image, where)), self._read_label(_Stored(label, f"{where}, label"))
        return {"image": image, "label": label, "name": name.decode()}


_OFFICIAL = ("image_id", "image_left", "segmentation_label")


class _Stored:
    """The bytes of an image file inside a record, as a file."""

    def __init__(self, data: bytes, where: str):
        self._data, self._where = data, where

    def read_bytes(self) -> bytes:
        return self._data

    def __str__(self) -> str:
        return self._where


def open_tfds(root: Path, split: str, source: str, labels: LabelSet):
    """The split of the TFDS data set at `root`, prepared by us or by TFDS."""
    features = _json(root / "features.json").get("featuresDict", {}).get("features", {})
    if features.keys() == FEATURES.keys():
        return Prepared(root, split, source, labels)
    if source == "cityscapes" and features.keys() >= set(_OFFICIAL):
        return CityscapesTfds(root, split, labels)
    raise UserError(
        f"data.root: {root} is a TFDS data set of {', '.join(features) or 'nothing'}, which data.source = {source!r} "
        "does not read: prepare the original files with python -m cropjax.data.prepare"
    )


def _split(root: Path, split: str, **options):
    info = _json(root / "dataset_info.json")
    splits = {entry["name"]: entry for entry in info.get("splits", ())}
    if split not in splits:
        raise UserError(
            f"data.root: {root} has no split {split!r} (found: {', '.join(splits) or 'none'}); "
            "mend data.train_split or data.eval_split"
        )
    if info.get("fileFormat") != "array_record":
        raise UserError(f"data.root: {root} is not in ArrayRecord: prepare it with file_format=array_record")
    builder = _builder(root)
    paths = [Path(path) for path in builder.info.splits[split].filepaths]
    if outside := [path for path in paths if path.parent != root]:
        raise UserError(f"data.root: {root} says that {outside[0]} belongs to it; prepare the data set again")
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: is missing, with {len(missing) - 1} more; copy or prepare the data set again")
    return builder.as_data_source(split, **options)


def _builder(root: Path):
    """TFDS's own. It would import whatever module features.json names, be it one that lies in `root`."""
    known = {f"{kind.__module__}.{kind.__name__}": kind for kind in _FEATURE_KINDS}

    def feature_class(name):
        if name not in known:
            raise UserError(f"data.root: {root / 'features.json'} names {name!r}, no feature that is read here")
        return known[name]

    with mock.patch.object(tfds.features.FeatureConnector, "cls_from_name", feature_class):
        return tfds.builder_from_directory(root)


def _read(examples, index: int, where: str) -> dict:
    if not 0 <= index < len(examples):
        raise IndexError(index)  # how iteration ends
    try:
        return examples[index]
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"{where}: record {index} cannot be read ({error}); copy or prepare the data set again"
        ) from error


def _metadata(root: Path) -> dict:
    return _json(root / "metadata.json")


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); copy or prepare the data set again") from error
