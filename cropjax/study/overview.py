"""What a study is before it runs: its cells, what differs between them, what it costs, and what it mixes up."""

from cropjax.compare import as_text
from cropjax.study.conditions import comparisons, conditions, mixed_up, shown, warnings
from cropjax.study.cost import hours
from cropjax.study.plan import NETWORK
from cropjax.study.work import pixels


def overview(plan, runs, done, *, size, images, paces, machine):
    """The text of --dry_run. `done` are names of runs; `paces` {network: seconds a megapixel} measured on `machine`.

    Networks are those of the study, as it calls them.
    """
    cells = list({run.cell.name: run.cell for run in runs}.values())
    finished = sum(run.name in done for run in runs)
    lines = [
        plan.title,
        f"{_count(cells, 'cell')}, {_count(runs, 'run')}, {finished} of them done; tests: {', '.join(plan.tests)}",
        f"{images} training images of {size[0]}x{size[1]}",
        "",
        as_text(cost_rows(cells, runs, done, paces)),
        cost_note(cells, runs, done, paces, machine),
        "",
        "Conditions that differ between any two cells, row by row:",
        as_text(condition_rows(cells, size, images)),
        *same_lines(cells),
        "",
        "Cells that differ in one factor, an example of each, and the fields that do:",
        *difference_lines(plan, size, images),
    ]
    warned = warnings(plan, size, images)
    if confounds := [text for kind, text in warned if kind == "confound"]:
        lines += [
            "",
            "Confounds: a difference between these cells cannot be put down to one cause.",
            *map(_point, confounds),
        ]
    if along := [text for kind, text in warned if kind == "goes along"]:
        lines += ["", "What changes along with a factor, whoever sets it:", *map(_point, along)]
    return "\n".join(lines)


def cost_rows(cells, runs, done, paces):
    """A row a cell: its runs, those done, megapixels of training a run, and hours where a pace is known."""
    rows = [["cell", "runs", "done", "megapixels a run", "hours a run", "hours left"]]
    for cell in cells:
        own = [run for run in runs if run.cell is cell]
        left = sum(run.name not in done for run in own)
        pace = paces.get(cell.levels[NETWORK])
        each = None if pace is None else hours(cell.config, pace)
        rows.append([
            cell.name,
            str(len(own)),
            str(len(own) - left),
            f"{pixels(cell.config) / 1e6:.0f}",
            "?" if each is None else f"{each:.2f}",
            "?" if each is None else f"{each * left:.1f}",
        ])  # fmt: skip
    return rows


def cost_note(cells, runs, done, paces, machine):
    """What the hours are, and of how many networks they are not known."""
    known = [run for run in runs if run.cell.levels[NETWORK] in paces]
    left = sum(hours(run.cell.config, paces[run.cell.levels[NETWORK]]) for run in known if run.name not in done)
    unknown = sorted({cell.levels[NETWORK] for cell in cells} - set(paces))
    text = f"Hours are of training alone on {machine}; {left:.1f} are left." if paces else "No hours are known."
    if unknown:
        text += (
            f" For {', '.join(unknown)}: python -m cropjax.benchmark --config FILE --suites train --json X.json, then "
            "--benchmark X.json here."
        )
    return text


def condition_rows(cells, size, images):
    """The conditions in which any two cells differ, a row a cell."""
    each = {cell.name: conditions(cell.config, size, images) for cell in cells}
    names = [name for name in next(iter(each.values())) if len({str(one[name]) for one in each.values()}) > 1]
    return [["cell", *names], *([cell, *(shown(one[name]) for name in names)] for cell, one in each.items())]


def same_lines(cells):
    """The combinations of levels that are one cell."""
    if same := [f"{cell.name} is also {name}" for cell in cells for name in cell.aliases]:
        yield from (
            "",
            "Levels that come to the same config: one cell, compared under all its names.",
            *map(_point, same),
        )


def difference_lines(plan, size, images):
    for factor, low, high, where, one, other in comparisons(plan):
        if factor == NETWORK:
            continue
        fields, _ = mixed_up(one.config, other.config, size, images)
        changed = "; ".join(f"{name}: {x} to {y}" for name, x, y in fields)
        yield _point(f"{one.levels[NETWORK]}, {factor} {low} to {high}{f' ({where})' * bool(where)}: {changed}")


def _point(text):
    return f"- {text}"


def _count(things, name):
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"
