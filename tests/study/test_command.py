"""The command: two processes share a study, one of them is killed, and what it says and writes."""

import json
import os
import re
import signal
import time

import pytest
from command import Command, command

STUDY = ["--config", "tests/tiny_study.py:short"]
RUNS = ("PSPNet,base/seed_0", "PSPNet,base/seed_1")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """(the folder, what the one said that lived): of two processes the one at the first run was killed."""
    folder = tmp_path_factory.mktemp("study")
    both = [Command("cropjax.study", *STUDY, "--workdir", folder) for _ in range(2)]
    _until(lambda: all((folder / run / "metrics.jsonl").exists() for run in RUNS), both)
    pid = re.search(r"process (\d+)", (folder / RUNS[0] / "study.lock").read_text())[1]
    os.kill(int(pid), signal.SIGKILL)
    killed, done = sorted((one.wait(300) for one in both), key=lambda one: one.returncode)
    assert (killed.returncode, done.returncode) == (-signal.SIGKILL, 0), done.stderr
    return folder, done.stdout


def _until(happened, commands, seconds=200):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, [one.read() for one in commands]
        assert all(one.running() for one in commands), [one.read() for one in commands]
        time.sleep(0.1)


def test_what_a_killed_process_was_at_is_taken_up_by_the_other(shared):
    folder, said = shared
    places = [f"another process is at work on {RUNS[0]}", f"run 2 of 2, {RUNS[1]};", f"run 1 of 2, {RUNS[0]};"]
    assert sorted(places, key=said.index) == places
    for run in RUNS:
        found = json.loads((folder / "results" / f"{run}.json").read_text())
        assert found["trained"]["steps"] == 30
        assert set(found["tests"]) == {"whole", "slide"}
    assert "2 of 2 runs" in said
    assert (folder / "report.html").exists()


def test_a_dry_run_says_what_there_is_and_writes_nothing(shared, tmp_path):
    folder, _ = shared
    done = command("cropjax.study", *STUDY, "--workdir", folder, "--dry_run")
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 cell, 2 runs, 2 of them done; tests: whole, slide" in done.stdout
    assert "Hours are of training alone on 1 x cpu, as in the runs that are done; 0.0 are left." in done.stdout
    assert command("cropjax.study", *STUDY, "--workdir", tmp_path / "new", "--dry_run").returncode == 0
    assert not (tmp_path / "new").exists()


def test_a_pattern_that_names_nothing(shared, tmp_path):
    done = command("cropjax.study", *STUDY, "--workdir", tmp_path, "--only", "PSPnet*")
    assert done.returncode == 2
    assert done.stderr.strip().endswith(
        "--only=PSPnet* matches no run; the cells are PSPNet,base, and runs CELL/seed_N"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_failed_is_named_and_the_status_says_so(shared, tmp_path):
    """Here and wherever the results are; the report is of the others."""
    folder, _ = shared
    results = tmp_path / "results" / "PSPNet,base"
    results.mkdir(parents=True)
    (results / "seed_0.json").write_bytes((folder / "results" / f"{RUNS[0]}.json").read_bytes())
    (results / "seed_1.failed").write_text("loss became nan\n")
    done = command("cropjax.study", *STUDY, "--workdir", tmp_path / "run", "--results", tmp_path / "results")
    assert done.returncode == 2
    assert f"{RUNS[1]} has no results: loss became nan (remove {results / 'seed_1.failed'} to try again)" in done.stderr
    assert "Traceback" not in done.stderr
    assert "1 of 2 runs" in done.stdout
    only = ["--workdir", tmp_path / "page", "--results", tmp_path / "results", "--report_only"]
    assert command("cropjax.study", *STUDY, *only).returncode == 0
    assert "PSPNet,base: seed 1, loss became nan" in (tmp_path / "page" / "table.md").read_text()
