"""Three seeds of one cell: one after the other, as one program of `vmap`, and a process for each core.

    python tests/show/seeds.py [CELL ...]

Cells are of configs/studies/camvid.py; default: both CNNs with batches of 2 and of 8. For each the script prints the
seconds of one step on all cores, and as shares of three of these: three seeds' step under `vmap`, and three steps in
processes that have one core each and work at the same time. Batches are random numbers of the cell's form. On two
cores it takes ten minutes.
"""

import json
import os
import runpy
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

ROOT = Path(__file__).parents[2]
CELLS = ("PSPNet,base", "PSPNet,batch=8", "DeepLabV3+,base", "DeepLabV3+,batch=8")
SEEDS, TIMES = 3, 10


def step_of(name):
    """(a step's function of state, its first state, batch and key) of a cell, for one device."""
    from cropjax.config import build_model, build_optimizer, example_form
    from cropjax.sharding import batch_form, make_mesh
    from cropjax.step import create_state, make_train_step, run_key, split_model
    from cropjax.study.plan import read_plan

    plan = read_plan(runpy.run_path(str(ROOT / "configs" / "studies" / "camvid.py"))["get_config"]())
    (config,) = [cell.config for cell in plan.cells if cell.name == name]
    mesh = make_mesh(data=1, space=1)
    graph, weights = split_model(build_model(config))
    direction, schedule = build_optimizer(config)
    form = batch_form(config.train.batch_size, mesh, **example_form(config))
    rng = np.random.default_rng(0)
    batch = {field: rng.integers(0, 11, one.shape).astype(one.dtype) for field, one in form.items()}
    batch["size"] = np.full(form["size"].shape, config.data.crop_size[0], np.int32)
    step = make_train_step(graph, direction, schedule, config, mesh)
    return step, lambda: create_state(weights, direction, mesh), jax.device_put(batch), run_key(0, mesh)


def median(step, state):
    """Seconds of one step, the median of `TIMES`, after two."""
    seconds = []
    for _ in range(TIMES + 2):
        began = time.monotonic()
        state, _ = jax.block_until_ready(step(state))
        seconds.append(time.monotonic() - began)
    return statistics.median(seconds[2:])


def alone(name):
    step, state, batch, key = step_of(name)
    return median(lambda state: step(state, batch, key), state())


def together(name):
    step, state, batch, _ = step_of(name)
    states = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * SEEDS), state())
    keys = jnp.stack([jax.random.key(seed) for seed in range(SEEDS)])
    program = jax.jit(jax.vmap(step.__wrapped__, in_axes=(0, None, 0)), donate_argnums=0)
    return median(lambda states: program(states, batch, keys), states)


def on_core(name, how, core=None):
    """Starts `how` of a cell in a process of its own."""
    command = [sys.executable, __file__, f"--{how}", name]
    if core is not None:
        command = ["taskset", "--cpu-list", str(core), *command]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def seconds_of(processes):
    answers = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a measurement failed")
    return [json.loads(answer.splitlines()[-1]) for answer in answers]


def main(names):
    cores = sorted(os.sched_getaffinity(0))
    for name in names or CELLS:
        (one,) = seconds_of([on_core(name, "alone")])
        (many,) = seconds_of([on_core(name, "together")])
        # Cores of them end a step each in the time of the slowest.
        each = max(seconds_of([on_core(name, "alone", core) for core in cores])) / len(cores)
        print(f"{name}: a step {one:.3f} s; vmap {many / SEEDS / one:.2f}, a core each {each / one:.2f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] in (["--alone"], ["--together"]):
        print(json.dumps({"--alone": alone, "--together": together}[sys.argv[1]](sys.argv[2])))
    else:
        main(sys.argv[1:])
