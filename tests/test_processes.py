"""Real processes that train together: they give what one gives, and none of them hangs when one is lost."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from command import Command, command, environments
from tiny_run import get_config
from trees import comma10k_tree

from cropjax.checkpoint import Checkpoints
from cropjax.config import build_model, build_optimizer
from cropjax.distributed import LOST
from cropjax.sharding import make_mesh
from cropjax.step import abstract_state, split_model

CONFIG = Path(__file__).parent / "tiny_run.py"
TOTAL = get_config().train.steps


def start(count, workdir, *args, module="cropjax.main", **environment):
    """`count` processes of a run of `CONFIG`."""
    args = (f"--config={CONFIG}", f"--workdir={workdir}", *args)
    return [Command(module, *args, **place, **environment) for place in environments(count)]


def finish(processes, timeout=120):
    return [process.wait(timeout) for process in processes]


def wait_for(step, workdir, processes, timeout=120):
    """Until the run has logged `step`."""
    path, end = workdir / "metrics.jsonl", time.monotonic() + timeout
    while not (path.exists() and f'"step": {step},' in path.read_text()):
        assert time.monotonic() < end, [process.read() for process in processes]
        assert all(process.running() for process in processes), [process.read() for process in processes]
        time.sleep(0.02)


def final_state(workdir):
    config = get_config()
    _, weights = split_model(build_model(config))
    direction, _ = build_optimizer(config)
    checkpoints = Checkpoints(workdir / "checkpoints", best=config.eval.best)
    step, state = checkpoints.restore(abstract_state(weights, direction, make_mesh(data=-1, space=1)))
    checkpoints.close()
    assert step == TOTAL
    return jax.device_get(state)


def assert_same_run(workdir, other):
    jax.tree.map(np.testing.assert_array_equal, final_state(workdir), final_state(other))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two processes that nothing has disturbed, and what they wrote."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    results = finish(start(2, workdir))
    assert [result.returncode for result in results] == [0, 0], results
    return workdir, results


def stop(workdir):
    """What two processes said of a run that a signal to the second has stopped after a few steps."""
    processes = start(2, workdir, CROPJAX_SAVED_STATUS=75)
    wait_for(4, workdir, processes)
    processes[1].send(signal.SIGUSR1)
    return finish(processes)


def test_a_signal_to_one_saves_in_all(tmp_path):
    """And the first process alone speaks and writes."""
    first, second = stop(tmp_path)
    assert [first.returncode, second.returncode] == [75, 75], (first, second)
    assert "2 processes, started by the environment" in first.stdout
    saved = re.search(r"stopped by a signal to another process, saved after step (\d+)", first.stdout)
    assert (tmp_path / "checkpoints" / saved[1]).is_dir()
    assert [line for line in second.stdout.splitlines() if not line.startswith("[Gloo]")] == []


@pytest.mark.slow
def test_one_device_goes_on_where_two_were_stopped(tmp_path):
    stop(tmp_path)
    alone = command("cropjax.main", f"--config={CONFIG}", f"--workdir={tmp_path}")
    assert alone.returncode == 0, alone.stderr
    assert "resuming after step" in alone.stdout
    final_state(tmp_path)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sorted(steps) == sorted([*range(1, TOTAL + 1), 6, 12])  # each once, and twice an evaluation


@pytest.mark.slow
def test_two_processes_give_what_one_gives(finished, tmp_path):
    """Weights as near as float32 lets them, far below what a step moves; the evaluation of the same to the digit."""
    workdir, _ = finished
    alone = command("cropjax.main", f"--config={CONFIG}", f"--workdir={tmp_path / 'one'}")
    assert alone.returncode == 0, alone.stderr
    two, one = final_state(workdir)["params"], final_state(tmp_path / "one")["params"]
    _, drawn = split_model(build_model(get_config()))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), one, drawn["params"])
    apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), one, two)
    worst = max(a / m for a, m in zip(jax.tree.leaves(apart), jax.tree.leaves(moved), strict=True) if m > 0)
    assert worst < 0.02

    assert [result.returncode for result in finish(start(2, workdir, module="cropjax.evaluate"))] == [0, 0]
    by_two = json.loads((workdir / "evaluation/evaluation.json").read_text())
    assert command("cropjax.evaluate", f"--workdir={workdir}").returncode == 0
    assert json.loads((workdir / "evaluation/evaluation.json").read_text()) == by_two


@pytest.mark.slow
def test_all_processes_end_early_together(tmp_path):
    """A run that changes nothing, evaluated after every second step."""
    still = ("optim.lr=0.0", "optim.min_lr=0.0", "model.norm.momentum=1.0", "eval.every=2", "eval.stop_after=1")
    still = [f"--config.{field}" for field in still]
    first, second = finish(start(2, tmp_path, *still))
    assert [first.returncode, second.returncode] == [0, 0], (first, second)
    assert "step 4: no whole/miou above that of step 2 since then, training ends" in first.stdout
    again, _ = finish(start(2, tmp_path, *still))
    assert f"finished already, 4 of {TOTAL} steps; raise eval.stop_after to go on" in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize("victims", [(1,), (0, 1)], ids=["one", "both"])
def test_a_signal_saves_and_the_run_goes_on_to_the_same_end(finished, tmp_path, victims):
    processes = start(2, tmp_path)
    wait_for(4, tmp_path, processes)
    for victim in victims:
        processes[victim].send(signal.SIGUSR1 if victim else signal.SIGTERM)
    results = finish(processes)
    assert [result.returncode for result in results] == [0, 0], results
    results = finish(start(2, tmp_path))
    assert [result.returncode for result in results] == [0, 0], results
    assert_same_run(tmp_path, finished[0])


@pytest.mark.slow
def test_a_killed_process_stops_the_others_and_one_device_goes_on(tmp_path):
    processes = start(2, tmp_path)
    wait_for(4, tmp_path, processes)
    processes[1].send(signal.SIGKILL)
    began = time.monotonic()
    first, _ = finish(processes)
    assert time.monotonic() - began < 60
    assert first.returncode in (LOST, -signal.SIGABRT), first
    assert "another process is lost" in first.stderr or "another task died" in first.stderr
    alone = command("cropjax.main", f"--config={CONFIG}", f"--workdir={tmp_path}")
    assert alone.returncode == 0, alone.stderr
    assert "resuming after step 3" in alone.stdout
    final_state(tmp_path)


@pytest.mark.slow
def test_a_process_that_hangs_in_an_evaluation_stops_all(tmp_path):
    """One reads an image from a disk that no longer answers: as a pipe that nobody writes to, it opens for ever."""
    label = np.arange(60)[None].repeat(30, 0) % 5
    root = comma10k_tree(tmp_path / "data", {f"{i:04d}_{i}": label for i in (*range(8), 19, 29, 39, 49)})
    image = root / "imgs" / "0029_29.png"
    image.unlink()
    os.mkfifo(image)
    data = ("--config.data.source=comma10k", f"--config.data.root={root}", "--config.eval.location_prior=0")
    processes = start(2, tmp_path / "run", *data)
    wait_for(6, tmp_path / "run", processes)
    began = time.monotonic()
    first, second = finish(processes)
    assert time.monotonic() - began < 60
    assert first.returncode in (LOST, -signal.SIGABRT), first
    assert second.returncode == LOST
    assert "process 1 of 2: nothing has moved for 30 s (data.patience)" in second.stderr
    assert (tmp_path / "run" / "checkpoints" / "6").is_dir()


@pytest.mark.slow
def test_a_second_run_in_the_folder_is_refused_by_name(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    longer = "--config.train.steps=1000"
    running = Command("cropjax.main", f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", longer)
    wait_for(TOTAL + 2, tmp_path / "run", [running])
    second = command("cropjax.main", f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", longer)
    running.send(signal.SIGTERM)
    assert second.returncode == 2
    assert f"{tmp_path / 'run'}: another process is at work there (process " in second.stderr
    assert running.wait(60).returncode == 0


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_run_leaves_its_data_workers_their_work(finished, tmp_path):
    """As Slurm sends it: the run still needs batches until it has saved."""
    run = Command("cropjax.main", f"--config={CONFIG}", f"--workdir={tmp_path}", "--config.data.workers=2")
    wait_for(4, tmp_path, [run])
    workers = run.children()
    assert len(workers) >= 2
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    wait_for(6, tmp_path, [run])
    run.send(signal.SIGTERM)
    result = run.wait(60)
    assert result.returncode == 0, result
    assert "stopped by SIGTERM" in result.stdout
