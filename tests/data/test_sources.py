"""Reading the trees of Cityscapes, CamVid and one's own, and what a user can get wrong in them."""

import pickle

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from trees import folders_tree

from cropjax.data import files, sources
from cropjax.data.labels import CITYSCAPES_TRAIN_ID, IGNORE
from cropjax.errors import UserError


def rgb(seed: int, h: int = 6, w: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def write_rgb(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_label(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def write_palette(path, values):
    """A 4-bit palette PNG whose colours are far from its indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values.astype(np.uint8)).convert("P")
    picture.putdata(values.ravel().tolist())
    picture.putpalette([200 - i for i in range(48)])
    picture.save(path, bits=4)
    assert path.read_bytes()[24] == 4  # the bit depth


@pytest.fixture
def cityscapes(tmp_path):
    """Three images in two cities; the label of image i is 7 + i everywhere, 0 in one corner."""
    for i, (city, frame) in enumerate(
        [("ulm", "ulm_000001_000019"), ("ulm", "ulm_000000_000019"), ("bonn", "bonn_0_0")]
    ):
        values = np.full((6, 8), 7 + i)
        values[0, 0] = 0
        write_rgb(tmp_path / f"leftImg8bit/train/{city}/{frame}_leftImg8bit.png", rgb(i))
        write_label(tmp_path / f"gtFine/train/{city}/{frame}_gtFine_labelIds.png", values)
    return tmp_path


@pytest.fixture
def camvid(tmp_path):
    """Two images, PNG and JPEG, with the values 0..11."""
    values = np.arange(48).reshape(6, 8) % 12
    write_rgb(tmp_path / "train/b.png", rgb(0))
    Image.fromarray(rgb(1)).save(tmp_path / "train/a.jpg", quality=95)
    write_palette(tmp_path / "trainannot/a.png", values)
    write_label(tmp_path / "trainannot/b.png", values)
    return tmp_path


def error_of(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_cityscapes_records(cityscapes):
    source = sources.Cityscapes(cityscapes, "train")
    records = [source[i] for i in range(len(source))]
    assert [r["name"] for r in records] == ["bonn_0_0", "ulm_000000_000019", "ulm_000001_000019"]
    for record, i in zip(records, (2, 1, 0), strict=True):
        np.testing.assert_array_equal(record["image"], rgb(i))
        assert record["label"].dtype == np.uint8
        assert record["label"][0, 0] == IGNORE
        assert (record["label"].ravel()[1:] == CITYSCAPES_TRAIN_ID[7 + i]).all()


def test_cityscapes_takes_train_ids_only_where_every_image_has_them(cityscapes):
    by_label_ids = [sources.Cityscapes(cityscapes, "train")[i]["label"] for i in range(3)]
    label_files = sorted(cityscapes.glob("gtFine/train/*/*_labelIds.png"))
    for k, path in enumerate(label_files):
        train_ids = CITYSCAPES_TRAIN_ID[np.asarray(Image.open(path))]
        write_label(path.with_name(path.name.replace("labelIds", "labelTrainIds")), train_ids)
        if k < 2:
            assert len(sources.Cityscapes(cityscapes, "train")) == 3
            np.testing.assert_array_equal(sources.Cityscapes(cityscapes, "train")[2]["label"], by_label_ids[2])
    for path in label_files:
        path.unlink()
    source = sources.Cityscapes(cityscapes, "train")
    for i in range(3):
        np.testing.assert_array_equal(source[i]["label"], by_label_ids[i])


def test_camvid_records(camvid):
    source = sources.CamVid(str(camvid), "train")
    assert [source[i]["name"] for i in range(len(source))] == ["a", "b"]
    np.testing.assert_array_equal(source[1]["image"], rgb(0))
    assert source[0]["image"].shape == (6, 8, 3)
    expected = np.arange(48).reshape(6, 8) % 12
    expected[expected == 11] = IGNORE
    for i in range(2):  # a palette's indices, and plain grey
        np.testing.assert_array_equal(source[i]["label"], expected)


def test_a_source_survives_pickling(camvid):
    source = sources.CamVid(camvid, "train")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[1]["image"], source[1]["image"])


def test_hidden_files_do_not_count(camvid):
    (camvid / "train/._b.png").write_bytes(b"an archiver's leftover")
    (camvid / "train/readme.txt").write_text("not an image")
    assert len(sources.CamVid(camvid, "train")) == 2


@pytest.mark.parametrize("missing", ["", "leftImg8bit", "gtFine"])
def test_missing_cityscapes_says_where_to_get_it(cityscapes, missing):
    root = cityscapes / "nowhere" if not missing else cityscapes
    if missing:
        (root / missing).rename(root / "moved")
    message = error_of(lambda: sources.Cityscapes(root, "train"))
    assert message.startswith("data.root")
    assert str(root / missing) in message
    for word in ("www.cityscapes-dataset.com", "leftImg8bit_trainvaltest.zip", "--config.data.source=streets"):
        assert word in message


def test_missing_camvid_names_the_folder(tmp_path):
    message = error_of(lambda: sources.CamVid(tmp_path / "nowhere", "train"))
    assert str(tmp_path / "nowhere") in message
    assert "--config.data.source=streets" in message


def test_unknown_split_lists_what_is_there(cityscapes, camvid):
    assert "'trian' (found: train)" in error_of(lambda: sources.Cityscapes(cityscapes, "trian"))
    assert "'val' (found: gtFine, leftImg8bit, train, trainannot)" in error_of(lambda: sources.CamVid(camvid, "val"))
    assert "no folder ''" in error_of(lambda: sources.CamVid(camvid, ""))


def test_empty_split(camvid):
    for name in ("b.png", "a.jpg"):
        (camvid / "train" / name).unlink()
    assert str(camvid / "train") in error_of(lambda: sources.CamVid(camvid, "train"))


def test_images_without_labels_and_the_reverse(cityscapes):
    label = cityscapes / "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png"
    label.rename(cityscapes / "kept.png")
    message = error_of(lambda: sources.Cityscapes(cityscapes, "train"))
    assert "no label for 1 (ulm_000000_000019) of 3 images" in message
    (cityscapes / "kept.png").rename(label)
    for image in cityscapes.glob("leftImg8bit/train/ulm/*"):
        image.unlink()
    message = error_of(lambda: sources.Cityscapes(cityscapes, "train"))
    assert "no image for 2 (ulm_000000_000019, ulm_000001_000019) of 3 labels" in message


def test_only_the_first_lone_names_are_listed(camvid):
    for name in "cdefg":
        write_rgb(camvid / f"train/{name}.png", rgb(0))
    assert "no label for 5 (c, d, e, ...) of 7 images" in error_of(lambda: sources.CamVid(camvid, "train"))


def test_one_name_twice(camvid):
    write_rgb(camvid / "train/a.png", rgb(0))
    message = error_of(lambda: sources.CamVid(camvid, "train"))
    assert "a.jpg" in message
    assert "a.png" in message


def test_sizes_differ(camvid):
    write_label(camvid / "trainannot/b.png", np.zeros((5, 8)))
    message = error_of(lambda: sources.CamVid(camvid, "train")[1])
    assert f"{camvid / 'trainannot/b.png'}: 5x8" in message
    assert "6x8" in message


def test_label_value_that_is_no_class(cityscapes, camvid):
    write_label(camvid / "trainannot/b.png", np.full((6, 8), 12))
    message = error_of(lambda: sources.CamVid(camvid, "train")[1])
    assert message.startswith(str(camvid / "trainannot/b.png"))
    assert "value 12" in message
    assert "0..11" in message
    path = cityscapes / "gtFine/train/bonn/bonn_0_0_gtFine_labelIds.png"
    write_label(path, np.full((6, 8), 34))
    assert "value 34, which is no class; allowed are 0..33 and 255" in error_of(
        lambda: sources.Cityscapes(cityscapes, "train")[0]
    )


def test_colours_as_labels(camvid):
    write_rgb(camvid / "trainannot/b.png", rgb(0))
    assert "mode RGB" in error_of(lambda: sources.CamVid(camvid, "train")[1])


def test_folders_of_ids(tmp_path):
    values = np.arange(48).reshape(6, 8) % 3
    values[0, 0] = IGNORE
    for split in ("train", "val"):
        write_rgb(tmp_path / f"images/{split}/b.png", rgb(0))
        Image.fromarray(rgb(1)).save(tmp_path / f"images/{split}/a.JPG", format="jpeg")
        Image.fromarray(rgb(1)).save(tmp_path / f"images/{split}/c.jpeg")
        (tmp_path / f"images/{split}/notes.txt").write_text("not an image")
        for name in "abc":
            write_label(tmp_path / f"labels/{split}/{name}.png", values)
    source = sources.Folders(tmp_path, "val", ("road", "lane", "car"))
    assert [record["name"] for record in source] == ["a", "b", "c"]
    assert source.labels.names == ("road", "lane", "car")
    np.testing.assert_array_equal(source[1]["image"], rgb(0))
    for record in source:
        np.testing.assert_array_equal(record["label"], values)
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again[2]["label"], values)
    assert again.labels == source.labels


@pytest.mark.parametrize("colours", [((64, 32, 32), (255, 0, 0)), ((255, 0, 0), (0, 0, 0))])
def test_black_is_ignored_in_folders_of_colours_unless_it_is_a_class(tmp_path, colours):
    folders_tree(tmp_path, {"train": 1}, 2, colours)
    path = tmp_path / "labels/train/0000.png"
    shown = np.asarray(Image.open(path)).copy()
    shown[0, :3] = 0
    write_rgb(path, shown)
    black = colours.index((0, 0, 0)) if (0, 0, 0) in colours else IGNORE
    expected = np.where((shown == colours[0]).all(-1), 0, 1)
    expected[0, :3] = black
    label = sources.Folders(tmp_path, "train", ("a", "b"), colours)[0]["label"]
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, expected)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_masks_of_black_and_white_are_colours(tmp_path, mode):
    black_and_white = ((0, 0, 0), (255, 255, 255))
    folders_tree(tmp_path, {"train": 1}, 2, black_and_white)
    path = tmp_path / "labels/train/0000.png"
    expected = np.asarray(Image.open(path))[..., 0] == 255
    Image.open(path).convert(mode).save(path)
    label = sources.Folders(tmp_path, "train", ("background", "crack"), black_and_white)[0]["label"]
    np.testing.assert_array_equal(label, expected)


def test_folders_of_another_layout_say_what_it_should_be(tmp_path):
    layout = "data.source = 'folders' reads images/<split>/NAME.png (or .jpg, .jpeg) and labels/<split>/NAME.png"

    def message(root=tmp_path / "own", split="train"):
        text = error_of(lambda: sources.Folders(root, split, ("a", "b")))
        assert text.startswith("data.root: ")
        assert layout in text
        return text

    assert f"there is no folder {tmp_path / 'nowhere'};" in message(tmp_path / "nowhere")
    write_rgb(tmp_path / "own/a.png", rgb(0))
    assert f"there is no folder {tmp_path / 'own/images'};" in message()
    write_rgb(tmp_path / "own/images/a.png", rgb(0))
    assert f"{tmp_path / 'own/images'} has no folder 'train' (found: nothing);" in message()
    write_rgb(tmp_path / "own/images/train/a.png", rgb(0))
    assert f"there is no folder {tmp_path / 'own/labels'};" in message()
    write_label(tmp_path / "own/labels/val/a.png", np.zeros((6, 8)))
    assert f"{tmp_path / 'own/labels'} has no folder 'train' (found: val);" in message()
    (tmp_path / "own/images/train/a.png").rename(tmp_path / "own/images/train/a.tif")
    (tmp_path / "own/labels/val").rename(tmp_path / "own/labels/train")
    assert f"no image in {tmp_path / 'own/images/train'};" in message()


def test_folders_whose_files_do_not_fit(tmp_path):
    folders_tree(tmp_path, {"train": 2}, 3)
    message = error_of(lambda: list(sources.Folders(tmp_path, "train", ("a", "b"))))
    assert "holds the value 2, which is no class; allowed are 0..1 and 255" in message
    write_rgb(tmp_path / "labels/train/0000.png", rgb(0, 20, 40))
    message = error_of(lambda: sources.Folders(tmp_path, "train", ("a", "b", "c"))[0])
    assert message.startswith(str(tmp_path / "labels/train/0000.png"))
    assert "mode RGB" in message
    assert "see data.colours" in message
    colours = ((64, 32, 32), (255, 0, 0))
    message = error_of(lambda: sources.Folders(tmp_path, "train", ("a", "b"), colours)[1])
    assert "an image of mode L; a label of this data set is in colours" in message
    (tmp_path / "labels/train/0001.png").unlink()
    assert "no label for 1 (0001) of 2 images" in error_of(lambda: sources.Folders(tmp_path, "train", ("a", "b")))


@pytest.mark.parametrize("read", [files.read_image, files.read_values])
def test_unreadable_files(tmp_path, read):
    assert "cannot be read" in error_of(lambda: read(tmp_path / "gone.png"))
    (tmp_path / "text.png").write_text("not a picture")
    assert "neither PNG nor JPEG" in error_of(lambda: read(tmp_path / "text.png"))
    (tmp_path / "empty.png").write_bytes(b"")
    assert "empty.png" in error_of(lambda: read(tmp_path / "empty.png"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Files' bytes with the function that reads each, and a path to write parts of them to."""
    folder = tmp_path_factory.mktemp("whole")
    pixels = cv2.resize(rgb(3), (48, 32), interpolation=cv2.INTER_LINEAR)
    Image.fromarray(pixels).save(folder / "image.png")
    Image.fromarray(pixels).save(folder / "image.jpg")
    Image.fromarray(pixels).save(folder / "progressive.jpg", progressive=True)
    Image.fromarray(pixels[..., 0]).save(folder / "label.png")
    whole_files = [
        ((folder / name).read_bytes(), files.read_values if name == "label.png" else files.read_image)
        for name in ("image.png", "image.jpg", "progressive.jpg", "label.png")
    ]
    return whole_files, folder / "part"


@given(data=st.data())
def test_every_truncation_is_an_error(whole, data):
    whole_files, path = whole
    content, read = data.draw(st.sampled_from(whole_files))
    path.write_bytes(content)
    assert read(path).shape[:2] == (32, 48)
    lost = data.draw(st.integers(1, 20) | st.integers(1, len(content)))
    path.write_bytes(content[:-lost])
    with pytest.raises(UserError):
        read(path)


@given(data=st.data())
def test_damage_inside_a_png_is_an_error(whole, data):
    files, path = whole
    content, read = data.draw(st.sampled_from([files[0], files[-1]]))
    damaged = bytearray(content)
    damaged[data.draw(st.integers(8, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(damaged)
    with pytest.raises(UserError):
        read(path)
