"""The figures of a study's report: SVGs in the page's colours, and pictures."""

import base64
import html

import numpy as np

from cropjax.pages.figure import COLOURS, draw
from cropjax.study.effects import differences as differing
from cropjax.study.effects import estimate, without
from cropjax.study.found import TEST
from cropjax.study.plan import NETWORK


def differences(found, factor, low, high):
    """A dot for each pair of runs that differ in `factor` alone, a row for each network and test, with the interval."""
    rows = []
    for network in found.plan.factors[NETWORK]:
        for test in found.plan.tests:
            pairs = differing(found.of(network=network, test=test), found.cells, factor, low, high)
            if pairs:
                rows.append((f"{network}, {test}", pairs, estimate(pairs)))
    if not rows:
        return ""

    def paint(axes):
        ax = axes[0, 0]
        for y, (_, pairs, one) in enumerate(rows):
            ax.plot(list(pairs.values()), np.full(len(pairs), y), "o", color=COLOURS[0], markersize=4, alpha=0.5, mew=0)
            if np.isfinite(one.t).all():
                ax.plot(one.t, [y + 0.25] * 2, color=COLOURS[1], lw=1.5)
            ax.plot(one.mean, y + 0.25, "|", color=COLOURS[1], markersize=9)
        ax.axvline(0, color="#888888", lw=0.8)
        ax.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        ax.set(ylim=(len(rows) - 0.4, -0.6), xlabel=f"mIoU at {factor} {high} less that at {low}, points")

    return draw(1, 1, paint, height=0.9 + 0.32 * len(rows))


def effects(lines):
    """A dot and Student's interval for each of `lines`, (network, name, effect, t low, t high); a colour a network."""
    if not lines:
        return ""
    networks = list(dict.fromkeys(network for network, *_ in lines))
    reach = 2.5 * max(1e-3, *(abs(mean) for _, _, mean, _, _ in lines))  # beyond it intervals run out of the figure
    ends = [end for line in lines for end in line[2:] if np.isfinite(end)]

    def paint(axes):
        ax = axes[0, 0]
        for y, (network, _, mean, *interval) in enumerate(lines):
            colour = COLOURS[networks.index(network) % len(COLOURS)]
            ax.plot(mean, y, "o", color=colour, markersize=5)
            if np.isfinite(interval).all():
                ax.plot(interval, [y, y], color=colour, lw=1.5)
        ax.axvline(0, color="#888888", lw=0.8)
        ax.set_yticks(range(len(lines)), [f"{network}, {name}" for network, name, *_ in lines], fontsize=8)
        limits = max(-reach, min(0, *ends) - 0.05 * reach), min(reach, max(0, *ends) + 0.05 * reach)
        ax.set(ylim=(len(lines) - 0.4, -0.6), xlim=limits, xlabel="points of mIoU")

    return draw(1, 1, paint, height=0.9 + 0.24 * len(lines))


def matrix(found, tests):
    """(SVG, caption): mean mIoU of every cell (rows) under every test (columns)."""
    cells = list(dict.fromkeys(without(cell, TEST) for cell, _ in found.scores))
    means = np.full((len(cells), len(tests)), np.nan)
    for i, cell in enumerate(cells):
        for j, test in enumerate(tests):
            values = [value for (other, _), value in found.scores.items() if other == (*cell, (TEST, test))]
            means[i, j] = np.mean(values) if values else np.nan

    def paint(axes):
        ax = axes[0, 0]
        image = ax.imshow(means, aspect="auto")
        for (i, j), value in np.ndenumerate(means):
            if np.isfinite(value):
                red, green, blue, _ = image.cmap(image.norm(value))
                ink = "#000000" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.5 else "#ffffff"
                ax.text(j, i, f"{value:.1f}", ha="center", va="center", color=ink, fontsize=8)
        ax.set_xticks(range(len(tests)), tests, rotation=25, ha="right")
        ax.set_yticks(range(len(cells)), [", ".join(filter(None, found.levels(cell))) for cell in cells])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)

    height = 1.1 + 0.26 * len(cells)
    return draw(1, 1, paint, height=height), "Mean mIoU over seeds, percent: cells of training by tests."


def curves(found):
    """Score and loss over the steps: a row a network, one colour a cell, a thin line a run."""
    networks = {}
    for run, result in found.runs:
        cells = networks.setdefault(run.cell.levels[NETWORK], {})
        cells.setdefault(run.cell.name, []).append(result["trained"])

    def paint(axes):
        for row, (network, cells) in zip(axes, networks.items(), strict=True):
            for axis, kind in zip(row, ("scores", "losses"), strict=True):
                for number, (name, runs) in enumerate(cells.items()):
                    _curve(axis, number, name.removeprefix(network).lstrip(","), [run[kind] for run in runs])
            row[0].set(title=network, ylabel="mIoU, %")
            row[1].set(title="training loss", yscale="log")
            row[1].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=6)
        for axis in axes[-1]:
            axis.set(xlabel="steps")

    most = max(map(len, networks.values()))
    return draw(len(networks), 2, paint, height=max(2.2, 0.6 + 0.14 * most))


def _curve(axis, number, name, runs):
    """The runs of one cell and, thick, their mean."""
    colour = COLOURS[number % len(COLOURS)]
    style = ("-", "--", ":", "-.")[number // len(COLOURS) % 4]
    lines = [_line(run, points=60) for run in runs]
    for steps, values in lines:
        axis.plot(steps, values, style, color=colour, lw=0.6, alpha=0.5)
    steps = sorted(set.intersection(*(set(steps) for steps, _ in lines)))
    mean = [np.mean([dict(zip(*line, strict=True))[step] for line in lines]) for step in steps]
    axis.plot(steps, mean, style, color=colour, lw=1.6, label=name)


def _line(values, points):
    """Steps and values of {step: value} with text for steps, as at most about `points` means of neighbours."""
    pairs = sorted((int(step), value) for step, value in values.items() if np.isfinite(value))
    every = max(1, len(pairs) // points)
    groups = [pairs[i : i + every] for i in range(0, len(pairs) - every + 1, every)]
    return [group[-1][0] for group in groups], [float(np.mean([value for _, value in group])) for group in groups]


def places(rows):
    """Effects against size and distance, a line a network; `rows` are those of the table, of one test."""
    kinds = list(dict.fromkeys(row[2] for row in rows))
    if not kinds:
        return ""
    networks = list(dict.fromkeys(row[0] for row in rows))

    def paint(axes):
        for ax, kind in zip(axes[0], kinds, strict=True):
            for number, network in enumerate(networks):
                own = [row for row in rows if (row[0], row[2]) == (network, kind)]
                x, mean, low, high = (np.array([row[i] for row in own], float) for i in (3, 4, 5, 6))
                colour = COLOURS[number % len(COLOURS)]
                ax.plot(x, mean, color=colour, lw=1.4, label=network)
                ax.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
            ax.axhline(0, color="#888888", lw=0.8)
            ax.set(xlabel=kind, ylabel="points")
            if "segment" in kind:
                ax.set_xscale("log", base=4)
        axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=7)

    return draw(1, len(kinds), paint, height=2.8)


def pictures(shown):
    """Markup of [(name, path of a PNG)]."""
    parts = []
    for name, path in shown:
        data = base64.b64encode(path.read_bytes()).decode()
        parts.append(f'<p>{html.escape(name)}</p><img alt="{html.escape(name)}" src="data:image/png;base64,{data}">')
    return "".join(parts)
