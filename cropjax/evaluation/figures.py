"""Pictures of an evaluation: which class is taken for which, and where the right pixels are."""

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import PowerNorm

from cropjax.evaluation.details import BORDER_DISTANCES, CLASS_DISTANCES, SEGMENT_SIZES
from cropjax.pages.figure import DARK, save

NUMBERED = 0.28  # inches, the side of the smallest cell that has its number in it
EMPTY, BARS = "#eeeeee", "#bbbbbb"
MARKERS = "osD^vP"  # lines that lie on each other are told apart by theirs


def save_confusion(path, confusion, names, title):
    """A PNG of int [k,k] by [label, prediction], each row in percent of its label's pixels; grey where there are none.

    Colours go by the root of the share, for what matters are the few percent beside the diagonal.
    """
    confusion = np.asarray(confusion, float)
    k, labelled = len(names), confusion.sum(1, keepdims=True)
    share = np.divide(100 * confusion, labelled, out=np.full_like(confusion, np.nan), where=labelled > 0)
    side = min(max(0.42, 3.6 / k), 12 / k)
    letters = min(9, 64 * side)
    beside = 0.8 + 0.009 * letters * max(map(len, names))  # inches, for names and axis labels

    def paint(axes):
        one = axes[0, 0]
        drawn = one.imshow(share, cmap=colormaps["Blues"].with_extremes(bad=EMPTY), norm=PowerNorm(0.5, 0, 100))
        one.set_xticks(range(k), names, rotation=90 if k > 6 else 0, fontsize=letters)
        one.set_yticks(range(k), names, fontsize=letters)
        one.set(xlabel="prediction", ylabel="label")
        one.set_title(title, loc="left", x=0)
        edges = np.arange(k + 1) - 0.5
        one.set_xticks(edges, minor=True)
        one.set_yticks(edges, minor=True)
        one.grid(which="minor", color="white", linewidth=min(1, 2 * side))
        one.tick_params(which="both", length=0)
        one.spines[:].set_visible(False)
        if side >= NUMBERED:
            for (row, column), value in np.ndenumerate(share):
                if value >= 0.05:
                    ink = "white" if value > 40 else DARK
                    one.text(column, row, _short(value), ha="center", va="center", fontsize=8, color=ink)
        bar = one.figure.colorbar(drawn, ax=one, ticks=(0, 1, 5, 10, 25, 50, 75, 100), fraction=0.046, pad=0.02)
        bar.set_label("% of the label's pixels")
        bar.outline.set_visible(False)

    save(path, 1, 1, paint, width=k * side + beside + 0.9, height=k * side + beside)


def save_details(path, details, title):
    """A PNG of {mode: Details}: the share of right pixels by two distances and by size, a line for each mode.

    Below, how many pixels or segments each bin has; these are of the labels, and the same in all modes.
    """
    first = next(iter(details.values()))
    panels = (
        ("distance to a class boundary, pixels", CLASS_DISTANCES, "accuracy_by_class_distance", "accuracy, %"),
        ("distance to the image border, pixels", BORDER_DISTANCES, "accuracy_by_border_distance", "accuracy, %"),
        ("size of a segment, pixels", SEGMENT_SIZES, "recall_by_size", "recall, %"),
    )
    pixels = [100 * counts[1] / max(counts[1].sum(), 1) for counts in (first.class_distance, first.border_distance)]
    amounts = (*pixels, first.segments[2].sum(0))

    def paint(axes):
        axes[0, 0].get_subplotspec().get_gridspec().set_height_ratios((3, 1))
        for (above, below), (xlabel, begins, shares, ylabel), amount in zip(axes.T, panels, amounts, strict=True):
            count = int(np.max(np.nonzero(amount)[0], initial=0)) + 1
            middles = np.arange(count) + 0.5
            for (mode, d), marker in zip(details.items(), MARKERS * len(details), strict=False):
                above.plot(middles, 100 * getattr(d, shares)[:count], marker=marker, markersize=4, label=mode)
            below.bar(middles, amount[:count], width=0.9, color=BARS)
            every = -(-count // 9)
            edges = range(0, count + (count < len(begins)), every)
            for one in (above, below):
                one.set_xlim(0, count)
                one.set_xticks(edges, [_pixels(begins[i]) for i in edges])
            above.tick_params(labelbottom=False)
            above.set_ylabel(ylabel)
            below.set_xlabel(xlabel)
            below.set_ylabel("pixels, %")
        axes[1, 2].set_ylabel("segments")
        axes[1, 2].set_yscale("symlog", linthresh=1)  # a bar for one, none for none
        axes[0, 0].set_title(title, loc="left")
        axes[0, 0].legend()

    save(path, 2, 3, paint, width=12, height=2.2)


def _short(percent):
    return f"{percent:.1f}" if percent < 9.95 else f"{percent:.0f}"


def _pixels(count):
    """1024 is 1k, and 4^10 is 1M."""
    for unit, name in ((10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count // unit}{name}"
    return str(count)
