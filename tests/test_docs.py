"""The commands in the documents work: README and docs are read, and their `python -m` lines run with few steps."""

import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from trees import cityscapes_tree, film, save

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

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


def commands():
    """Each `python -m ...` line of a code block, with its page, in order."""
    for page in PAGES:
        for block in re.findall(r"```\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.splitlines():
                if line.startswith("python -m "):
                    yield page, line


@pytest.mark.slow
def test_commands(tmp_path):
    found = list(commands())
    assert found
    cityscapes_tree(tmp_path / "cityscapes", {"train": 2, "val": 1, "test": 2}, size=(32, 64))
    film(tmp_path / "film.mp4", 3)
    for name in ("a.jpg", "berlin/b.png"):
        save(tmp_path / "images" / name, np.random.default_rng(0).integers(0, 256, (30, 40, 3)))
    arguments = ("images", "film.mp4", "cityscapes")  # how those begin that are no options
    places = ("--workdir", "--weights", "--out", "--root")  # of the files that a command reads or leaves
    data_root = "--config.data.root="
    for _, line in found:
        words = shlex.split(line)[1:]
        narrow = next((sizes for network, sizes in NARROW.items() if network in line), NARROW_CNN)
        fields = FEW | narrow
        if data_root in line:
            del fields["data.source"]
        few = [f"--config.{name}={value}" for name, value in fields.items()] if "--config" in line else []
        moved = [str(tmp_path / Path(b).name) if a in places else b for a, b in pairwise(["", *words])]
        moved = [f"{data_root}{tmp_path / Path(word).name}" if word.startswith(data_root) else word for word in moved]
        moved = [str(tmp_path / word) if word.split("/")[0] in arguments else word for word in moved]
        command = [sys.executable, *moved, *few]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{line}\n{result.stderr}"


def test_links_and_targets_exist():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in PAGES:
        text = page.read_text()
        for link in re.findall(r"\]\(([^)#]+)", text):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"
        for path in re.findall(r"`((?:cropjax|configs|tests|third_party|docs|lock)/[\w./]*)`", text):
            assert (ROOT / path).exists(), f"{page.name}: {path}"
        code = "\n".join(re.findall(r"```\n(.*?)```", text, re.DOTALL))
        for target in re.findall(r"^make ([\w-]+)", code, re.MULTILINE) + re.findall(r"`make ([\w-]+)`", text):
            assert target in targets, f"{page.name}: make {target}"
    listed = re.findall(r"`(\w+)`(?=[ ,|])", (ROOT / "README.md").read_text().split("| config |")[1].split("\n\n")[0])
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks(page, saved_run, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/demo").symlink_to(saved_run)
    save(tmp_path / "street.jpg", np.random.default_rng(0).integers(0, 256, (30, 40, 3)))
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        subprocess.run([sys.executable, "-c", block], check=True, cwd=tmp_path)
