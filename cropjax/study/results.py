"""What a report needs of a finished run, in one small JSON file a run: it goes where run folders are too large to go.

cell, seed      {factor: level}, and the number
fields          {dotted name: value} of its config, all that its results depend on
provenance      commit, versions and devices
data            images, and the size (rows, columns) of the first of them: what it was trained on
weights         SHA-256 of the file that it began with, "" without one
trained         steps, hours, images_per_second; losses and scores {step: value}, the scores in percent
tests           {test: {"conditions": {...}, "miou": ..., "iou": {class: ...}, ...}}, as evaluation.json has a mode
"""

import hashlib
import json
from pathlib import Path

from cropjax.compare import read_run
from cropjax.config import build_source
from cropjax.errors import UserError
from cropjax.evaluate import conditions
from cropjax.evaluation.report import ALL, report_of
from cropjax.workdir import compared, fields_of, write_text

WRITTEN = ("cell", "seed", "fields", "provenance", "data", "weights", "trained", "tests")
# Of no result: where the data are on a machine, and what the tests set for themselves.
NOT_COMPARED = ("data.root", "eval.")
# Of a mode's report, what a study looks at; of the segments those of all classes together.
KEPT = ("miou", "macc", "aacc", "mbiou", "iou", "pixels", "class_distance", "border_distance")


class Results:
    """The results in `folder`."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def path(self, run):
        return self.folder / f"{run.name}.json"

    def get(self, run, tests=()):
        """What was found of `run`, or None; `tests` {name: config} are those of the study.

        Raises:
            UserError: the file is damaged, of a run with another config, or of a test with other conditions.
        """
        path = self.path(run)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            found = {name: stored[name] for name in WRITTEN}
            fields = {name: _tuples(value) for name, value in found["fields"].items()}
            tested = {name: found["tests"][name]["conditions"] for name in tests if name in found["tests"]}
            expected = {name: conditions(tests[name], about["sizes"]) for name, about in tested.items()}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error}): remove it, and the run is made again") from error
        wanted = deciding(run.config)
        other = sorted(name for name in wanted.keys() | fields if wanted.get(name) != fields.get(name))
        if other:
            raise UserError(
                f"{path} is of a run with another {other[0]}, {fields.get(other[0])!r} where the study has "
                f"{wanted.get(other[0])!r}: choose another folder, or remove it, and the run is made again"
            )
        for test, about in expected.items():
            if any(tested[test][name] != value for name, value in about.items()):
                raise UserError(
                    f"{path} is of another test {test!r} than the study's: give the study's another name, and it is "
                    "made besides, or remove the file, and the run is made again"
                )
        return found

    def lacks(self, run, tests):
        """The names of `tests`, {name: config}, that are not there."""
        found = self.get(run, tests)
        return [test for test in tests if found is None or test not in found["tests"]]

    def put(self, run, workdir, tests):
        """Writes what `workdir` holds of the run and what `tests`, {test: {...}}, found; those that are there stay."""
        found, trained, data = self.get(run), read_run(workdir), build_source(run.config, "train")
        tests = (found["tests"] if found else {}) | tests
        provenance = {name: value for name, value in trained.provenance.items() if name != "command"}
        values = {
            "cell": run.cell.levels,
            "seed": run.seed,
            "fields": deciding(run.config),
            "provenance": provenance,
            "data": {"images": len(data), "size": data[0]["label"].shape},
            "weights": found["weights"] if found else _checksum(run.config.init_from),
            "trained": {
                "steps": trained.steps,
                "hours": trained.hours,
                "images_per_second": trained.rate,
                "losses": trained.losses,
                "scores": trained.scores,
            },
            "tests": tests,
        }
        self.path(run).parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path(run), json.dumps(values, separators=(",", ":"), sort_keys=True) + "\n")


def deciding(config):
    """The fields of a run's config that decide what it finds."""
    fields = compared(fields_of(config))
    return {name: value for name, value in fields.items() if not name.startswith(NOT_COMPARED) and name != "seed"}


def found_by(scores, details, names, about):
    """Of one test, whose config has one mode: {"conditions": {...}, "miou": ..., ...}; `about` as in conditions."""
    report = report_of(scores, details, names, about)
    (mode,) = scores
    about = {name: value for name, value in about.items() if name not in ("run", "step")}
    kept = {name: report[mode][name] for name in KEPT}
    return {"conditions": about, **kept, "segments": report[mode]["segments"][ALL]}


def _checksum(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
