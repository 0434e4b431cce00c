"""The plot of `compare`: scores over the steps and, below, the training loss; one colour a group of runs."""

import os

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from cropjax.pages.figure import COLOURS

# As many as can be told apart by their labels too; the first are those of our other figures.
MORE = ("#7b4fa3", "#8a5a44", "#b3202c", "#5b6770", "#7d9a1d", "#1f3f8f")
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "grid.color": "#e8e8e8",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}
POINTS = 150  # of a loss curve; more are averaged
GAP = 0.055  # between two labels, of the height of the axes


def draw(groups, path):
    """Writes the PNG: a thin line a run, a thick one the mean of a group, whose label stands at its end."""
    colours = (COLOURS + MORE) * (1 + len(groups) // len(COLOURS + MORE))
    texts = [f"{group.text}:  {group.score}" for group in groups]
    size = 7.2 + 0.07 * max(map(len, texts)), max(5.4, 1.8 + 0.3 * len(groups))  # inches
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained", dpi=150)
        scores, losses = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        ends = []
        for group, colour in zip(groups, colours, strict=False):
            ends.append(plot(scores, [run.scores for run in group.runs], color=colour, marker="o", markersize=3.5))
            plot(losses, [run.losses for run in group.runs], color=colour, lw=1, each=False, shown=thinned)
        scores.set_ylabel(f"{' or '.join(sorted({run.score_name for group in groups for run in group.runs}))}, %")
        losses.set(ylabel="training loss", yscale="log", xlabel="steps", xlim=(0, None))
        losses.xaxis.set_major_formatter(EngFormatter(sep=""))
        losses.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        losses.yaxis.set_major_formatter("{x:g}")
        losses.yaxis.set_minor_locator(NullLocator())
        label(scores, texts, ends, colours)
        temporary = path.with_name(path.name + ".tmp")
        figure.savefig(temporary, format="png")
    os.replace(temporary, path)


def plot(axes, runs, *, each=True, color, shown=dict, **style):
    """Draws the mean of `runs`, {step: value}, at the steps that all have, and `each`; where it ends, or None.

    Runs that have no step in common are drawn each, and no mean. `shown` is applied to every curve.
    """
    runs = [run for run in ({s: v for s, v in run.items() if np.isfinite(v)} for run in runs) if run]
    if not runs:
        return None
    steps = sorted(set.intersection(*map(set, runs)))
    mean = {step: np.mean([run[step] for run in runs]) for step in steps}
    for run in map(shown, runs) if (each and len(runs) > 1) or not mean else ():
        axes.plot(list(run), list(run.values()), color=color, lw=0.7, alpha=0.5)
    if mean:
        curve = shown(mean)
        axes.plot(list(curve), list(curve.values()), color=color, **style)
    return list((mean or runs[0]).items())[-1]


def thinned(values):
    """{step: value} as at most `POINTS` means of neighbours, at the last step of each."""
    steps, numbers = list(values), list(values.values())
    every = max(1, -(-len(steps) // POINTS))
    return {steps[end - 1]: np.mean(numbers[end - every : end]) for end in range(every, len(steps) + 1, every)}


def label(axes, texts, ends, colours):
    """Right of `axes`, as near the end of each curve as the others allow, its text and a line to it."""
    low, high = axes.get_ylim()
    wanted = [(end[1] - low) / (high - low) if end else 0.0 for end in ends]
    places = spread(wanted, min(GAP, 1 / len(texts)))
    for text, end, colour, place in zip(texts, ends, colours, places, strict=False):
        line = dict(arrowstyle="-", color=colour, lw=0.6, alpha=0.5, shrinkA=0, shrinkB=5, relpos=(0, 0.5))
        axes.annotate(
            text,
            xy=end or (0, low),
            xytext=(1.03, place),
            textcoords=axes.transAxes,
            color=colour,
            va="center",
            annotation_clip=False,
            parse_math=False,
            arrowprops=line if end else None,
        )


def spread(places, gap):
    """`places` in 0...1 moved as little as leaves `gap` between any two and all in 0...1; their order is kept."""
    order = np.argsort(places, kind="stable")
    blocks = []  # [sum of where its members want its start, how many], within which all gaps are as small as may be

    def start(block):
        return min(max(block[0] / block[1], 0.0), 1 - (block[1] - 1) * gap)

    for place in np.asarray(places)[order]:
        blocks.append([place, 1])
        while len(blocks) > 1 and start(blocks[-2]) + blocks[-2][1] * gap > start(blocks[-1]):
            total, count = blocks.pop()
            blocks[-1][0] += total - count * blocks[-1][1] * gap
            blocks[-1][1] += count
    found = np.empty(len(places))
    found[order] = [start(block) + i * gap for block in blocks for i in range(block[1])]
    return found
