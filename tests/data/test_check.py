"""Checking a data set: a sound one, and everything that may be wrong, named in one go."""

import re
import shutil

import numpy as np
import pytest
from command import command
from PIL import Image
from trees import comma10k_tree, folders_tree

from cropjax.data.labels import COMMA10K
from cropjax.panels import GAP

CONFIG = """
from cropjax.config import defaults

def get_config():
    config = defaults("segformer")
    config.data.source = "comma10k"
    config.data.scale = (40, 30)
    config.data.crop_size = (16, 16)
    return config
"""


@pytest.fixture
def comma10k(tmp_path):
    """Ten images of 30 x 40; class 4 is in one of the eight of the training split, class 1 in none."""
    rows = {i: np.array([0, 2, 4 if i == 3 else 3])[np.arange(40) * 3 // 40] for i in range(10)}
    labels = {f"{i:04d}_{i % 5 + 5}": row[None].repeat(30, 0) for i, row in rows.items()}
    (tmp_path / "config.py").write_text(CONFIG)
    return comma10k_tree(tmp_path / "comma10k", labels)


def run(module, root, *options):
    own = f"--config.data.root={root}", f"--workdir={root.parent / 'run'}"
    return command(f"cropjax.data.{module}", "--config", root.parent / "config.py", *own, *options)


def test_a_sound_data_set(comma10k):
    done = run("check", comma10k)
    assert done.returncode == 0, done.stderr
    assert "train: 8 images, 8 of 30x40; 0.00 % ignored" in done.stdout
    assert "val: 2 images, 2 of 30x40" in done.stdout
    rows = {line.split("  ")[0]: line.split()[-5:] for line in done.stdout.splitlines()}
    assert rows["road"][:2] == ["35.000", "100.00"]
    assert rows["my car"][:2] == [f"{100 * 13 / 40 / 8:.3f}", "12.50"]
    assert rows["lane markings"] == ["0.000", "0.00", "0.00", "0.000", "0.00"]
    assert 0 <= float(rows["my car"][2]) <= 12.5
    assert "note: lane markings never occurs in train" in done.stdout
    assert re.search(r"loss.balance = 'median': loss.class_weights = \(([\d.]+, ){4}[\d.]+\)", done.stdout)
    assert done.stdout.endswith("nothing is wrong\n")
    assert not (comma10k.parent / "run").exists()


def test_all_that_is_wrong_is_named(comma10k):
    imgs, masks = sorted((comma10k / "imgs").iterdir()), sorted((comma10k / "masks").iterdir())
    imgs[0].write_bytes(imgs[0].read_bytes()[:-20])
    shutil.copy(imgs[1], imgs[4])  # of both splits
    shutil.copy(imgs[2], imgs[3])
    Image.new("RGB", (40, 30), (1, 2, 3)).save(masks[5])
    Image.new("RGB", (40, 31), COMMA10K.palette[0]).save(masks[6])
    done = run("check", comma10k)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("cropjax: 5 of 10 records are wrong, see above")
    for text in (
        f"wrong: {imgs[0]}: truncated or damaged",
        f"wrong: {masks[5]}: the colour #010203 at row 0",
        f"wrong: {masks[6]}: 31x40 pixels, but {imgs[6]} has 30x40",
        f"wrong: {imgs[3].stem}: the same image as {imgs[2].stem}; remove one of them",
        f"wrong: {imgs[4].stem}: is in train too, as {imgs[1].stem}; remove one of them",
    ):
        assert text in done.stdout
    masks[7].unlink()
    failed = run("check", comma10k)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert f"no label for 1 ({imgs[7].stem}) of 10 images" in failed.stderr


def test_sheets_show_crops_and_their_labels(comma10k):
    done = run("browse", comma10k, "--count=15", "--config.train.batch_size=2")
    assert done.returncode == 0, done.stderr
    paths = sorted((comma10k.parent / "run/browse").iterdir())
    assert [path.name for path in paths] == ["000.png", "001.png"]
    assert all(str(path) in done.stdout for path in paths)
    first, second = (np.asarray(Image.open(path)) for path in paths)
    assert first.shape[1] == second.shape[1]
    assert first.shape[0] > second.shape[0]  # twelve and three crops
    # A crop, a gap, and the same crop with its label's colours over it, half and half.
    crop, over = first[:16, :16].astype(int), first[:16, 16 + GAP : 32 + GAP].astype(int)
    colours = np.array(COMMA10K.palette) // 2
    distance = np.abs(over[:, :, None] - crop[:, :, None] // 2 - colours).max(-1)  # [16, 16, classes]
    assert (distance.min(-1) <= 1).all()
    assert len(np.unique(distance.argmin(-1))) > 1
    assert crop.std() > 20
    assert {tuple(colour) for colour in COMMA10K.palette} <= set(
        map(tuple, first.reshape(-1, 3).tolist())
    )  # the legend


def test_folders(tmp_path):
    root = folders_tree(tmp_path / "own", {"train": 3, "val": 2}, 2, size=(30, 40))
    source = 'config.data.update(source="folders", classes=("road", "my car"))'
    (tmp_path / "config.py").write_text(CONFIG.replace('config.data.source = "comma10k"', source))
    done = run("check", root)
    assert done.returncode == 0, done.stderr
    assert "train: 3 images, 3 of 30x40; " in done.stdout
    assert " 0.00 % ignored" not in done.stdout
    assert [line.split("  ")[0] for line in done.stdout.splitlines()[3:6]] == ["class", "road", "my car"]
    done = run("browse", root, "--count=2", "--config.train.batch_size=2")
    assert done.returncode == 0, done.stderr
    shown = np.asarray(Image.open(tmp_path / "run/browse/000.png"))
    assert {(128, 0, 0), (0, 128, 0)} <= set(map(tuple, shown.reshape(-1, 3).tolist()))  # the legend


def test_a_split_without_images(comma10k):
    for path in (comma10k / "imgs").glob("*_9.png"):
        path.unlink()
        (comma10k / "masks" / path.name).unlink()
    failed = run("check", comma10k)
    assert failed.returncode == 2
    assert "imgs makes it 'val'; val is those that end in 9" in failed.stderr
