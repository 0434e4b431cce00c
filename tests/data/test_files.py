"""Image and label files as they come: what is read, how, and what is refused by name."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cropjax.data import files
from cropjax.data.labels import COMMA10K
from cropjax.errors import UserError


def rgb(seed: int, h: int = 6, w: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def refused(read, path, text):
    with pytest.raises(UserError, match=text) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


# ---- images ----------------------------------------------------------------------------------------------------------


def test_a_grey_image_has_three_equal_channels(tmp_path):
    Image.fromarray(rgb(0)[..., 0]).save(tmp_path / "x.png")
    np.testing.assert_array_equal(files.read_image(tmp_path / "x.png"), np.repeat(rgb(0)[..., :1], 3, 2))


def test_an_alpha_channel_is_dropped(tmp_path):
    pixels = np.concatenate([rgb(0), np.full((6, 8, 1), 7, np.uint8)], 2)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    np.testing.assert_array_equal(files.read_image(tmp_path / "x.png"), rgb(0))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("transparent", [False, True])
def test_every_plain_png_is_read_as_opencv_reads_it(tmp_path, interlaced, transparent):
    """Those that are read by another decoder: 8 bits, colours or grey, with a transparent colour or without."""
    for pixels in (rgb(0, 33, 17), rgb(0, 33, 17)[..., 0], rgb(0, 200, 300)):  # the last in several chunks
        path = tmp_path / "x.png"
        picture = Image.fromarray(pixels)
        options = {"transparency": tuple(pixels[0, 0].tolist()) if pixels.ndim == 3 else 7} if transparent else {}
        picture.save(path, **options)
        if interlaced:
            write_interlaced(path)
        expected = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        np.testing.assert_array_equal(files.read_image(path), expected)
        if pixels.ndim == 2:
            np.testing.assert_array_equal(files.read_values(path), pixels)


def test_what_comes_behind_a_png_is_not_read(tmp_path):
    """Some programs append to files; OpenCV does not mind either."""
    path = tmp_path / "x.png"
    Image.fromarray(rgb(0)).save(path)
    for behind in (b"\0", b"more than a chunk", path.read_bytes()):
        path.write_bytes(path.read_bytes() + behind)
        np.testing.assert_array_equal(files.read_image(path), rgb(0))


def write_interlaced(path):
    """The PNG again, its rows in Adam7's seven passes."""
    pixels = np.asarray(Image.open(path))
    first, data = path.read_bytes(), b""
    for y, x, dy, dx in (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ):
        part = pixels[y::dy, x::dx]
        data += b"".join(b"\0" + row.tobytes() for row in part) if part.size else b""
    header = bytearray(first[16:29])
    header[12] = 1
    transparent = first.find(b"tRNS")
    kept = first[transparent - 4 : transparent + 8 + int.from_bytes(first[transparent - 4 : transparent], "big")]
    parts = chunk(b"IHDR", bytes(header)), kept if transparent > 0 else b"", chunk(b"IDAT", zlib.compress(data))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))


def test_a_palette_image_has_its_colours(tmp_path):
    picture = Image.fromarray(rgb(0)).quantize(16)
    picture.save(tmp_path / "x.png")
    np.testing.assert_array_equal(files.read_image(tmp_path / "x.png"), np.asarray(picture.convert("RGB")))


def test_sixteen_bits_become_eight_as_opencv_does(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 1 << 16, (6, 8, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "x.png"), pixels[..., ::-1])
    np.testing.assert_array_equal(files.read_image(tmp_path / "x.png"), pixels >> 8)


def test_an_exif_orientation_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(rgb(0)).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(files.read_image(tmp_path / "x.png"), rgb(0))
    Image.fromarray(rgb(0)).save(tmp_path / "x.jpg", exif=exif)
    assert files.read_image(tmp_path / "x.jpg").shape == (6, 8, 3)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("read", [files.read_image, files.read_values, files.Colours(COMMA10K.palette)])
@pytest.mark.parametrize("side", [10_000, 60_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_undecoded(tmp_path, read, side):
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    refused(read, tmp_path / "x.png", r"claims more than 89478485 pixels; remove it")


@pytest.mark.parametrize("place", range(8))
def test_a_damaged_signature_is_named(tmp_path, place):
    Image.fromarray(rgb(0)).save(tmp_path / "x.png")
    data = bytearray((tmp_path / "x.png").read_bytes())
    data[place] ^= 1
    (tmp_path / "x.png").write_bytes(data)
    refused(files.read_image, tmp_path / "x.png", "neither PNG nor JPEG")


def test_a_file_that_may_not_be_read(tmp_path):
    class Locked(type(tmp_path)):  # whoever runs the tests may be root, who may read everything
        def read_bytes(self):
            raise PermissionError(13, "Permission denied")

    refused(files.read_image, Locked(tmp_path / "x.png"), r"cannot be read \(Permission denied\)")
    refused(files.read_image, tmp_path / "none.png", r"cannot be read \(No such file or directory\)")


# ---- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "I;16", "1"])
def test_a_label_is_one_channel_of_ids(tmp_path, mode):
    picture = Image.fromarray(rgb(0)[..., 0].astype(np.uint16)) if mode == "I;16" else Image.fromarray(rgb(0))
    (picture if mode == "I;16" else picture.convert(mode)).save(tmp_path / "x.png")
    refused(files.Ids({1: 0}), tmp_path / "x.png", f"an image of mode {mode}; a label has one 8-bit channel")


def test_a_value_that_is_no_class(tmp_path):
    Image.fromarray(np.array([[0, 1, 9]], np.uint8)).save(tmp_path / "x.png")
    refused(files.Ids({0: 0, 1: 1, 255: 255}), tmp_path / "x.png", r"the value 9, which is no class; .* 0..1 and 255")


palettes = st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=20, unique=True)


@given(palette=palettes, alpha=st.booleans(), seed=st.integers(0, 99))
def test_colours_are_the_classes_of_their_palette(tmp_path_factory, palette, alpha, seed):
    rng, path = np.random.default_rng(seed), tmp_path_factory.getbasetemp() / "colours.png"
    ids = rng.integers(0, len(palette), (5, 7))
    pixels = np.array(palette, np.uint8)[ids]
    if alpha:
        pixels = np.concatenate([pixels, rng.integers(0, 256, (5, 7, 1), np.uint8)], 2)
    Image.fromarray(pixels).save(path)
    label = files.Colours(palette)(path)
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, ids)


def test_a_colour_that_is_no_class(tmp_path):
    read, pixels = files.Colours(COMMA10K.palette), np.full((3, 4, 3), COMMA10K.palette[1], np.uint8)
    pixels[2, 1] = 1, 2, 3
    Image.fromarray(pixels).save(tmp_path / "x.png")
    refused(read, tmp_path / "x.png", "the colour #010203 at row 2, column 1 is no class's")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "x.png")
    refused(read, tmp_path / "x.png", "an image of mode L; a label of this data set is in colours")
