"""The report of a study: report.html, table.md, results.csv, and every table as csv/*.csv.

It is made of the results alone, and of what run folders hold of pictures. results.csv has scores as they are kept, as
shares.
"""

import csv
import io
import time

from cropjax.pages import page
from cropjax.pages.section import hxw
from cropjax.provenance import commit
from cropjax.study import sections
from cropjax.study.found import TEST, Found
from cropjax.workdir import write_text


def write_report(plan, results, workdir):
    """Writes the report into `workdir`; nothing but a word where there are no results yet."""
    found = Found(plan, results)
    if not found.scores:
        print(f"{workdir}: no results yet, and no report")
        return
    worth = found.main_effects()
    written = [
        *sections.contrast(found),
        sections.in_short(found, worth),
        sections.everything(found),
        sections.effects(found, worth),
        *sections.interplay(found),
        sections.curves(found),
        *sections.by_class(found),
        *sections.by_place(found),
        *sections.panels(found, workdir),
        sections.all_conditions(found),
    ]
    machines = sorted({_machine(result) for _, result in found.runs})
    commits = sorted({result["provenance"].get("commit") or "unknown" for _, result in found.runs})
    tested = sorted(
        {one.get("commit") or "as the runs" for _, result in found.runs for one in result["tests"].values()}
    )
    facts = {
        "runs": f"{len(found.runs)} of {len(plan.runs)}, {_seeds(plan)}",
        "missing": _missing(found),
        "at one level in all": _the_same(found) or "no factor",
        "data": "; ".join(dict.fromkeys(_data(run, result) for run, result in found.runs)),
        "weights from": _beginnings(found),
        "trained on": "; ".join(machines),
        "code of the runs": ", ".join(commits),
        "code of the tests": ", ".join(tested),
        "code of this page": commit() or "no checkout",
        "made": time.strftime("%Y-%m-%d %H:%M"),
    }
    page.write(workdir, plan.title, facts, written, markdown="table.md")
    write_text(workdir / "results.csv", as_csv(found))
    print(f"{workdir / 'report.html'}: {len(found.runs)} of {len(plan.runs)} runs")


def _seeds(plan):
    """How many a cell has, as text."""
    counts = [len(cell.seeds) for cell in plan.cells]
    few, many = min(counts), max(counts)
    return f"{many if few == many else f'{few} to {many}'} seeds a cell"


def _machine(result):
    devices = result["provenance"]["devices"]
    return f"{devices['count']} x {devices['kind']}"


def _data(run, result):
    data = result["data"]
    return f"{run.cell.config.data.source}, {data['images']} training images of {hxw(data['size'])}"


def _missing(found):
    """What has no results, or not all, in short; the conditions have the rest."""
    cells = found.lacking()
    parts = [f"{cell}: {runs}, {what}" for cell, runs, what in cells if (runs, what) != ("all", "everything")]
    if whole := len(cells) - len(parts):
        parts.append(f"{'and ' * bool(parts)}all of {whole} of {len(found.plan.cells)} cells, see Conditions")
    return "; ".join(parts) or "nothing"


def _the_same(found):
    """The factors that have one level in all cells that there are."""
    levels = found.runs[0][0].cell.levels
    return ", ".join(f"{name} {level}" for name, level in levels.items() if name not in found.factors)


def _beginnings(found):
    """The files that runs began with: two of one name are no longer one condition."""
    files = {}
    for run, result in found.runs:
        files.setdefault(run.cell.config.init_from or "scratch", set()).add(result["weights"][:12])
    return "; ".join(
        name
        + "".join(f" ({checksum}...)" for checksum in sorted(sums) if checksum)
        + (", of which there are several: compare only runs with the same" if len(sums) > 1 else "")
        for name, sums in files.items()
    )


def as_csv(found):
    """A row for each run and test, in full precision."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    factors = list(found.plan.factors)
    writer.writerow([*factors, TEST, "seed", "miou", "macc", "aacc", "mbiou", "steps", "hours", "images_per_second"])
    for run, result in found.runs:
        trained = [result["trained"][name] for name in ("steps", "hours", "images_per_second")]
        for test, one in ((test, result["tests"][test]) for test in found.plan.tests if test in result["tests"]):
            scores = [one[name] for name in ("miou", "macc", "aacc", "mbiou")]
            writer.writerow([*(run.cell.levels[factor] for factor in factors), test, run.seed, *scores, *trained])
    return file.getvalue()
