"""Advice: rates and pool scales that keep the geometry of a reference crop, and what else differs between two configs.

A rate is kept by its taps: the one whose kernel has on the smaller map as many taps inside as the reference's on its
own map (valid_taps.py). A pool scale is kept by its cells: the one whose cells come nearest in pixels.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from cropjax.config import build_model
from cropjax.data.transforms import rescaled_size
from cropjax.instruments.reach import trace
from cropjax.instruments.subject import Step
from cropjax.instruments.valid_taps import valid_taps
from cropjax.ops.pool import adaptive_bins
from cropjax.pages.section import Section, Table
from cropjax.step import merge_model, split_model


def keeping_rate(rate, map_size, reference_size):
    """The rate whose 3x3 kernel on `map_size` has the mean number of taps inside nearest to `rate`'s on the reference.

    Taps inside fall as the rate grows, so that there is one best. At least 1.
    """

    def mean(rate, size):
        return valid_taps(size, kernel=(3, 3), dilation=(rate,) * 2, padding=((rate, rate),) * 2).mean

    wanted = mean(rate, reference_size)
    return min(range(1, max(map_size) + 1), key=lambda r: abs(mean(r, map_size) - wanted))


def keeping_scale(scale, map_size, reference_size):
    """The pool scale whose mean cell on `map_size` comes nearest in side to `scale`'s on the reference."""

    def side(scale, size):
        return np.mean([np.ptp(adaptive_bins(length, scale), axis=1).mean() for length in size])

    wanted = side(scale, reference_size)
    return min(range(1, min(map_size) + 1), key=lambda s: abs(math.log(side(s, map_size) / wanted)))


@dataclass(frozen=True)
class Advice:
    """For one crop: (name, value at the reference, value that keeps it, proportional value) of each rate or scale."""

    crop: tuple[int, int]
    reference: tuple[int, int]
    rows: tuple[tuple[str, int, int, int], ...]


def advise(config, crop, reference):
    """The `Advice` for training `config`'s network on `crop` as on the `reference` crop; no rows without rates."""
    graph, weights = split_model(build_model(config))
    sizes = []
    for size in (crop, reference):
        maps = trace(lambda w, x: merge_model(graph, w)(x).maps[-1], weights, size, spans=True).maps
        sizes.append((len(maps.rows), len(maps.columns)))
    head, ratio = config.model.head, min(sizes[0]) / min(sizes[1])
    rows = []
    for rate in head.get("dilations", ()):
        if rate > 1:
            rows.append((f"rate {rate}", rate, keeping_rate(rate, *sizes), max(round(rate * ratio), 1)))
    for scale in head.get("pool_scales", ()):
        rows.append((f"scale {scale}", scale, keeping_scale(scale, *sizes), max(round(scale * ratio), 1)))
    return Advice(tuple(crop), tuple(reference), tuple(rows))


def differing(a, b):
    """The fields of two configs that differ, [(dotted name, value in a, value in b)]; None where there is none."""
    fields = [dict(_fields(config.to_dict())) for config in (a, b)]
    names = sorted(fields[0].keys() | fields[1].keys())
    return [(name, *(one.get(name) for one in fields)) for name in names if fields[0].get(name) != fields[1].get(name)]


def _fields(values, prefix=""):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, tuple(value) if isinstance(value, list) else value


def padded_share(config, size=(1024, 2048), steps=20_000):
    """The share of training crops that are padded, for images of `size`: of the scales drawn, evenly, from the range.

    Also the mean share of a crop that is image: (padded, valid).
    """
    data = config.data
    return _padded_share(tuple(size), tuple(data.scale), tuple(data.ratio_range), tuple(data.crop_size), steps)


@cache
def _padded_share(size, scale, ratio_range, crop, steps):
    low, high = ratio_range
    rows, columns = crop
    ratios = low + (np.arange(steps) + 0.5) / steps * (high - low)
    sizes = np.array([_rescaled(size, scale, ratio) for ratio in ratios])
    inside = np.minimum(sizes, (rows, columns))
    return float((inside < (rows, columns)).any(1).mean()), float((inside.prod(1) / (rows * columns)).mean())


def _rescaled(size, scale, ratio):
    """What the training transform makes of an image of `size` for one ratio (see `draw_scale`)."""
    return rescaled_size(size, tuple(int(side * ratio) for side in scale))


def derived(config, size=(1024, 2048), images=2975):
    """What the fields of a config imply, {name: value}, for training images of `size`."""
    graph, weights = split_model(build_model(config))
    crop, batch = tuple(config.data.crop_size), config.train.batch_size
    maps = trace(lambda w, x: merge_model(graph, w)(x).maps[-1], weights, crop, spans=True).maps
    height, width = len(maps.rows), len(maps.columns)
    padded, valid = padded_share(config, size)
    group = batch // config.model.norm.groups
    slide = f"slide {config.eval.window} by {config.eval.stride}"
    return {
        "last map": f"{height}x{width}",
        "images seen": config.train.steps * batch,
        "epochs": config.train.steps * batch / images,
        "pixels seen, millions": config.train.steps * batch * crop[0] * crop[1] / 1e6,
        "share of padded crops": padded,
        "share of a crop that is image": valid,
        "images a BatchNorm group": group,
        "positions a BatchNorm group, last map": group * height * width,
        "learning rate over batch": config.optim.lr / batch,
        "test": ", ".join(mode if mode == "whole" else slide for mode in config.eval.modes),
        "starts from": config.init_from or "scratch",
    }


def confounds(a, b):
    """A `Table` of all that differs between two configs: the fields, and what they imply."""
    rows = [(name, _text(x), _text(y), "field") for name, x, y in differing(a, b)]
    ours, theirs = derived(a), derived(b)
    rows += [(name, ours[name], theirs[name], "derived") for name in ours if ours[name] != theirs[name]]
    return Table("confounds", ("what", "this config", "the other", "kind"), tuple(rows))


def _text(value):
    return "absent" if value is None else str(value)


def steps(subject):
    reference = max(subject.crops, key=np.prod)

    def measure(crop):
        return advise(subject.config, crop, reference)

    return [
        Step(f"advice/{crop[0]}x{crop[1]}", Advice, 0.0, lambda crop=crop: measure(crop))
        for crop in subject.crops
        if crop != reference
    ]


def section(subject, results, other=None):
    """Proposals, and with an `other` (name, `confounds`) what differs from it; None where there is nothing to say."""
    words, tables = [], []
    rows = [(f"{a.crop[0]}x{a.crop[1]}", *row) for a in results for row in a.rows]
    if rows:
        reference = results[0].reference
        proposals = [f"{name} becomes {kept} at {crop} (in proportion {even})" for crop, name, _, kept, even in rows]
        words.append(
            f"To keep the geometry of a crop of {reference[0]}x{reference[1]}: {', '.join(proposals)}. Rates keep the "
            "mean number of taps inside of the map, scales the side of their cells in pixels; whether that keeps the "
            "accuracy is for training to say."
        )
        columns = ("crop", "what", "reference", "keeps the geometry", "in proportion")
        tables.append(Table("advice", columns, tuple(rows)))
    if other:
        name, table = other
        count = sum(row[3] == "field" for row in table.rows)
        words.append(
            f"{subject.name} and {name} differ in {count} field{'s' if count != 1 else ''}, from which "
            f"{len(table.rows) - count} other differences follow. A comparison of the two says what all of them do "
            "together; where it is meant to be of one, the others are confounds."
        )
        tables.append(table)
    return Section("Advice", "\n\n".join(words), tuple(tables)) if words else None
