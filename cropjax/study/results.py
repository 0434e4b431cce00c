"""What a report needs of a finished run, in one small JSON file a run: it goes where run folders are too large to go.

cell, seed      {factor: level}, and the number
fields          {dotted name: value} of its config, all that its results depend on
provenance      commit, versions and devices
data            images, and the size (rows, columns) of the first of them: what it was trained on
weights         SHA-256 of the file that it began with, "" without one
trained         steps, hours, images_per_second; losses and scores {step: value}, the scores in percent
tests           {test: {"conditions": {...}, "data": {field: value}, "commit": ..., "miou": ..., "iou": {class: ...},
                ...}}, as evaluation.json has a mode, and the fields of data that the test has for itself; all of the
                network that `trained` is about

A run that failed has a line of text instead, PATH.failed, which says why.
"""

import hashlib
import json
from pathlib import Path

from cropjax.compare import read_run
from cropjax.config import build_source, defaults, set_optimizer
from cropjax.errors import UserError
from cropjax.evaluate import conditions
from cropjax.evaluation.report import ALL, report_of
from cropjax.instruments.advice import differing
from cropjax.provenance import commit
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

    def get(self, run):
        """What was found of `run`, or None.

        Raises:
            UserError: the file is damaged, of a run with another config, or of a test with other conditions.
        """
        path, tests = self.path(run), run.cell.tests
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            found = {name: stored[name] for name in WRITTEN}
            fields = _with_later({name: _tuples(value) for name, value in found["fields"].items()})
            kept = {name: found["tests"][name] for name in tests if name in found["tests"]}
            others = [name for name, one in kept.items() if _differs(one, run, tests[name])]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
            raise UserError(f"{path} is damaged ({error}): remove it, and the run is made again") from error
        wanted, fields = deciding(run.config) | {"seed": run.seed}, fields | {"seed": found["seed"]}
        other = sorted(name for name in wanted.keys() | fields if wanted.get(name) != fields.get(name))
        if other:
            raise UserError(
                f"{path} is of a run with another {other[0]}, {fields.get(other[0])!r} where the study has "
                f"{wanted.get(other[0])!r}: choose another folder, or remove it, and the run is made again"
            )
        if others:
            raise UserError(
                f"{path} is of another test {others[0]!r} than the study's: give the study's another name, and it is "
                "made besides, or remove the file, and the run is made again"
            )
        return found

    def lacks(self, run):
        """The names of its cell's tests that are not there."""
        found = self.get(run)
        return [test for test in run.cell.tests if found is None or test not in found["tests"]]

    def put(self, run, workdir, tests, weights):
        """Writes what `workdir` holds of the run and what `tests`, {test: {...}}, found of it.

        Tests that are there stay, if they are of the same network. `weights` is the `checksum` of what it began with.
        """
        found, trained, data = self.get(run), read_run(workdir), build_source(run.config, "train")
        tests = {test: one | {"data": _own_data(run, run.cell.tests[test])} for test, one in tests.items()}
        provenance = {name: value for name, value in trained.provenance.items() if name != "command"}
        values = {
            "cell": run.cell.levels,
            "seed": run.seed,
            "fields": deciding(run.config),
            "provenance": provenance,
            "data": {"images": len(data), "size": data[0]["label"].shape},
            "weights": weights,
            "trained": {
                "steps": trained.steps,
                "hours": trained.hours,
                "images_per_second": trained.rate,
                "losses": trained.losses,
                "scores": trained.scores,
            },
            "tests": (found["tests"] if self.is_of(run, workdir) and found else {}) | tests,
        }
        self.path(run).parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path(run), _text(values) + "\n")
        self.failure(run).unlink(missing_ok=True)

    def is_of(self, run, workdir):
        """Whether what is kept of `run` is of the network in `workdir`, or nothing is: no two have the same losses."""
        found = self.get(run)
        return found is None or _text(found["trained"]["losses"]) == _text(read_run(workdir).losses)

    def strays(self, runs):
        """The files in the folder that are of none of `runs`, as of a cell that goes by another name now."""
        return sorted(set(self.folder.rglob("*.json")) - {self.path(run) for run in runs})

    def failure(self, run):
        """The path of what says why `run` has no results."""
        return self.folder / f"{run.name}.failed"

    def fail(self, run, why):
        self.failure(run).parent.mkdir(parents=True, exist_ok=True)
        write_text(self.failure(run), why + "\n")

    def why(self, run):
        """Why `run` has no results, or ''."""
        path = self.failure(run)
        return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def deciding(config):
    """The fields of a run's config that decide what it finds."""
    fields = compared(fields_of(config))
    early = ("eval.stop_after", "eval.every") if config.eval.stop_after else ()
    return {name: value for name, value in fields.items() if name in early or not name.startswith(NOT_COMPARED)}


def _differs(kept, run, config):
    """Whether a kept test was made in another way than by `config`; conditions that came later are not compared."""
    about = kept["conditions"] | {"data": kept.get("data", {})}
    expected = conditions(config, about["sizes"]) | {"data": _own_data(run, config)}
    return any(about[name] != value for name, value in json.loads(_text(expected)).items() if name in about)


def _own_data(run, config):
    """{field: value} of the data that a test has for itself."""
    return {name: value for name, _, value in differing(run.config, config) if name.startswith("data.")}


def _with_later(fields):
    """`fields` of a kept run and those that came later than it, which had their defaults then."""
    standard = defaults(fields["model.name"])
    set_optimizer(standard, fields["optim.name"])
    return deciding(standard) | fields


def found_by(scores, details, names, about):
    """Of one test, whose config has one mode: {"conditions": {...}, "miou": ..., ...}; `about` as in conditions."""
    report = report_of(scores, details, names, about)
    (mode,) = scores
    about = {name: value for name, value in about.items() if name not in ("run", "step")}
    kept = {name: report[mode][name] for name in KEPT}
    return {"conditions": about, "commit": commit(), **kept, "segments": report[mode]["segments"][ALL]}


def checksum(path):
    """SHA-256 of the file that a run begins with, "" of none."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""


def _text(values):
    return json.dumps({str(name): value for name, value in values.items()}, separators=(",", ":"), sort_keys=True)


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
