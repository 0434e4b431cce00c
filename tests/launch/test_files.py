"""What holds for every file of launch/, and the container's, which needs no container to check."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
SCRIPTS = sorted(path for path in LAUNCH.rglob("*") if path.suffix in (".sh", ".sbatch", ".bsub"))
FILES = sorted(path for path in LAUNCH.rglob("*") if path.is_file())


def name(path):
    return path.relative_to(LAUNCH).as_posix()


@pytest.mark.parametrize("path", [*SCRIPTS, Path(__file__).with_name("slurm_cluster.sh")], ids=lambda path: path.name)
def test_scripts_are_bash(path):
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert re.search("^set -euo pipefail$", text, re.M)
    assert path.stat().st_mode & 0o111


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_head_says_what_is_needed(path):
    head = path.read_text().split("\nset -")[0]
    for wanted in ("GPUs:", "--dry_run", "xports"):
        assert wanted in head
    assert head.count(path.name) >= 2  # examples


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_of_this_machine(path):
    text = path.read_text()
    assert not re.search(r"/(work|root|tmp/|home|mnt)/", text.replace("/tmp\n", "")), "a path"
    assert max(map(len, text.splitlines())) <= 120 or path.suffix == ".md"


def test_readme_names_every_file():
    text = (LAUNCH / "README.md").read_text()
    linked = set(re.findall(r"\]\(([\w./]+)\)", text))
    assert linked == {name(path) for path in FILES} - {"README.md", "Dockerfile.dockerignore"}
    scripts = "".join(path.read_text() for path in SCRIPTS)
    exported = set(re.findall(r'"?((?:CROPJAX|NCCL|XLA|JAX)_[A-Z_]+)=\$', scripts))
    assert {"NCCL_DEBUG", "XLA_FLAGS", "CROPJAX_SAVED_STATUS"} <= exported
    assert all(f"`{name}`" in text for name in exported)


def instructions():
    text = re.sub(r"\\\n", " ", (LAUNCH / "Dockerfile").read_text())
    return [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]


def test_image_copies_what_is_there():
    root = LAUNCH.parent
    allowed = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    sources = [source for word, rest in instructions() if word == "COPY" for source in rest.split()[:-1]]
    assert {"lock/cuda12.txt", "cropjax", "configs"} <= set(sources)
    for source in sources:
        assert (root / source).exists()
        assert "!" + source in allowed
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"]} <= set(sources)  # what building needs


def test_image_is_pinned_and_not_root():
    words = instructions()
    (base,) = [rest for word, rest in words if word == "FROM"]
    assert re.fullmatch(r"python:3\.12\.\d+-slim-\w+", base)
    assert [rest for word, rest in words if word == "USER"] == ["1000"]
    assert any("--require-hashes -r lock/cuda12.txt" in rest for word, rest in words if word == "RUN")
    assert ["ENTRYPOINT", '["tini", "--", "python", "-m", "cropjax.main"]'] in words  # no shell that keeps signals
    assert not any(word in ("ARG", "ADD") for word, _ in words)
