"""What a study will cost, from step times that were measured: by `cropjax.benchmark`, or in the runs that are done."""

import json
import math
from pathlib import Path

from cropjax.benchmark.measure import OURS
from cropjax.errors import UserError
from cropjax.study.plan import NETWORK
from cropjax.study.work import pixels


def paces_of_runs(found):
    """As `paces`, of [(Run, results)]: each network's, by its name in the study, as in its runs together."""
    seconds, megapixels, machines = {}, {}, []
    for run, result in found:
        network, hours_taken = run.cell.levels[NETWORK], result["trained"]["hours"]
        if math.isfinite(hours_taken):
            seconds[network] = seconds.get(network, 0.0) + 3600 * hours_taken
            megapixels[network] = megapixels.get(network, 0.0) + pixels(run.cell.config) / 1e6
            devices = result["provenance"]["devices"]
            machines.append(f"{devices['count']} x {devices['kind']}, as in the runs that are done")
    return {network: seconds[network] / megapixels[network] for network in seconds}, ", ".join(dict.fromkeys(machines))


def paces(paths, plan):
    """{network: seconds a megapixel of training} and what they were measured on, of benchmark files.

    A file speaks for all networks of the `plan` that have its `model.name`.

    A step's time is linear in the pixels of its batch (docs/performance.md), so that one crop speaks for others.

    Raises:
        UserError: a file that is none, or without a training step of ours.
    """
    found, machines = {}, []
    for path in map(Path, paths):
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            config, devices = report["config"], report["machine"]["devices"]
            (seconds,) = [row["parties"][OURS]["median"] for row in report["rows"] if row["suite"] == "train"]
            megapixels = config["train"]["batch_size"] * math.prod(config["data"]["crop_size"]) / 1e6
            found[config["model"]["name"]] = seconds / megapixels
            machines.append(f"{devices['count']} x {devices['kind']}, {config['train']['dtype']}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"--benchmark: {path} is no file of cropjax.benchmark --suites train --json ({error})"
            ) from error
    names = {cell.levels[NETWORK]: cell.config.model.name for cell in plan.cells}
    known = {network: found[name] for network, name in names.items() if name in found}
    return known, ", ".join(dict.fromkeys(machines))


def hours(config, pace):
    """Of training alone, at a `pace` in seconds a megapixel."""
    return pixels(config) / 1e6 * pace / 3600
