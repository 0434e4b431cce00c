"""What is named on the command line, and the images that come of it."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from trees import film, save

from cropjax.errors import UserError
from cropjax.inputs import decoded, find, pictures

NOWHERE = Path("/nowhere")
IMAGE = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8)
ORIENTATION = 0x0112  # EXIF's tag; 6: the camera was held upright


def found(*arguments, lines=(), without=NOWHERE):
    return [(str(one.path), one.name) for one in find([str(a) for a in arguments], lines, without)]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """b.png, a.jpg, berlin/c.PNG, berlin/deep/a.png, and what is no image or hidden."""
    monkeypatch.chdir(tmp_path)
    for name in ("images/b.png", "images/a.jpg", "images/berlin/deep/a.png", "images/.hidden/h.png", "images/.h.png"):
        save(tmp_path / name, IMAGE)
    save(tmp_path / "images/berlin/c.png", IMAGE)
    (tmp_path / "images/berlin/c.png").rename(tmp_path / "images/berlin/c.PNG")
    (tmp_path / "images/notes.txt").write_text("no image")
    return tmp_path


FOLDER = [
    ("images/a.jpg", "a"),
    ("images/b.png", "b"),
    ("images/berlin/c.PNG", "berlin/c"),
    ("images/berlin/deep/a.png", "berlin/deep/a"),
]


def test_a_folder_is_searched_to_its_ends_and_sorted(tree):
    assert found("images") == found("images/") == FOLDER
    assert found(tree / "images") == [(str(tree / path), name) for path, name in FOLDER]


def test_a_file_is_called_by_its_own_name(tree):
    assert found("images/berlin/c.PNG", "images/b.png") == [("images/berlin/c.PNG", "c"), ("images/b.png", "b")]


def test_a_pattern_is_as_the_folder_before_its_first_star(tree):
    assert found("images/*.png") == [("images/b.png", "b")]
    assert found("images/**/*.png") == [("images/b.png", "b"), ("images/berlin/deep/a.png", "berlin/deep/a")]
    assert found("images/ber*") == FOLDER[2:]
    assert found(tree / "i*s/[ab].???") == [(str(tree / path), f"images/{name}") for path, name in FOLDER[:2]]


def test_a_file_with_a_star_in_its_name_is_a_file(tree):
    save(tree / "odd[1].png", IMAGE)
    assert found("odd[1].png") == [("odd[1].png", "odd[1]")]


def test_lines_of_standard_input_are_files_and_folders(tree):
    lines = ["images/b.png\n", "\n", "images/berlin\n"]
    assert found("-", lines=lines) == [
        ("images/b.png", "b"),
        ("images/berlin/c.PNG", "c"),
        ("images/berlin/deep/a.png", "deep/a"),
    ]


def test_the_results_of_an_earlier_prediction_are_no_images(tree):
    save(tree / "images/out/masks/a.png", IMAGE)
    assert found("images", without=tree / "images/out") == FOLDER
    assert found("images/**/*", without=tree / "images/out") == FOLDER


def test_a_folder_that_cannot_be_listed_is_named(tree, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    (tree / "sub").mkdir(exist_ok=True)
    monkeypatch.setattr(os, "scandir", refuse)  # whoever runs the tests may be root, who may read everything
    with pytest.raises(UserError, match=r"sub: this folder cannot be listed \(Permission denied\)"):
        find([str(tree)], (), tree / "out")


def test_names_that_no_file_can_have_are_not_there(tree):
    with pytest.raises(UserError, match="there is no such file or folder"):
        find(["-"], ["v" * 300], tree / "out")


def test_a_file_named_twice_comes_once(tree):
    assert found("images", "images/b.png", "images/*.png") == FOLDER


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], "no images in nothing"),
        (["empty"], "no images in empty"),
        (["-"], "no images in -"),
        (["nowhere.png"], "nowhere.png: there is no such file"),
        (["images/*.webp"], r"images/\*\.webp: no image or video matches"),
    ],
)
def test_no_images_are_an_error_that_says_where_they_were_looked_for(tree, arguments, wanted):
    (tree / "empty").mkdir()
    with pytest.raises(UserError, match=wanted):
        found(*arguments)


@pytest.mark.parametrize(
    ("first", "second"), [("x.png", "x.jpg"), ("one/x.png", "two/x.png"), ("x.mp4", "x.avi"), ("x.mp4", "x_000003.png")]
)
def test_two_files_of_one_output_are_both_named(tmp_path, first, second):
    for name in (first, second):
        save(tmp_path / name, IMAGE) if name.endswith(("png", "jpg")) else film(tmp_path / name, 1)
    for names in ((first, second), (second, first)):
        with pytest.raises(UserError, match="would both be written as x") as raised:
            found(*(tmp_path / name for name in names))
        assert all(str(tmp_path / name) in str(raised.value) for name in names)


def test_a_video_and_an_image_may_have_one_name(tmp_path):
    film(tmp_path / "x.mp4", 1)
    save(tmp_path / "x.png", IMAGE)
    save(tmp_path / "y_000003.png", IMAGE)
    assert len(found(tmp_path)) == 3


def read(*arguments, wanted=lambda name, path: True):
    return {
        picture.name: pixels for picture, pixels in decoded(pictures(find(map(str, arguments), (), NOWHERE), wanted))
    }


@pytest.mark.parametrize("kind", ["avi", "mp4"])
def test_the_frames_of_a_video_are_numbered_from_0(tmp_path, kind):
    film(tmp_path / f"film.{kind}", 12)
    (video,) = find([str(tmp_path)], (), NOWHERE)
    frames = read(tmp_path)
    assert video.names() == list(frames) == [f"film_{index:06d}" for index in range(12)]
    for index, frame in enumerate(frames.values()):
        assert frame.shape == (32, 48, 3)
        np.testing.assert_allclose(frame.mean((0, 1)), (20 * index, 0, 0), atol=9)


def test_frames_that_are_not_wanted_are_passed_over(tmp_path):
    film(tmp_path / "film.avi", 6)
    every = read(tmp_path)
    some = read(tmp_path, wanted=lambda name, path: name > "film_000003")
    assert list(some) == ["film_000004", "film_000005"]
    for name, frame in some.items():
        np.testing.assert_array_equal(frame, every[name])


def test_a_video_that_is_cut_off_says_so_after_its_frames(tmp_path):
    path = tmp_path / "film.avi"
    film(path, 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    *frames, last = read(path).values()
    assert 5 < len(frames) < 35
    assert f"{path}: ends after {len(frames)} of 40 frames" in str(last)


def test_a_file_that_is_no_video_is_named(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_text("no video")
    (error,) = read(path).values()
    assert f"{path}: cannot be decoded as a video" in str(error)


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "webp"])
def test_formats_without_loss(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    Image.fromarray(IMAGE).save(path, **({"lossless": True} if kind == "webp" else {}))
    np.testing.assert_array_equal(read(path)["x"], IMAGE)


MODES = {"png": ("1", "L", "LA", "P", "RGBA"), "tiff": ("1", "L", "LA", "P", "RGBA", "CMYK")}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in MODES.items() for mode in modes])
def test_every_kind_of_pixel_becomes_colours(tmp_path, kind, mode):
    picture = Image.fromarray(IMAGE).convert(mode)
    picture.save(tmp_path / f"x.{kind}")
    pixels = read(tmp_path)["x"]
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tiff"])
def test_a_photograph_is_turned_as_its_camera_was(tmp_path, kind):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 16:] = 255  # the right half is white
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    extra = {"tiffinfo": TiffImagePlugin.ImageFileDirectory_v2()} if kind == "tiff" else {"exif": exif}
    if kind == "tiff":
        extra["tiffinfo"][ORIENTATION] = 6
    Image.fromarray(pixels).save(tmp_path / f"x.{kind}", **extra)
    upright = read(tmp_path)["x"]
    assert upright.shape == (32, 16, 3)
    assert upright[:14].max() < 30
    assert upright[18:].min() > 225


@pytest.mark.parametrize(
    ("name", "write", "wanted"),
    [
        ("x.gif", lambda path: Image.fromarray(IMAGE).save(path), "not one of PNG, JPEG, WebP, BMP and TIFF"),
        ("x.png", lambda path: path.write_text("words"), "not one of PNG"),
        ("x.png", lambda path: path.write_bytes(b""), "not one of PNG"),
        ("x.jpg", lambda path: cut(path), "truncated or damaged"),
        ("x.webp", lambda path: cut(path), "cannot be decoded"),
        ("x.tiff", lambda path: Image.fromarray(IMAGE[..., 0].astype(np.uint16)).save(path), "8 bits a channel"),
        ("x.png", lambda path: path.symlink_to("nowhere"), None),
        ("x.bmp", lambda path: path.write_bytes(huge()), "claims more than"),
        ("x.webp", lambda path: Image.fromarray(IMAGE).save(path, exif=b"Exif\0\0words"), "cannot be decoded"),
    ],
    ids=["gif", "words", "empty", "truncated jpeg", "truncated webp", "16 bits", "dangling link", "huge", "exif"],
)
def test_what_cannot_be_read_is_named(tmp_path, name, write, wanted):
    path = tmp_path / name
    write(path)
    if wanted is None:
        with pytest.raises(UserError, match="no such file"):
            read(path)
        return
    (error,) = read(path).values()
    assert str(error).startswith(f"{path}: ")
    assert wanted in str(error)


def cut(path):
    Image.fromarray(np.repeat(np.repeat(IMAGE, 9, 0), 9, 1)).save(path)
    path.write_bytes(path.read_bytes()[:-200])


def huge():
    """A BMP whose header says 20,000 x 20,000."""
    return b"BM" + np.array([54, 0, 54, 40, 20000, 20000, 24 << 16 | 1, 0, 0, 0, 0, 0, 0], "<u4").tobytes()


def test_only_a_few_images_are_decoded_ahead(tmp_path):
    for index in range(20):
        save(tmp_path / f"{index:02d}.png", IMAGE)
    asked = []
    images = decoded(pictures(find([str(tmp_path)], (), NOWHERE), lambda name, path: asked.append(name) or True))
    for taken in range(1, 21):
        next(images)
        assert len(asked) <= taken + 3
    assert len(asked) == 20
