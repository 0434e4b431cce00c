"""All that may make two cells of a study differ, named one by one; and what a comparison of two mixes up."""

import itertools
import math

from cropjax.config import cells_of
from cropjax.instruments.advice import differing, padded_share
from cropjax.study.plan import NETWORK, no_bases


def conditions(config, size, images):
    """{name: value} of a cell's training on `images` images of `size`: every row of a study says all of these."""
    model, train, data, optim = config.model, config.train, config.data, config.optim
    rows, columns = data.crop_size
    padded, valid = padded_share(config, size)
    group = train.batch_size // model.norm.groups
    last_map = tuple(cells_of(side, config) for side in data.crop_size)
    seen = train.steps * train.batch_size
    return {
        "crop": f"{rows}x{columns}",
        "last map": "{}x{}".format(*last_map),
        "batch": train.batch_size,
        "steps": train.steps,
        "images seen": seen,
        "epochs": seen / images,
        "megapixels seen": seen * rows * columns / 1e6,
        "images a BatchNorm group": group,
        "positions a BatchNorm group": group * math.prod(last_map),
        "learning rate": optim.lr,
        "learning rate over batch": optim.lr / train.batch_size,
        "weights from": config.init_from or "scratch",
        "align_corners": model.align_corners,
        "image scale": "{}x{}".format(*data.scale),
        "padding mode": model.backbone.get("padding_mode", "zeros"),
        "rates or pool scales": _numbers(model.head.get("dilations") or model.head.get("pool_scales")),
        "norm of the pooled branch": model.head.get("pool_norm", "no such branch"),
        "share of padded crops": padded,
        "share of a crop that is image": valid,
    }


def _numbers(values):
    return "none" if values is None else "-".join(map(str, values))


def comparisons(plan):
    """[(factor, low, high, where, cell, cell)] of cells that differ in one factor, an example of all that it changes.

    `where` is what else in their levels is no base. Cells count under all the combinations that they stand for.
    """
    found = {}
    named = [(levels, cell) for cell in plan.cells for levels in cell.combinations]
    for (ours, one), (theirs, other) in itertools.permutations(named, 2):
        apart = [factor for factor in plan.factors if ours[factor] != theirs[factor]]
        if len(apart) != 1 or one is other:
            continue
        factor, levels = apart[0], plan.factors[apart[0]]
        low, high = ours[factor], theirs[factor]
        if levels.index(low) < levels.index(high):
            where = no_bases({name: level for name, level in ours.items() if name != factor}, plan.factors)
            fields = tuple(name for name, *_ in differing(one.config, other.config)) if factor != NETWORK else ()
            key = factor, low, high, ours[NETWORK], fields
            if key not in found or len(where) < len(found[key][3]):
                found[key] = (factor, low, high, where, one, other)
    return [
        (factor, low, high, ", ".join(where), one, other) for factor, low, high, where, one, other in found.values()
    ]


def mixed_up(one, other, size, images):
    """What two configs differ in: ([(field, value, value)], [(condition, value, value)]).

    The fields are what somebody set; a comparison of two that differ in more than one field cannot say which of them it
    was. The conditions follow from the fields.
    """
    ours, theirs = conditions(one, size, images), conditions(other, size, images)
    return differing(one, other), [(name, ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]]


def warnings(plan, size, images):
    """A line for each factor whose levels mix things up: [(severity, text)], "confound" or "goes along"."""
    found = {}
    for factor, low, high, where, one, other in comparisons(plan):
        if factor == NETWORK:
            continue
        fields, along = mixed_up(one.config, other.config, size, images)
        names = [name for name, _, _ in fields]
        where = f" ({where})" * bool(where)
        if len(names) > 1:
            text = f"{factor} {low} to {high}{where} changes {len(names)} fields at once: {', '.join(names)}"
            found[text] = "confound"
        own = _of(names)
        more = [f"{name} {shown(x)} to {shown(y)}" for name, x, y in along if name not in own]
        if more:
            found[f"{factor} {low} to {high}{where}, {one.levels[NETWORK]}: with it go {', '.join(more)}"] = (
                "goes along"
            )
    return [(kind, text) for text, kind in found.items()]


# The conditions that say the same as a field.
SAME = {
    "data.crop_size": ("crop", "last map"),
    "train.batch_size": ("batch",),
    "train.steps": ("steps",),
    "model.norm.groups": ("images a BatchNorm group",),
    "optim.lr": ("learning rate",),
    "init_from": ("weights from",),
    "model.align_corners": ("align_corners",),
    "data.scale": ("image scale",),
    "model.backbone.padding_mode": ("padding mode",),
    "model.head.dilations": ("rates or pool scales",),
    "model.head.pool_scales": ("rates or pool scales",),
    "model.head.pool_norm": ("norm of the pooled branch",),
}


def _of(fields):
    return {condition for field in fields for condition in SAME.get(field, ())}


def shown(value):
    """A condition as text, three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
