"""Figures: SVGs that take their colours from the page around them, light or dark, and PNGs, dark on white."""

import io
import re

import matplotlib
from matplotlib.figure import Figure

_INK = "#123456"  # stands for the page's colour of text
DARK, LIGHT = "#222222", "#e4e7eb"
# After Okabe and Ito, whom colour-blind people can tell apart; as bright as can be read on white and on black.
COLOURS = ("#2f8fd3", "#e0662a", "#1fa884", "#cc79a7", "#d99a00", "#56b4e9")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cropjax",
    "font.size": 9,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "image.cmap": "viridis",
    "legend.frameon": False,
}
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")


def draw(rows, columns, paint, *, width=7.2, height=2.4):
    """The SVG of a figure of `rows` x `columns` axes, each `height` inches high; `paint(axes)` gets them as [r,c]."""
    with matplotlib.rc_context(STYLE | dict.fromkeys(_INKED, _INK)):
        figure = _painted(rows, columns, paint, width, height)
        figure.patch.set_alpha(0)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    head, rest = svg.split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", head) + ">" + rest  # as wide as the page


def standing_alone(svg):
    """Such an SVG as a file of its own, which has no page to take its colour from."""
    head, rest = svg.split(">", 1)
    light, dark = f"svg{{color:{DARK}}}", f"@media(prefers-color-scheme:dark){{svg{{color:{LIGHT}}}}}"
    return f"{head}><style>{light}{dark}</style>{rest}"


def save(path, rows, columns, paint, *, width=7.2, height=2.4):
    """Writes such a figure as a PNG of 150 pixels an inch."""
    with matplotlib.rc_context(STYLE | dict.fromkeys(_INKED, DARK)):
        figure = _painted(rows, columns, paint, width, height)
        figure.savefig(path, format="png", dpi=150, bbox_inches="tight")


def _painted(rows, columns, paint, width, height):
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    paint(figure.subplots(rows, columns, squeeze=False))
    return figure
