"""What a crop does inside a network: the instruments on one config or trained run, and a report of what they say.

    python -m cropjax.analyze --config configs/demo.py --crops 128,192 --test_size 256x512 --out report

With --workdir the weights of that run's best checkpoint are looked at, else freshly drawn ones; under --budget full
both. What has been measured is kept in the report's folder: a report that was interrupted goes on where it was.
Images are those of `data`'s evaluation split, resized to --test_size; --config.data.source=streets needs no data.
"""

import dataclasses
import importlib
import os
import time
from pathlib import Path

from absl import flags
from ml_collections.config_flags import config_flags

from cropjax import commandline
from cropjax.errors import UserError
from cropjax.pages.section import hxw

CROPS = flags.DEFINE_list("crops", ["512", "769"], "Training crops to compare: sides, or rows x columns.")
TEST_SIZE = flags.DEFINE_string("test_size", "1024x2048", "Rows x columns of the whole images.")
OUT = flags.DEFINE_string("out", "report", "The folder of the report.")
BUDGET = flags.DEFINE_enum("budget", "quick", ["quick", "full"], "How much is measured.")
INSTRUMENTS = flags.DEFINE_list("instruments", ["all"], "Which of them.")
COMPARE = config_flags.DEFINE_config_file("compare", None, "Another config: lists all that differs.", lock_config=True)
CHECKPOINT = "best"

NAMES = (
    "receptive_field",
    "effective_field",
    "valid_taps",
    "gridding",
    "pooling",
    "normalization",
    "gradient_noise",
    "attention_reach",
    "factorization",
    "consistency",
    "advice",
)
LEAST_SIDE = 33  # of a crop: the last maps of the transformers have stride 32


def analyze(config, workdir):
    """The command: measures, step by step, and writes report.html, report.md, figures/ and csv/ into --out."""
    crops = tuple(_size("--crops", text) for text in CROPS.value)
    test_size = _size("--test_size", TEST_SIZE.value)
    for crop in crops:
        if min(crop) < LEAST_SIDE:
            raise UserError(f"--crops={hxw(crop)}: the last map would be a single position; at least {LEAST_SIDE}")
        if any(side > whole for side, whole in zip(crop, test_size, strict=True)):
            raise UserError(f"--crops={hxw(crop)} is larger than --test_size={hxw(test_size)}: lower it, or raise that")
    names = _instruments(INSTRUMENTS.value)
    other = commandline.read_config(COMPARE) if COMPARE.present else None
    out = Path(OUT.value)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is no folder: name another")

    from cropjax.instruments.kept import Kept, identity
    from cropjax.pages import page
    from cropjax.progress import Progress
    from cropjax.provenance import command, commit
    from cropjax.validation import validate

    if other:
        validate(other)
    modules = {name: importlib.import_module(f"cropjax.instruments.{name}") for name in names}
    subject, about = _subject(config, workdir if commandline.WORKDIR.present else None, crops, test_size)
    key = identity(subject.config, subject.weight_sets, code=commit(), crops=crops, test=test_size, how=subject.budget)
    kept = Kept(out / "measured", key)
    plan = {name: module.steps(subject) for name, module in modules.items()}
    every = [step for steps in plan.values() for step in steps]
    total = sum(_units(step) for step in every)
    results, done = {}, 0
    began = time.monotonic()
    with Progress(total, unit="unit", label="analyze", every_seconds=15.0) as progress:
        for step in every:
            results[step.name] = kept.get(step)
            done += _units(step)
            progress.update(done, at=step.name)

    sections = []
    for name, module in modules.items():
        found = [results[step.name] for step in plan[name]]
        more = {}
        if name == "advice" and other:
            more = {"other": (_config_name("compare"), module.confounds(config, other))}
        if found or more:
            sections.append(module.section(subject, found, **more))
    facts = about | {
        "crops": ", ".join(map(hxw, crops)),
        "test size": hxw(test_size),
        "budget": f"{subject.budget.name}: {subject.budget.positions} x {subject.budget.positions} positions, "
        f"{subject.budget.images} image{'s' * (subject.budget.images > 1)}, {subject.budget.batches} batches",
        "code": commit() or "no checkout",
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "command": command(),
    }
    page.write(out, f"What the crop does inside {subject.name}", facts, [one for one in sections if one])
    print(f"{out / 'report.html'}: {len(every)} measurements, {time.monotonic() - began:.0f} s")


def _subject(config, workdir, crops, test_size):
    """The `Subject`, and what of it a report should say."""
    import jax
    import numpy as np

    from cropjax.benchmark.machine import describe, one_line
    from cropjax.instruments.subject import FULL, QUICK, Subject, drawn_weights, normalized

    name = _config_name("config")
    config = config.copy_and_resolve_references()
    if config.data.source == "streets":
        config.data.streets.size = test_size
    budget = QUICK if BUDGET.value == "quick" else FULL
    subject = Subject(name, config, None, {}, crops, test_size, budget)
    images = np.stack([subject.crop(index, crops[0])[2] for index in (0, 1)])  # or say that there are no data
    sets, sources = {}, []
    if workdir is None or budget is FULL:
        graph, sets["drawn"] = drawn_weights(config, normalized(images))
        sources.append("drawn")
    if workdir is not None:
        from cropjax.restore import restore_run
        from cropjax.sharding import make_mesh
        from cropjax.step import weights_of

        step, graph, state = restore_run(config, workdir, CHECKPOINT, make_mesh(**config.mesh))
        sets["trained"] = jax.device_get(weights_of(state))
        sources.append(f"{workdir}, step {step}")
    about = {
        "config": name,
        "weights": " and ".join(sources),
        "images": f"{config.data.source}, {config.data.eval_split}",
    }
    about["machine"] = one_line(describe()).splitlines()[0]
    return dataclasses.replace(subject, graph=graph, weight_sets=sets), about


def _config_name(flag):
    return commandline.config_name(config_flags.get_config_filename(flags.FLAGS[flag]))


def _units(step):
    """Progress counts tenths of a megapixel, and something for what runs no network."""
    return max(round(10 * step.cost), 1)


def _instruments(names):
    for name in names:
        if name not in (*NAMES, "all"):
            raise UserError(f"--instruments={name} is not one of {', '.join(NAMES)}")
    return [name for name in NAMES if name in names or "all" in names]


def _size(flag, text):
    try:
        sides = tuple(int(side) for side in text.split("x"))
    except ValueError:
        sides = ()
    if len(sides) == 1 and flag == "--crops":
        sides *= 2
    if len(sides) != 2 or min(sides) < 1:
        raise UserError(
            f"{flag}={text} must be {'a side or ' if flag == '--crops' else ''}rows x columns, as in 512x1024"
        )
    return sides


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    commandline.run(analyze)
