"""What the studies would cost on one H100, from the two training steps that were measured there.

    python tests/show/study_hours.py [STUDY ...]

Of docs/performance.md: the steps of deeplab_512 and segformer_b3_512, batch 8, bfloat16. A network that was not
measured is taken to get as many FLOP a second as the measured one of its kind, CNN or transformer; FLOP are counted,
not run. For small networks that is too little: launches, not FLOP, take their time. Training alone. It takes ten
minutes on two cores, and prints a row a study and network.
"""

import re
import runpy
import sys
from pathlib import Path

import jax
import numpy as np

from cropjax.benchmark.programs import count_flop
from cropjax.compare import as_text
from cropjax.config import build_model, build_optimizer, example_form
from cropjax.sharding import batch_form, make_mesh
from cropjax.step import create_state, make_train_step, run_key, split_model
from cropjax.study.plan import NETWORK, read_plan
from cropjax.study.work import pixels

ROOT = Path(__file__).parents[2]
STUDIES = ("crop_size", "crop_size_controlled", "remedies", "camvid:50")
MEASURED = {"deeplab_512": ("pspnet", "deeplabv3plus"), "segformer_b3_512": ("segformer", "segnext")}
BATCH, CROP = 8, 512  # of the measurements


def config_of(file, *arguments):
    return runpy.run_path(str(ROOT / "configs" / f"{file}.py"))["get_config"](*arguments)


def flop_a_megapixel(config):
    """Of a training step, by XLA's count of it as it is lowered, with two crops."""
    config = config.copy_and_resolve_references()
    config.train.batch_size = 2
    config.model.norm.groups = 1
    mesh = make_mesh(data=1, space=1)
    graph, weights = split_model(build_model(config))
    direction, schedule = build_optimizer(config)
    form = batch_form(2, mesh, **example_form(config))
    batch = {name: np.zeros(one.shape, one.dtype) for name, one in form.items()}
    step = make_train_step(graph, direction, schedule, config, mesh)
    flop = count_flop(step, create_state(weights, direction, mesh), batch, run_key(0, mesh))
    return flop / (2 * np.prod(config.data.crop_size) / 1e6)


def flop_a_second():
    """{network: FLOP/s} of the H100 of docs/performance.md."""
    page, found = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8"), {}
    for name, networks in MEASURED.items():
        (milliseconds,) = re.findall(rf"^\| `{name}` \| train \| ([\d.]+) ms", page, re.MULTILINE)
        flop = flop_a_megapixel(config_of(name)) * BATCH * CROP**2 / 1e6
        found |= dict.fromkeys(networks, flop / (float(milliseconds) / 1e3))
    return found


def main():
    rates = flop_a_second()
    rows = [["study", "network", "cells", "runs", "megapixels", "GFLOP a megapixel", "TFLOP/s", "hours"]]
    for study in sys.argv[1:] or STUDIES:
        file, *arguments = study.split(":")
        plan = read_plan(config_of(f"studies/{file}", *arguments))
        sums = []
        for network in plan.factors[NETWORK]:
            cells = [cell for cell in plan.cells if cell.levels[NETWORK] == network]
            runs = [run for run in plan.runs if run.cell in cells]
            first = {cell.config.data.crop_size: cell.config for cell in reversed(cells)}  # of each crop
            each = {crop: flop_a_megapixel(config) for crop, config in first.items()}
            megapixels = [pixels(run.cell.config) / 1e6 for run in runs]
            flop = sum(each[run.cell.config.data.crop_size] * much for run, much in zip(runs, megapixels, strict=True))
            rate = rates[cells[0].config.model.name]
            sums.append(flop / rate / 3600)
            counts = [str(len(cells)), str(len(runs)), f"{sum(megapixels):.0f}"]
            counts += ["/".join(f"{each[crop] / 1e9:.0f}" for crop in sorted(each)), f"{rate / 1e12:.0f}"]
            rows.append([study, network, *counts, f"{sums[-1]:.1f}"])
            jax.clear_caches()
        total = [str(len(plan.cells)), str(len(plan.runs)), "", "", ""]
        rows.append([study, "all", *total, f"{sum(sums):.1f}"])
    print(as_text(rows))


if __name__ == "__main__":
    main()
