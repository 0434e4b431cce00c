"""The prepared form of a data set: what goes in comes out, window by window, and what is wrong is named."""

import json
import pickle
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cropjax.data import prepare, store
from cropjax.data.labels import CAMVID, CITYSCAPES, CITYSCAPES_TRAIN_ID
from cropjax.data.sources import CamVid, InMemory
from cropjax.errors import UserError


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A CamVid tree of 5 training and 2 evaluation images of several sizes, around that of a tile."""
    root, rng = tmp_path_factory.mktemp("camvid"), np.random.default_rng(0)
    for split, sizes in {
        "train": [(3, 5), (128, 128), (257, 127), (300, 600), (31, 513)],
        "val": [(40, 40)] * 2,
    }.items():
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir()
        for i, (h, w) in enumerate(sizes):
            smooth = np.add.outer(np.arange(h), np.arange(w))[..., None] + rng.integers(0, 9, (h, w, 3))
            Image.fromarray(smooth.astype(np.uint8)).save(root / split / f"{i}.png")
            Image.fromarray(rng.integers(0, 12, (h, w), np.uint8)).save(root / f"{split}annot" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "store"
    assert prepare.prepare("camvid", files, out) == {"train": 5, "val": 2}
    return out


@pytest.fixture
def prepared(whole, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(whole, tmp_path / "store")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_store_gives_the_records_of_the_files(files, whole, split):
    stored, original = store.open_tfds(whole, split, "camvid", CAMVID), CamVid(files, split)
    assert len(stored) == len(original)
    for i, expected in enumerate(original):
        record = pickle.loads(pickle.dumps(stored))[i]  # a worker gets it so
        assert record["name"] == expected["name"]
        assert record["image"].shape == expected["image"].shape
        np.testing.assert_array_equal(record["image"][:, :], expected["image"])
        np.testing.assert_array_equal(record["label"][:, :], expected["label"])
        np.testing.assert_array_equal(stored.pixels(i), np.bincount(expected["label"].ravel(), minlength=256)[:11])


@settings(max_examples=60)
@given(data=st.data(), index=st.integers(0, 4))
def test_a_window_is_that_of_the_whole_image(whole, data, index):
    image = store.open_tfds(whole, "train", "camvid", CAMVID)[index]["image"]
    starts = [data.draw(st.integers(0, n - 1)) for n in image.shape[:2]]
    stops = [data.draw(st.integers(a + 1, n)) for a, n in zip(starts, image.shape[:2], strict=True)]
    window = tuple(map(slice, starts, stops))
    np.testing.assert_array_equal(image[window], image[:, :][window])


def test_a_window_decodes_only_the_tiles_that_it_touches(whole, monkeypatch):
    image, decoded = store.open_tfds(whole, "train", "camvid", CAMVID)[3]["image"], []
    monkeypatch.setattr(
        store.Tiles, "_tile", lambda self, y, x: decoded.append((y, x)) or np.zeros((128, 128, 3), np.uint8)
    )
    image[250:257, 256:300]
    assert decoded == [(128, 256), (256, 256)]


def test_in_memory_means_decoded_and_a_worker_gets_none_of_it(whole):
    source = InMemory(store.open_tfds(whole, "train", "camvid", CAMVID))
    np.testing.assert_array_equal(source.label(3), source[3]["label"][:, :])
    assert isinstance(source[3]["image"], np.ndarray)
    assert len(pickle.dumps(source)) < 10_000 < source[3]["image"].nbytes


def test_any_tfds_reader_finds_the_labels_counts(whole):
    """Without our code: names, sizes and counts are plain features."""
    examples = tfds.builder_from_directory(whole).as_data_source("val")
    assert [example["name"] for example in examples] == [b"0", b"1"]
    assert [example["size"].tolist() for example in examples] == [[40, 40]] * 2


def refused(root, text, split="train", source="camvid", labels=CAMVID):
    with pytest.raises(UserError, match=text) as caught:
        list(store.open_tfds(root, split, source, labels))
    assert "\n" not in str(caught.value)


def test_what_a_store_is_refused_for(prepared):
    refused(prepared, r"no split 'test' \(found: train, val\)", split="test")
    refused(prepared, "was prepared from camvid: set data.source", source="cityscapes", labels=CITYSCAPES)
    metadata = json.loads((prepared / "metadata.json").read_text())
    (prepared / "metadata.json").write_text(json.dumps(metadata | {"form": 7}))
    refused(prepared, r"was prepared in form 7, and this version reads form 3: prepare it again")
    (prepared / "metadata.json").write_text("{")
    refused(prepared, r"metadata.json: cannot be read")
    (prepared / "metadata.json").unlink()
    refused(prepared, r"metadata.json: cannot be read")


def test_a_missing_shard_is_named(prepared):
    (prepared / "camvid-train.array_record-00000-of-00001").unlink()
    refused(prepared, r"camvid-train.array_record-00000-of-00001: is missing")


def test_damage_is_found_wherever_it_is(prepared):
    """A flipped bit anywhere in a record's bytes is an error, never another pixel."""
    path = prepared / "camvid-val.array_record-00000-of-00001"
    content, rng, found = path.read_bytes(), np.random.default_rng(0), 0
    expected = [record["image"][:, :] for record in store.open_tfds(prepared, "val", "camvid", CAMVID)]
    filled = np.flatnonzero(np.frombuffer(content, np.uint8))  # records lie in blocks of zeros
    for place in rng.choice(filled, 40).tolist():
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            opened = store.open_tfds(prepared, "val", "camvid", CAMVID)
            records = [opened[i]["image"][:, :] for i in range(2)]
        except UserError:
            found += 1
        else:
            assert all(np.array_equal(a, b) for a, b in zip(records, expected, strict=True))
    assert found > 20


# ---- TFDS's own cityscapes -------------------------------------------------------------------------------------------


@pytest.fixture
def official(tmp_path):
    """cityscapes/semantic_segmentation as TFDS writes it: its features, label ids, "validation"."""
    features = tfds.features.FeaturesDict(
        {
            "image_id": tfds.features.Text(),
            "image_left": tfds.features.Image(shape=(1024, 2048, 3), encoding_format="png"),
            "segmentation_label": tfds.features.Image(shape=(1024, 2048, 1), encoding_format="png"),
        }
    )
    template, infos = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", []
    Image.fromarray(np.full((1024, 2048, 3), 9, np.uint8)).save(tmp_path / "image.png")
    for split, value in {"train": 7, "validation": 26}.items():
        writer = ArrayRecordWriter(str(tmp_path / f"cityscapes-{split}.array_record-00000-of-00001"), "group_size:1")
        Image.fromarray(np.full((1024, 2048), value, np.uint8)).save(tmp_path / "label.png")
        paths = {key: (tmp_path / f"{name}.png").read_bytes() for key, name in OFFICIAL_FILES.items()}
        writer.write(features.serialize_example({"image_id": split} | paths))
        writer.close()
        shards = tfds.core.ShardedFileTemplate(
            data_dir=tmp_path, dataset_name="cityscapes", split=split, filetype_suffix="array_record", template=template
        )
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=[1], num_bytes=1, filename_template=shards))
    tfds.folder_dataset.write_metadata(
        data_dir=tmp_path, features=features, split_infos=infos, filename_template=template, check_data=False
    )
    return tmp_path


OFFICIAL_FILES = {"image_left": "image", "segmentation_label": "label"}


def test_a_copy_of_the_official_builder_is_read(official):
    for split, label_id in {"train": 7, "val": 26}.items():
        (record,) = store.open_tfds(official, split, "cityscapes", CITYSCAPES)
        assert record["name"] == {"val": "validation"}.get(split, split)
        assert (record["label"] == CITYSCAPES_TRAIN_ID[label_id]).all()
        assert (record["image"][:, :] == 9).all()
    refused(official, "does not read: prepare the original files")
