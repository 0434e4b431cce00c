"""From an image or label file to pixels, complete or a `UserError` that names it.

A file is a `pathlib.Path` or a `Member` of a zip archive: what has a `name`, a `stem` and `read_bytes()`.
"""

import contextlib
import io
import math
import struct
from collections.abc import Iterator, Mapping, Sequence

import cv2
import imagecodecs
import numpy as np
from PIL import Image, ImageOps

from cropjax.data.labels import IGNORE, MOST_CLASSES
from cropjax.errors import UserError

MOST_PIXELS = Image.MAX_IMAGE_PIXELS  # 89 million: more is taken for a decompression bomb
_UNKNOWN = MOST_CLASSES  # marks what is no class
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
OTHER_FORMATS = (b"RIFF", b"BM", b"II*\0", b"MM\0*")  # how WebP, BMP and TIFF begin
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


def read_image(file) -> np.ndarray:
    """The pixels as stored, uint8 [h, w, 3] RGB.

    As OpenCV converts to colours: 16 bits to 8 by cutting off, grey and palette to colours, alpha dropped. An EXIF
    orientation is not applied, because a label file has none.
    """
    return _colours(file, read_bytes(file), cv2.IMREAD_IGNORE_ORIENTATION)


def read_photograph(file) -> np.ndarray:
    """As `read_image`, but upright, as viewers and OpenCV show it, and also of WebP, BMP and TIFF; of these, 8 bits."""
    data = _content(file)
    if data.startswith((_PNG, _JPEG)):
        _check_whole(file, data)
        return _colours(file, data)
    if not data.startswith(OTHER_FORMATS):
        raise UserError(f"{file}: not one of PNG, JPEG, WebP, BMP and TIFF; convert it to one of them")
    _check_size(file, data)
    picture = open_picture(file, data)
    if picture.mode.startswith(("I", "F")):
        raise UserError(f"{file}: an image of mode {picture.mode}; convert it to 8 bits a channel")
    with _damage_named(file):
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def _colours(file, data: bytes, orientation: int = 0) -> np.ndarray:
    """A PNG or JPEG as uint8 [h, w, 3]; `orientation` is OpenCV's flag that leaves the EXIF orientation, or 0."""
    pixels = None
    if orientation or b"eXIf" not in data:
        pixels = _plain_png(data, channels=3)
    if pixels is None:
        with contextlib.suppress(cv2.error):
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | orientation)
    if pixels is None:
        raise UserError(f"{file}: cannot be decoded; copy or download it again")
    return pixels


def _plain_png(data: bytes, channels: int) -> np.ndarray | None:
    """A PNG of one or three channels of 8 bits, uint8 [h, w] or [h, w, 3], sooner than OpenCV has it; or None."""
    if data.startswith(_PNG) and data[24:26] == bytes([8, {1: 0, 3: 2}[channels]]):  # depth, kind
        with contextlib.suppress(imagecodecs.PngError, imagecodecs.DeflateError):
            pixels = imagecodecs.png_decode(_inflated(data) if channels == 3 else data)
            if pixels.shape[2:] == ((3,) if channels == 3 else ()):  # a transparent colour would make it one more
                return pixels
    return None


def _inflated(data: bytes) -> bytes:
    """A PNG of 8-bit RGB with its pixels alone and not compressed; an interlaced one as it is.

    Libdeflate takes a quarter of the time of zlib, by which every decoder would do it: two thirds of a photograph's.
    """
    header = data[:33]  # with the signature
    w, h, interlaced = struct.unpack_from(">II4xB", header, 16)
    if interlaced:
        return data
    compressed = b"".join(body for kind, body in _chunks(data) if kind == b"IDAT")
    lines = imagecodecs.deflate_decode(compressed, out=h * (1 + 3 * w))
    stored = b"IDAT" + imagecodecs.deflate_encode(lines, level=0)
    length, checksum = struct.pack(">I", len(stored) - 4), struct.pack(">I", imagecodecs.deflate_crc32(stored))
    return b"".join([header, length, stored, checksum, _PNG_END])


def _chunks(png: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and body of each chunk up to the end chunk; `ValueError` where one is cut off or has another checksum."""
    place, kind, data = 8, b"", memoryview(png)
    while kind != b"IEND":
        try:
            (length,) = struct.unpack_from(">I", data, place)
            (checksum,) = struct.unpack_from(">I", data, place + 8 + length)
        except struct.error as error:
            raise ValueError(f"the chunk at byte {place} is cut off") from error
        kind_and_body = data[place + 4 : place + 8 + length]
        if imagecodecs.deflate_crc32(kind_and_body) != checksum:
            raise ValueError(f"the chunk at byte {place} is damaged")
        kind = bytes(kind_and_body[:4])
        yield kind, kind_and_body[4:]
        place += 12 + length


class Ids:
    """Reads label files of one 8-bit channel; `train_id` maps every value that one may hold to its train id."""

    def __init__(self, train_id: Mapping[int, int]):
        self._known = sorted(train_id)
        self._train_id = np.full(256, _UNKNOWN, np.uint8)
        self._train_id[list(train_id)] = list(train_id.values())

    def __call__(self, file) -> np.ndarray:
        """uint8 [h, w] train ids."""
        values = read_values(file)
        label = cv2.LUT(values, self._train_id)
        if (label == _UNKNOWN).any():
            unknown = np.setdiff1d(values, self._known)
            raise UserError(
                f"{file}: holds the value {unknown[0]}, which is no class; allowed are {_ranges(self._known)}"
            )
        return label


class Colours:
    """Reads label files that show classes in colours: `palette[i]` (r, g, b) is train id i. Alpha does not count.

    Pixels of a colour in `ignored` become 255. A grey file, also of one bit, is read where a class has a grey.
    """

    def __init__(self, palette: Sequence[tuple[int, int, int]], ignored: Sequence[tuple[int, int, int]] = ()):
        codes = _code(np.array([*palette, *ignored], np.uint8))
        order = np.argsort(codes)
        self._codes = codes[order]
        self._train_id = np.array([*range(len(palette)), *[IGNORE] * len(ignored)], np.uint8)[order]
        self._modes = ["RGB", "RGBA", "P"] + ["L", "1"] * any(len(set(colour)) == 1 for colour in palette)

    def __call__(self, file) -> np.ndarray:
        """uint8 [h, w] train ids."""
        picture = open_picture(file, read_bytes(file))
        if picture.mode not in self._modes:
            raise UserError(f"{file}: an image of mode {picture.mode}; a label of this data set is in colours")
        codes = _code(np.asarray(picture.convert("RGB")))
        places = np.minimum(np.searchsorted(self._codes, codes), len(self._codes) - 1)
        unknown = self._codes[places] != codes
        if unknown.any():
            y, x = np.argwhere(unknown)[0]
            raise UserError(f"{file}: the colour #{codes[y, x]:06x} at row {y}, column {x} is no class's")
        return self._train_id[places]


def _code(colours: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] -> int32 [...], 0xrrggbb."""
    return colours.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def read_values(file) -> np.ndarray:
    """The values as stored, uint8 [h, w]; of a palette image the indices, not the colours (OpenCV gives those)."""
    data = read_bytes(file)
    values = _plain_png(data, channels=1)
    if values is not None:
        return values
    picture = open_picture(file, data)
    if picture.mode not in ("L", "P"):
        raise UserError(
            f"{file}: an image of mode {picture.mode}; a label has one 8-bit channel of class ids, not colours "
            "(which data.source = 'folders' reads, see data.colours)"
        )
    return np.asarray(picture)


def open_picture(file, data: bytes) -> Image.Image:
    """The decoded picture of a file's bytes."""
    with _damage_named(file):
        picture = Image.open(io.BytesIO(data))
        picture.load()
    return picture


@contextlib.contextmanager
def _damage_named(file):
    """Turns what Pillow raises over a damaged file, which may be of any kind, into a UserError."""
    try:
        yield
    except MemoryError:  # the file may be sound
        raise
    except Exception as error:
        raise UserError(f"{file}: cannot be decoded ({error}); copy or download it again") from error


def read_bytes(file) -> bytes:
    """The bytes of a whole PNG or JPEG: some decoders fill what a truncated file lacks with grey.

    OpenCV 4.10 does so for a JPEG without a word; OpenCV 5 refuses it.
    """
    data = _content(file)
    if not data.startswith((_PNG, _JPEG)):
        raise UserError(f"{file}: neither PNG nor JPEG; convert it, or remove it with its counterpart")
    _check_whole(file, data)
    return data


def _content(file) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error


def _check_whole(file, data: bytes) -> None:
    _check_size(file, data)
    if not (_whole_png(data) if data.startswith(_PNG) else _whole_jpeg(data)):
        raise UserError(f"{file}: truncated or damaged; copy or download it again")


def _check_size(file, data: bytes) -> None:
    if _claimed_pixels(file, data) > MOST_PIXELS:
        raise UserError(f"{file}: claims more than {MOST_PIXELS} pixels; remove it, or cut it into parts")


def _claimed_pixels(file, data: bytes) -> int:
    """By the header alone."""
    if data.startswith(_PNG):
        w, h = struct.unpack(">II", data[16:24].ljust(8, b"\0"))
        return w * h
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return math.prod(picture.size)
    except Image.DecompressionBombError:
        return MOST_PIXELS + 1
    except (OSError, SyntaxError, ValueError) as error:  # OpenCV may decode it all the same, to any size
        raise UserError(f"{file}: cannot be decoded ({error}); copy or download it again") from error


def _whole_jpeg(data: bytes) -> bool:
    """Whether it ends after its last scan's start: neither marker can occur inside a scan."""
    return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda") >= 0


def _whole_png(data: bytes) -> bool:
    """Whether every chunk's checksum holds, up to the end chunk."""
    try:
        for _ in _chunks(data):
            pass
    except ValueError:
        return False
    return True


def _ranges(values: list[int]) -> str:
    """[0, 1, 2, 255] -> '0..2 and 255'."""
    starts = [v for v in values if v - 1 not in values]
    ends = [v for v in values if v + 1 not in values]
    return " and ".join(str(a) if a == b else f"{a}..{b}" for a, b in zip(starts, ends, strict=True))
