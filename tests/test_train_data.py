"""Training on files: what is wrong with them, where colours are distorted, which classes weigh more."""

import itertools
import json

import numpy as np
import pytest
from tiny import tiny_config
from trees import comma10k_tree, folders_tree

from cropjax.config import build_augment, build_source, example_form
from cropjax.data.pipeline import train_batches
from cropjax.data.prepare import prepare
from cropjax.errors import UserError
from cropjax.losses.cross_entropy import resized_cross_entropy
from cropjax.ops.normalize import STD
from cropjax.step import network_input
from cropjax.train import train
from cropjax.workdir import check_network

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture
def comma10k(tmp_path):
    """Nine images of 30 x 60, eight to train on; class 0 has half of each, the rare class 4 is in one of them."""
    row, labels = np.maximum(np.arange(60) * 4 // 60 - 1, 0), {}
    for i in range(9):
        label = np.where(row == 2, 4 if i == 3 else 3, row)
        labels[f"{i:04d}_{i + 1}"] = label[None].repeat(30, 0)
    return comma10k_tree(tmp_path / "comma10k", labels)


def config_of(root, **data):
    return tiny_config(source="comma10k", root=str(root), **data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])
    return path


def test_a_truncated_file_stops_the_run_by_name(comma10k, tmp_path):
    for path in (comma10k / "imgs").iterdir():
        truncate(path)
    with pytest.raises(UserError, match=rf"^{comma10k}/imgs/000\d_\d.png: truncated or damaged"):
        train(config_of(comma10k), tmp_path / "run")
    assert not (tmp_path / "run/checkpoints").exists() or not list((tmp_path / "run/checkpoints").iterdir())


def test_a_run_with_everything(comma10k, tmp_path, monkeypatch, caplog):
    """One file is truncated and skipped, colours change on the device, classes are weighed, and rare ones repeated."""
    path, seen = truncate(comma10k / "imgs/0004_5.png"), {}

    def loss(*args, weights, **kwargs):
        seen["weights"] = weights
        return resized_cross_entropy(*args, weights=weights, **kwargs)

    def batches(*args, **kwargs):
        seen["batches"] = list(itertools.islice(train_batches(*args, **kwargs), 4))
        seen["repeats"] = kwargs["repeats"].tolist()
        return train_batches(*args, **kwargs)

    monkeypatch.setattr("cropjax.losses.objective.resized_cross_entropy", loss)
    monkeypatch.setattr("cropjax.config.train_batches", batches)
    config = config_of(comma10k, on_error="skip", repeat_rare=0.5, photometric="device")
    config.loss.balance = "median"
    train(config, tmp_path / "run")
    assert seen["repeats"] == [1, 1, 1, 2, 1, 1, 1, 1]  # class 4 is in one of eight: sqrt(0.5 / 0.125)
    # Class 0 has half of the pixels of the images that it is in, 1, 3 and 4 have a quarter, class 2 is in none.
    assert seen["weights"] == (0.5, 1, 1, 1, 1)
    skipped = [int(batch["skipped"].sum()) for batch in seen["batches"]]
    assert 0 < sum(skipped) <= 2
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    logged = {line["step"]: line["train/skipped"] for line in lines if "train/skipped" in line}
    assert logged == {2: sum(skipped[:2]), 4: sum(skipped[2:])}
    assert f"{path}: truncated or damaged" in caplog.text


def test_folders_with_classes_of_their_own(tmp_path):
    """Read by a worker process; what the head gives and what is scored follow from the config's names."""
    root = folders_tree(tmp_path / "own", {"train": 4, "val": 2}, 3, size=(32, 48))
    config = tiny_config(source="folders", root=str(root), classes=("a", "b", "c"), workers=1)
    config.eval.modes = ("whole",)
    scores = train(config, tmp_path / "run")["whole"]
    labels = [record["label"] for record in build_source(config, "eval")]
    expected = sum(np.bincount(label.ravel(), minlength=256)[:3] for label in labels)
    np.testing.assert_array_equal(scores.confusion.sum(1), expected)
    check_network(tmp_path / "run", config)
    config.data.classes = ("a", "c", "b")
    with pytest.raises(UserError, match=r"data.classes is \('a', 'b', 'c'\) there and \('a', 'c', 'b'\) here"):
        check_network(tmp_path / "run", config)


def test_a_store_gives_the_batches_of_its_files(comma10k, tmp_path):
    prepare("comma10k", comma10k, tmp_path / "store")
    taken = []
    for root in (comma10k, tmp_path / "store"):
        config = config_of(root)
        batches = train_batches(build_source(config, "train"), build_augment(config), seed=0, batch_size=4)
        taken.append(list(itertools.islice(batches, 5)))
        batches.close()
    for files, store in zip(*taken, strict=True):
        assert files.keys() == store.keys()
        for name, value in files.items():
            np.testing.assert_array_equal(store[name], value)


def test_the_network_sees_the_same_wherever_colours_are_distorted(comma10k):
    seen = {}
    for where in ("host", "device", "off"):
        config = config_of(comma10k, photometric=where)
        batches = train_batches(build_source(config, "train"), build_augment(config), seed=0, batch_size=8)
        batch = next(batches)
        batches.close()
        assert {name: (value.shape[1:], value.dtype) for name, value in batch.items()} == example_form(config)
        seen[where] = np.asarray(network_input(batch, np.float32)) * STD
    assert np.abs(seen["device"] - seen["host"]).max() < 1 + 1e-3
    assert np.abs(seen["off"] - seen["host"]).mean() > 3
