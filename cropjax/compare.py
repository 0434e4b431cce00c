"""Many runs -> one table and one plot.

    python -m cropjax.compare runs/* --out comparison

prints the table and writes comparison.md, comparison.csv (one row a run, all digits) and comparison.png. Runs are
compared by the score that their `eval.best` names. Runs that differ in `seed` alone are one row, mean ± standard
deviation (n - 1). Fields on which no result depends (`workdir.MAY_DIFFER`) are not compared, but for `train.steps`.
"""

import csv
import io
import json
import math
import os
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from absl import flags

from cropjax import commandline
from cropjax.errors import UserError
from cropjax.workdir import compared, stored_fields, write_text

NONE = "—"


@dataclass(frozen=True)
class Run:
    """What a run folder says: `fields` by dotted name, `scores` and `losses` {step: value}, scores in percent.

    `rate` is images/s, the median over the log lines; `hours` is what the training steps took, at the rates that were
    logged: evaluations, saves and restarts do not count.
    """

    name: str
    fields: dict
    provenance: dict
    scores: dict
    losses: dict
    rate: float
    hours: float

    @property
    def score_name(self):
        return self.fields["eval.best"]

    @property
    def steps(self):
        return max(self.losses, default=0)

    @property
    def total(self):
        return self.fields["train.steps"]

    @property
    def best(self):
        """(score, step), the first if several are equal; nan where nothing was evaluated."""
        known = {step: score for step, score in self.scores.items() if not math.isnan(score)}
        step = max(known, key=known.get, default=None)
        return known.get(step, math.nan), step

    @property
    def last(self):
        return self.scores[max(self.scores)] if self.scores else math.nan


@dataclass(frozen=True)
class Group:
    """Runs that differ in `seed` alone, and `label`, what tells them from the other groups, {field: text}."""

    runs: list
    label: dict

    @property
    def name(self):
        names = [run.name for run in self.runs]
        start = os.path.commonprefix(names)
        return names[0] if len(names) == 1 else f"{start}*" if start else ", ".join(names)

    @property
    def best(self):
        """The mean of the runs' best scores, nan where none was evaluated."""
        return mean_and_deviation([run.best[0] for run in self.runs])[0]

    @property
    def text(self):
        """The label in one line; the name where there is nothing to tell apart."""
        said = [value if name == "model.name" else f"{name} {value}" for name, value in self.label.items()]
        return ", ".join(said) or self.name

    @property
    def score(self):
        """The best score in figures."""
        return plus_minus([run.best[0] for run in self.runs], 2)


def mean_and_deviation(values):
    """Of those that are numbers; the deviation (n - 1) of fewer than two is nan."""
    known = [value for value in values if not math.isnan(value)]
    mean = statistics.fmean(known) if known else math.nan
    return mean, statistics.stdev(known) if len(known) > 1 else math.nan


def plus_minus(values, digits):
    mean, deviation = mean_and_deviation(values)
    if math.isnan(mean):
        return NONE
    missing = sum(map(math.isnan, values))
    of = f" ({len(values) - missing} of {len(values)})" if missing else ""
    return f"{mean:.{digits}f}" + ("" if math.isnan(deviation) else f" ± {deviation:.{digits}f}") + of


# -------------------------------------------------------------------------------------------------------------- reading
def read_run(folder):
    """The `Run` in `folder`, which names it; UserError if there is none."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is not the folder of a run (no config.json): leave it out")
    fields = stored_fields(folder)
    scores, losses, rates = {}, {}, {}
    for line in _lines(folder / "metrics.jsonl"):
        step = line["step"]
        if "train/loss" in line:
            losses[step] = float(line["train/loss"])
        if "train/images_per_second" in line:
            rates[step] = float(line["train/images_per_second"])
        if (score := line.get(f"eval/{fields['eval.best']}")) is not None:
            scores[step] = 100 * float(score)
    rate = statistics.median(rates.values()) if rates else math.nan
    hours = _seconds(fields, losses, rates, rate) / 3600 if rates else math.nan
    return Run(str(folder), fields, _provenance(folder / "provenance.json"), scores, losses, rate, hours)


def _seconds(fields, losses, rates, rate):
    """What the images of all steps took, each stretch between two log lines at its own rate."""
    steps = sorted(losses)
    stretches = zip(steps, [0, *steps], strict=False)
    return sum((end - start) * fields["train.batch_size"] / rates.get(end, rate) for end, start in stretches)


def _lines(path):
    """The lines that can be read: a killed run's last one may not be."""
    if not path.is_file():
        return
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            yield line


def _provenance(path):
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_runs(folders):
    """The runs in `folders`, and a line on each folder that holds none; UserError if all hold none."""
    if not folders:
        raise UserError("no run is named: name their folders, as in `python -m cropjax.compare runs/*`")
    found, passed_over = {}, []
    for path, folder in {os.path.abspath(folder): folder for folder in folders}.items():
        try:
            found[path] = read_run(folder)
        except UserError as error:
            passed_over.append(str(error))
    if not found:
        raise UserError(f"there is no run to compare: {'; '.join(passed_over)}")
    top = os.path.commonpath([os.path.dirname(path) for path in found])
    return [replace(run, name=os.path.relpath(path, top)) for path, run in found.items()], passed_over


# ------------------------------------------------------------------------------------------------------------- grouping
def differing(runs):
    """The fields in which `runs` differ, `seed` left out, and those of them that say no more than `model.name` does."""
    fields = [compared(run.fields) for run in runs]
    names = [
        name
        for name in dict.fromkeys(name for one in fields for name in one)
        if name != "seed" and len({_known(one, name) for one in fields}) > 1
    ]
    if "model.name" not in names:
        return sorted(names), []
    networks = {run.fields["model.name"] for run in runs}
    implied = [
        name
        for name in names
        if name != "model.name" and len({(one["model.name"], _known(one, name)) for one in fields}) == len(networks)
    ]
    rest = sorted(name for name in names if name not in implied and name != "model.name")
    return ["model.name", *rest], sorted(implied)


def _known(fields, name):
    return repr(fields.get(name, NONE))


def grouped(runs, names):
    """`runs` as groups that differ in the fields `names`, the best first."""
    groups = {}
    for run in runs:
        label = {short(name, names): shown(run.fields.get(name, NONE)) for name in names}
        groups.setdefault(tuple(label.items()), []).append(run)
    groups = [Group(members, dict(label)) for label, members in groups.items()]
    return sorted(groups, key=lambda group: (math.inf if math.isnan(group.best) else -group.best, group.name))


def short(name, names):
    """As much of the dotted `name` as tells it from the others of `names`."""
    parts = name.split(".")
    for count in range(1, len(parts)):
        end = ".".join(parts[-count:])
        if sum(other == end or other.endswith(f".{end}") for other in names) == 1 and end != "name":
            return end
    return name


def shown(value):
    """A value as a person writes it: 512x1024 for two whole numbers."""
    if isinstance(value, tuple) and len(value) == 2 and all(type(side) is int for side in value):
        return "{}x{}".format(*value)
    return value if isinstance(value, str) and value else repr(value)


# -------------------------------------------------------------------------------------------------------------- writing
def table(groups):
    """Rows of texts, the first of them the head."""
    names = {run.score_name for group in groups for run in group.runs}
    score = names.pop() if len(names) == 1 else "score"
    several = any(len(group.runs) > 1 for group in groups)
    head = ["run", *groups[0].label, *(["runs"] if several else [])]
    rows = [[*head, "steps", f"best {score}", "at step", "last", "images/s", "hours"]]
    for group in groups:
        runs = group.runs
        rows.append([
            group.name,
            *group.label.values(),
            *([str(len(runs))] if several else []),
            f"{_span(run.steps for run in runs)} of {_span(run.total for run in runs)}",
            group.score,
            _span(run.best[1] for run in runs),
            plus_minus([run.last for run in runs], 2),
            plus_minus([run.rate for run in runs], 1),
            plus_minus([run.hours for run in runs], 3),
        ])  # fmt: skip
    return rows


def _span(numbers):
    known = sorted({number for number in numbers if number is not None})
    return NONE if not known else str(known[0]) if len(known) == 1 else f"{known[0]}…{known[-1]}"


def notes(runs, implied):
    """What a reader must know to compare the rows, one line each."""
    found = ["Scores are in percent; hours are of training steps alone."]
    if len({run.score_name for run in runs}) > 1:
        found.append("The runs have different eval.best: their scores cannot be compared.")
    if implied:
        found.append(f"With model.name differ, and are not shown: {', '.join(implied)}.")
    for what, of in (("device", _device), ("commit", lambda run: (run.provenance.get("commit") or "unknown")[:12])):
        places = {}
        for run in runs:
            places.setdefault(of(run), []).append(run.name)
        if len(places) > 1:
            listed = "; ".join(f"{place}: {', '.join(names)}" for place, names in places.items())
            found.append(f"Not of one {what}: {listed}.")
    return found


def _device(run):
    devices = run.provenance.get("devices")
    return f"{devices['count']} x {devices['kind']}" if devices else "unknown"


def as_text(rows):
    """`rows` for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )


def as_markdown(rows):
    head, *rest = [[cell.replace("|", "\\|").replace("*", "\\*") for cell in row] for row in rows]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rest]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_csv(groups, names):
    """One line a run, `row` being its row in the table."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    last = ("score", "steps", "total", "best", "best_step", "last", "images_per_second", "hours")
    writer.writerow(["row", "run", *names, "seed", *last])
    for row, group in enumerate(groups, 1):
        for run in group.runs:
            values = [run.fields.get(name, "") for name in (*names, "seed")]
            values += [run.score_name, run.steps, run.total, *run.best, run.last, run.rate, run.hours]
            writer.writerow([row, run.name, *("" if value != value else value for value in values)])
    return file.getvalue()


def compare(folders, out="comparison"):
    """Prints the table of the runs in `folders`, and writes it with the plot to `out` and .md, .csv and .png."""
    from cropjax.compare_plot import draw  # slow to import

    runs, passed_over = read_runs(folders)
    for line in passed_over:
        print(f"cropjax: passed over: {line}", file=sys.stderr)
    names, implied = differing(runs)
    groups = grouped(runs, names)
    rows, remarks = table(groups), notes(runs, implied)
    print("\n".join([as_text(rows), "", *remarks]))

    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    markdown, sheet, picture = (out.with_name(f"{out.name}.{end}") for end in ("md", "csv", "png"))
    page = "\n\n".join([as_markdown(rows), *remarks, f"![]({picture.name})"])
    draw(groups, picture)  # first: it is what may fail
    write_text(markdown, f"{page}\n")
    write_text(sheet, as_csv(groups, [*names, *implied]))
    print(f"\n{markdown}, {sheet} and {picture} are written")


if __name__ == "__main__":
    flags.DEFINE_string("out", "comparison", "What is written, less .md, .csv and .png.")
    commandline.run_without_config(lambda folders: compare(folders, flags.FLAGS.out), takes_arguments=True)
