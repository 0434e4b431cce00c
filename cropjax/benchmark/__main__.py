"""How fast a config is on this machine, how much memory it takes, and other kits beside it in the same minutes.

    python -m cropjax.benchmark --config configs/pspnet_512.py [--suites forward,train,...] [--against torch,...]

forward and train: logits of a batch, the step of training. evaluate: class ids of a large image. input: images a
second of the data pipeline. compile: from the start of a process to its first step. memory: of the step, by the
compiler's plan, for everything that `train.keep` may be. scaling: forward and train over crops and batches. Images and
labels are random, of the config's crop.
"""

import os
import tempfile
from pathlib import Path

from absl import flags

from cropjax import commandline
from cropjax.errors import UserError

SUITES = flags.DEFINE_list("suites", ["forward", "train"], "What to measure, or all.")
AGAINST = flags.DEFINE_list("against", [], "Whom to measure beside us: torch, torch_channels_last, torch_compile, ...")
ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each is timed.", lower_bound=1)
JSON = flags.DEFINE_string("json", None, "The file to write, with every single time.")
FORWARD_BATCH = flags.DEFINE_integer("forward_batch", 1, "Images of a forward pass.", lower_bound=1)
IMAGE_SIZE = flags.DEFINE_string("image_size", "1024x2048", "Height x width of the image of evaluate.")
CROPS = flags.DEFINE_list("crops", [256, 384, 512, 640, 768, 896, 1024], "Sides of the crops of scaling.")
BATCHES = flags.DEFINE_list("batches", [1, 2, 4], "Batches of scaling, at the configured crop.")
RIVAL_ROOT = flags.DEFINE_string("rival_root", None, "The files of which data.root is the prepared store, for input.")
MEMORY_GIB = flags.DEFINE_float("memory_gib", 80.0, "What the largest batch of memory must fit into.", lower_bound=0.0)
QUICK = flags.DEFINE_boolean("quick", False, "Find the peak by a smaller matrix product.")


def benchmark(config, workdir):
    """The command: measures suite by suite, prints row by row, and writes the JSON and its figure at the end."""
    from cropjax.benchmark import suites as measured
    from cropjax.benchmark.rivals import RIVALS

    suites = _chosen("--suites", SUITES.value, measured.SUITES)
    rivals = _chosen("--against", AGAINST.value, RIVALS)
    sizes = {
        "image_size": _numbers("--image_size", IMAGE_SIZE.value.split("x"), 2),
        "crops": _numbers("--crops", CROPS.value),
        "batches": _numbers("--batches", BATCHES.value),
    }
    path = _json_path(JSON.value)

    from cropjax.benchmark import machine, report
    from cropjax.benchmark.opponents import Opponents
    from cropjax.benchmark.programs import Programs
    from cropjax.config import build_source

    if "input" in suites:
        build_source(config, "train")  # or say so now
    programs, rows = Programs(config), []
    here = machine.describe()
    with tempfile.TemporaryDirectory() as folder:
        reading_only = set(suites) == {"input"}
        opponents = Opponents(rivals, programs, Path(folder), reading_only=reading_only)
        print(machine.one_line(here), flush=True)
        if not reading_only:
            opponents.check(programs, programs.batch(FORWARD_BATCH.value, tuple(config.data.crop_size)))
        session = measured.Session(
            programs,
            opponents,
            rounds=ROUNDS.value,
            matrix=2048 if QUICK.value else 4096,
            forward_batch=FORWARD_BATCH.value,
            memory_bytes=MEMORY_GIB.value * 2**30,
            rival_root=RIVAL_ROOT.value,
            **sizes,
        )
        print(report.HEADER, flush=True)
        for suite in suites:
            for row in measured.SUITES[suite](session):
                rows.append(row)
                print(*row.lines(), sep="\n", flush=True)
    print(*report.notes(session.peaks, session.matrix, opponents.about), sep="\n")
    if path:
        found = {"machine": here, "config": config.to_dict(), "rivals": opponents.about}
        found["matrix_product"] = {"size": session.matrix, "flop_per_second": session.peaks}
        report.write_json(path, found | {"rows": [row.json() for row in rows]})
        if "scaling" in suites:
            report.write_figure(path.with_suffix(".png"), rows)


def _chosen(flag, names, known):
    """The names of a list in the order of `known`, which are all that there are."""
    for name in names:
        if name not in (*known, "all"):
            raise UserError(f"{flag}={name} is not one of {', '.join(known)}")
    return [name for name in known if name in names or "all" in names]


def _numbers(flag, values, length=None):
    try:
        numbers = tuple(int(value) for value in values)
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1 or length not in (None, len(numbers)):
        example = "1024x2048" if length else "256,512"
        raise UserError(f"{flag}={','.join(map(str, values))} must be whole numbers above 0, as in {example}")
    return numbers


def _json_path(name):
    path = Path(name) if name else None
    if path and path.suffix != ".json":
        raise UserError(f"--json={path}: give a name that ends in .json")
    if path and not path.parent.is_dir():
        raise UserError(f"--json={path}: there is no folder {path.parent}; make it, or name another")
    if path and path.is_dir():
        raise UserError(f"--json={path} is a folder: name a file")
    return path


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # rivals need memory of the same device
    commandline.run(benchmark)
