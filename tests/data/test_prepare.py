"""Preparing a data set: from files and archives, killed and begun again, and never half a folder under its name."""

import os
import signal
import subprocess
import sys
import time
import zipfile
from functools import partial

import numpy as np
import pytest
from command import command
from trees import cityscapes_tree, folders_tree

from cropjax.data import prepare as module
from cropjax.data.archives import members
from cropjax.data.labels import CITYSCAPES, own_labels
from cropjax.data.prepare import prepare
from cropjax.data.sources import Cityscapes, Folders, is_prepared
from cropjax.data.store import open_tfds
from cropjax.errors import UserError


@pytest.fixture
def tree(tmp_path):
    """A Cityscapes tree of 6 training and 2 evaluation images."""
    return cityscapes_tree(tmp_path / "cityscapes", {"train": 6, "val": 2})


@pytest.fixture
def archives(tree, tmp_path):
    """The same in the two archives that Cityscapes comes in."""
    root = tmp_path / "archives"
    root.mkdir()
    for folder in ("leftImg8bit", "gtFine"):
        with zipfile.ZipFile(root / f"{folder}_trainvaltest.zip", "w") as archive:
            for path in sorted(tree.glob(f"{folder}/**/*")):
                archive.write(path, path.relative_to(tree))
            archive.writestr("README", "as in the official ones")
    return root


def records(out, split="train"):
    return list(open_tfds(out, split, "cityscapes", CITYSCAPES))


def assert_holds(out, tree):
    for split in ("train", "val"):
        for record, expected in zip(records(out, split), Cityscapes(tree, split), strict=True):
            assert record["name"] == expected["name"]
            np.testing.assert_array_equal(record["image"][:, :], expected["image"])
            np.testing.assert_array_equal(record["label"][:, :], expected["label"])


def test_archives_give_what_the_tree_gives(tree, archives, tmp_path, capsys):
    for name, root in {"from_tree": tree, "from_archives": archives}.items():
        assert prepare("cityscapes", root, tmp_path / name) == {"train": 6, "val": 2}
        assert_holds(tmp_path / name, tree)
    assert "8 images take about" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archives", "cityscapes", "from_archives", "from_tree"]


def test_archives_are_read_in_training_too(tree, archives):
    for record, expected in zip(Cityscapes(archives, "val"), Cityscapes(tree, "val"), strict=True):
        np.testing.assert_array_equal(record["image"], expected["image"])
    with pytest.raises(UserError, match=r"has no leftImg8bit/test/.*\(found: train, val\)"):
        Cityscapes(archives, "test")


@pytest.mark.parametrize("path", ["/leftImg8bit/x.png", "leftImg8bit/../../x.png", "c:\\x.png"])
def test_an_archive_with_a_path_that_leads_out_is_refused(tree, archives, tmp_path, path):
    with zipfile.ZipFile(archives / "leftImg8bit_trainvaltest.zip", "a") as archive:
        archive.writestr(zipfile.ZipInfo(path), "x")
    with pytest.raises(UserError, match=r"leftImg8bit_trainvaltest.zip: holds a file with the path"):
        prepare("cityscapes", archives, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_a_damaged_member_is_named(tree, tmp_path):
    """Whatever the library raises: a bad checksum, a stream that does not inflate, one that ends too early."""
    path = tmp_path / "leftImg8bit_trainvaltest.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("leftImg8bit/train/ulm/x_leftImg8bit.png", bytes(range(256)) * 40)
    content, rng, found = path.read_bytes(), np.random.default_rng(0), 0
    for i in range(60):
        damaged, copy = bytearray(content), tmp_path / f"{i}.zip"
        damaged[rng.integers(70, 300)] ^= 1 << rng.integers(8)
        copy.write_bytes(damaged)
        try:
            (member,) = members(copy)
            assert member.read_bytes() == bytes(range(256)) * 40
        except UserError:
            found += 1
    assert found > 30


def test_half_an_archive_is_named(tree, archives, tmp_path):
    path = archives / "gtFine_trainvaltest.zip"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"gtFine_trainvaltest.zip: is not a whole zip archive"):
        prepare("cityscapes", archives, tmp_path / "out")


def test_a_broken_file_stops_it_and_what_was_done_is_kept(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_BYTES", 4000)  # a shard or two an image
    monkeypatch.setattr(module, "SAMPLE", 1)
    broken = tree / "leftImg8bit/train/ulm/ulm_000004_000019_leftImg8bit.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:-30])
    status = os.stat(broken)
    with pytest.raises(UserError, match=r"ulm_000004_000019_leftImg8bit.png: truncated or damaged"):
        prepare("cityscapes", tree, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out.partial").glob("*-of-*[0-9]")}
    assert len(done) >= 3
    broken.write_bytes(content)
    with pytest.raises(UserError, match=r"out.partial: was begun from other files"):
        prepare("cityscapes", tree, tmp_path / "out")
    for root in (tmp_path / "out", tmp_path / "out.partial"):
        with pytest.raises(UserError, match=r"out.partial is half prepared; start python -m cropjax.data.prepare"):
            is_prepared(root)
    # The same file again, as far as names, sizes and times tell, goes on where it stopped.
    broken.write_bytes(content[:-30])
    os.utime(broken, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(UserError, match="truncated"):
        prepare("cityscapes", tree, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in done} == done


KILLED = """
import sys, time
from pathlib import Path
from cropjax.data import prepare, sources
prepare.SHARD_BYTES, prepare.SAMPLE = 4000, 1
read = sources.read_image
def slow(file):
    time.sleep(0.15)
    return read(file)
sources.read_image = slow
prepare.prepare("cityscapes", sys.argv[1], sys.argv[2], threads=1)
"""


def test_killed_at_any_time_and_begun_again_it_is_whole(tree, tmp_path):
    out = tmp_path / "out"
    partial = tmp_path / "out.partial"
    command = [sys.executable, "-c", KILLED, str(tree), str(out)]
    killed = subprocess.Popen(command)
    while not list(partial.glob("*-00002-of-*[0-9]")):
        assert killed.poll() is None
        time.sleep(0.02)
    with pytest.raises(UserError, match="another prepare is at work here"):
        prepare("cityscapes", tree, out)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = {path.name: path.stat().st_mtime_ns for path in partial.glob("*-of-*[0-9]")}
    assert not out.exists()
    prepare("cityscapes", tree, out)
    assert_holds(out, tree)
    assert {name: (out / name).stat().st_mtime_ns for name in done} == done
    assert not partial.exists()


def test_disk_need_is_told_first(tree, tmp_path, monkeypatch):
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"has 1e-06 GB free, and about .* are needed"):
        prepare("cityscapes", tree, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_an_existing_folder_is_left_alone(tree, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists already"):
        prepare("cityscapes", tree, tmp_path / "out")


OWN = ("road", "lane markings", "my car")
COLOURS = ((64, 32, 32), (255, 0, 0), (204, 0, 255))


@pytest.mark.parametrize("colours", [(), COLOURS], ids=["ids", "colours"])
def test_folders(tmp_path, colours):
    root = folders_tree(tmp_path / "own", {"train": 3, "val": 2}, 3, colours)
    options = [f"--classes={','.join(OWN)}"] + ["--colours=402020,#FF0000,cc00ff"] * bool(colours)
    done = command("cropjax.data.prepare", "--source=folders", f"--root={root}", *options)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "own-prepared"
    assert done.stdout.endswith(f"--config.data.root={out} and the same data.classes\n")
    labels = own_labels(OWN, colours)
    for split in ("train", "val"):
        stored, source = open_tfds(out, split, "folders", labels), Folders(root, split, OWN, colours)
        assert stored.labels == source.labels
        for record, expected in zip(stored, source, strict=True):
            assert record["name"] == expected["name"]
            np.testing.assert_array_equal(record["image"][:, :], expected["image"])
            np.testing.assert_array_equal(record["label"][:, :], expected["label"])
    with pytest.raises(UserError, match=r"has the classes road, lane markings, my car: set data.classes to them"):
        open_tfds(out, "train", "folders", own_labels(OWN[::-1]))


def test_what_was_begun_with_other_classes_is_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAMPLE", 1)
    root = folders_tree(tmp_path / "own", {"train": 3}, 3)
    broken = root / "labels/train/0002.png"
    broken.write_bytes(broken.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"0002.png: truncated"):
        prepare("folders", root, tmp_path / "out", splits=("train",), classes=OWN)
    with pytest.raises(UserError, match=r"out.partial: was begun from other files"):
        prepare("folders", root, tmp_path / "out", splits=("train",), classes=OWN[::-1])


def test_the_command(tree, tmp_path):
    run = partial(command, "cropjax.data.prepare")
    done = run("--source=cityscapes", f"--root={tree}", f"--out={tmp_path / 'out'}", "--splits=val")
    assert done.returncode == 0, done.stderr
    assert "--config.data.root=" in done.stdout
    assert len(records(tmp_path / "out", "val")) == 2
    for options, text in {
        ("--source=camvid", "--root=/none"): "cropjax: --root: there is no folder /none; copy the CamVid folder",
        ("--source=cityscapes", f"--root={tree}", "--splits="): "cropjax: --splits names none",
        (
            "--source=cityscapes",
            f"--root={tree}",
            f"--out={tree}/gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png/y",
        ): "cropjax: /",
        ("--source=ade20k",): "cropjax: --source='ade20k' is not one of cityscapes, camvid, comma10k, folders",
        ("--source=folders", f"--root={tree}"): "cropjax: --classes = () must name two classes or more",
        ("--source=folders", "--classes=a,a"): "cropjax: --classes has 'a' twice",
        ("--source=folders", "--classes=a,b", "--colours=red,402020"): "cropjax: --colours: 'red' is no colour",
        ("--source=folders", "--classes=a,b", "--root=/none"): "cropjax: --root: there is no folder /none; data.source",
        ("--source=camvid", "--classes=a,b"): "cropjax: --classes and --colours are for --source=folders",
        (): "cropjax: --source is missing",
        ("--source=camvid", "--config=x.py"): "cropjax: cannot use --source=camvid --config=x.py",
    }.items():
        failed = run(*options)
        assert failed.returncode == 2
        assert failed.stderr.startswith(text), failed.stderr
