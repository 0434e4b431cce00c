"""The commands in the documents work: README and docs are read, and their `python -m` lines run with few steps."""

import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from mmseg_files import THEIRS
from tiny import tiny_config
from trees import cityscapes_tree, comma10k_tree, film, folders_tree, save

from cropjax.config import LABELS, build_source, label_set
from cropjax.data.prepare import prepare
from cropjax.data.sources import FILES
from cropjax.data.store import open_tfds
from cropjax.validation import validate

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted((ROOT / "docs").glob("*.md")),
]
TUTORIAL = ROOT / "docs/tutorial.md"

# What makes a full command small enough to be tried: a narrow network, drawn scenes, two steps.
NARROW = {
    "segformer": {"model.backbone.widths": "(4,8,20,32)", "model.head.channels": 8},
    "segnext": {"model.backbone.widths": "(4,8,12,16)", "model.head.channels": 32},
}
NARROW_CNN = {"model.backbone.width": 4, "model.head.channels": 8}
FEW = {
    "init_from": "",
    "data.source": "streets",
    "data.streets.size": "(32,64)",
    "data.streets.train_count": 4,
    "data.streets.eval_count": 1,
    "data.scale": "(64,32)",
    "data.crop_size": "(32,32)",
    "train.steps": 2,
    "train.batch_size": 2,
    "eval.window": "(32,32)",
    "eval.stride": "(16,16)",
    "eval.location_prior": 2,
}


def commands(page):
    """Each `python -m ...` line of a code block, in order."""
    return [line for block in blocks(page, "") for line in block.splitlines() if line.startswith("python -m ")]


def blocks(page, kind):
    """The contents of the code blocks that begin with ``` and `kind`."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [block for named, block in found if named == kind]


def run(words, folder):
    """Python with our code, in `folder`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_commands(tmp_path):
    found = [line for page in PAGES if page != TUTORIAL for line in commands(page)]
    assert found
    cityscapes_tree(tmp_path / "cityscapes", {"train": 2, "val": 1, "test": 2}, size=(32, 64))
    folders_tree(tmp_path / "folders", {"train": 2, "val": 1}, 2, ((64, 32, 32), (204, 0, 255)))
    film(tmp_path / "film.mp4", 3)
    for name in ("a.jpg", "berlin/b.png"):
        save(tmp_path / "images" / name, np.random.default_rng(0).integers(0, 256, (30, 40, 3)))
    arguments = ("images", "film.mp4", "cityscapes")  # how those begin that are no options
    places = ("--workdir", "--weights", "--out", "--root", "--mmseg_config")  # of files that a command reads or leaves
    data_root = "--config.data.root="
    for line in found:
        words = shlex.split(line)[1:]
        narrow = next((sizes for network, sizes in NARROW.items() if network in line), NARROW_CNN)
        fields = FEW | narrow
        if data_root in line:
            del fields["data.source"]
        few = [f"--config.{name}={value}" for name, value in fields.items() if f"--config.{name}=" not in line]
        few = few if "--config" in line else []
        moved = [str(tmp_path / Path(b).name) if a in places else b for a, b in pairwise(["", *words])]
        moved = [f"{data_root}{tmp_path / Path(word).name}" if word.startswith(data_root) else word for word in moved]
        moved = [
            str(tmp_path / b) if b.split("/")[0] in arguments and not a.startswith("--") else b
            for a, b in pairwise(["", *moved])
        ]
        moved = [str(path) for word in moved for path in _runs(word, tmp_path)]
        if "--mmseg_config" in moved:
            Path(moved[moved.index("--mmseg_config") + 1]).write_text(THEIRS["deeplab_4xb2-x"])
        result = run([*moved, *few], ROOT)
        assert result.returncode == 0, f"{line}\n{result.stderr}"


def _runs(word, folder):
    """What a shell makes of "runs/x_*"; any other word as it is."""
    return sorted(folder.glob(Path(word).name)) if re.fullmatch(r"runs/[^/]*\*", word) else [word]


FEW_OF_OUR_OWN = {
    "model.backbone.width": 4,
    "model.head.channels": 8,
    "data.scale": "(40,30)",
    "data.crop_size": "(32,32)",
    "train.steps": 2,
    "train.batch_size": 2,
}


@pytest.mark.slow
def test_the_tutorial(tmp_path):
    """Its script, its config file and its commands as they stand, in a folder with ten small photographs."""
    labels = np.random.default_rng(0).integers(0, 5, (10, 30, 40))
    comma10k_tree(tmp_path / "comma10k", {f"000{i}_{i}": label for i, label in enumerate(labels)})
    arrange, config, _ = blocks(TUTORIAL, "python")
    for _ in range(2):
        assert run(["-c", arrange], tmp_path).returncode == 0
    assert len(list((tmp_path / "roads").glob("*/*/*.png"))) == 20
    (tmp_path / "own.py").write_text(config)
    few = [f"--config.{name}={value}" for name, value in FEW_OF_OUR_OWN.items()]
    lines = list(commands(TUTORIAL))
    for line in lines:
        result = run([*shlex.split(line)[1:], *(few if "--config" in line else [])], tmp_path)
        assert result.returncode == 0, f"{line}\n{result.stderr}"
    assert [name for name in ("check", "browse", "main", "evaluate") if f".{name} " not in "".join(lines)] == []


def test_the_tutorials_source(tmp_path, monkeypatch):
    """Its class, and the lines that name it, are a data set to everything that reads one."""
    block = {}
    exec(blocks(TUTORIAL, "python")[-1], block)
    rng, text = np.random.default_rng(0), TUTORIAL.read_text()
    for split in ("train", "val"):
        (tmp_path / "walls" / split).mkdir(parents=True)
        image, label = rng.integers(0, 256, (20, 30, 3), np.uint8), rng.integers(0, 2, (20, 30), np.uint8)
        np.savez(tmp_path / "walls" / split / "a.npz", image=image, label=label)
    monkeypatch.setitem(FILES, "walls", block["Walls"])
    monkeypatch.setitem(LABELS, "walls", block["WALLS"])
    for names, named in ("FILES", FILES), ("LABELS", LABELS):
        line = re.search(rf"^{names} = {{(.*)}}$", text, re.MULTILINE)[1]
        assert re.findall(r'"(\w+)":', line) == list(named)
    config = validate(tiny_config(source="walls", root=str(tmp_path / "walls")))
    np.testing.assert_array_equal(build_source(config, "eval")[0]["label"], label)
    prepare("walls", tmp_path / "walls", tmp_path / "store")
    stored = open_tfds(tmp_path / "store", "val", "walls", label_set(config))
    np.testing.assert_array_equal(stored[0]["image"][:, :], image)
    assert label_set(config).names == ("wall", "crack")


def test_links_and_targets_exist():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in PAGES:
        text = page.read_text()
        for link in re.findall(r"\]\(([^)#]+)", text):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"
        for path in re.findall(r"`((?:cropjax|configs|tests|third_party|docs|lock)/[\w./]*)`", text):
            assert (ROOT / path).exists(), f"{page.name}: {path}"
        code = "\n".join(blocks(page, ""))
        for target in re.findall(r"^make ([\w-]+)", code, re.MULTILINE) + re.findall(r"`make ([\w-]+)`", text):
            assert target in targets, f"{page.name}: make {target}"
    listed = re.findall(r"`(\w+)`(?=[ ,|])", (ROOT / "README.md").read_text().split("| config |")[1].split("\n\n")[0])
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


def test_functions_are_where_the_documents_say():
    found = 0
    for page in PAGES:
        for path, names in re.findall(r"`(cropjax/[\w/]+\.py)`: (`\w+`(?:, `\w+`)*)", page.read_text()):
            for name in re.findall(r"\w+", names):
                found += 1
                assert re.search(rf"^(?:def|class) {name}\b", (ROOT / path).read_text(), re.MULTILINE), (
                    f"{path}: {name}"
                )
    assert found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks(page, saved_run, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/demo").symlink_to(saved_run)
    save(tmp_path / "street.jpg", np.random.default_rng(0).integers(0, 256, (30, 40, 3)))
    for block in blocks(page, "python"):
        result = run(["-c", block], tmp_path)
        assert result.returncode == 0, result.stderr
