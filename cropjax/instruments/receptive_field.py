"""The receptive field: the side of the square of pixels that one position of a map can depend on.

For a chain of convolutions with kernels k, dilations d and strides s the side grows from layer to layer by
d (k - 1) times the product of the strides before it, and the jump, the distance of neighbouring positions' fields, by s
(Araujo, Norris & Sim 2019, "Computing receptive fields of convolutional neural networks", Distill, equations 2 and 3).
Here nothing is added up by formula: the fields are read off the program of the function on an image that is large
enough for them (see reach.py), so that residuals, branches and resizes count as what they are.
"""

from dataclasses import dataclass

import numpy as np

from cropjax.errors import UserError
from cropjax.instruments.reach import trace
from cropjax.instruments.subject import Step
from cropjax.pages.figure import COLOURS, draw
from cropjax.pages.section import Section, Table

_SIDES = (2**10, 2**14, 2**16)  # of the images on which fields are looked for


@dataclass(frozen=True)
class Field:
    """Where a map's positions look: position i of an axis sees `size` pixels around pixel `offset` + i `jump`.

    Pairs are (rows, columns). `size` is None where it grows with the image, to the whole of it or a cell; after a
    resize it is that of the positions that see most. `jump` and `offset` are pixels.
    """

    name: str
    size: tuple[int | None, int | None]
    jump: tuple[float, float]
    offset: tuple[float, float]


def receptive_fields(function, weights, *, channels=3):
    """The `Field` of every map that `function(weights, images)` gives, {name: map}, and of every convolution in it.

    Returns two lists, of maps by their names and of convolutions by their kernels' paths in `weights`.

    Raises:
        UserError: a result is no map, or joins branches of different jumps.
    """
    names, fields, counts = [], {}, {}

    def maps(weights, images):  # in their own order: JAX sorts the names of a dict
        found = function(weights, images)
        names[:] = found
        return list(found.values())

    for side in _SIDES:
        traced = trace(maps, weights, (side, side), channels=channels, spans=True)
        layers = [(layer.name.removeprefix("params.").removesuffix(".kernel"), layer) for layer in traced.layers]
        seen = [*zip(names, traced.maps, strict=True), *layers]
        for place, (name, one) in enumerate(seen):
            if place not in fields or None in fields[place].size:
                axes = [_along(name, spans, side) for spans in (one.rows, one.columns)]
                # As many positions as on a smaller image: cells of the image, which grow with it.
                size = tuple(
                    None if before in (0, len(spans)) else axis[0]
                    for axis, spans, before in zip(
                        axes, (one.rows, one.columns), counts.get(place, (0, 0)), strict=True
                    )
                )
                fields[place] = Field(name, size, *zip(*(axis[1:] for axis in axes), strict=True))
                counts[place] = len(one.rows), len(one.columns)
        if all(None not in field.size for field in fields.values()):
            break
    fields = list(fields.values())
    return fields[: len(names)], fields[len(names) :]


def _along(name, spans, side):
    """Size, jump and offset of the spans [positions, 2] along one axis of an image of `side` pixels."""
    count = len(spans)
    sizes = spans[:, 1] - spans[:, 0] + 1
    eighth = count // 8
    near, far = (x[eighth : 3 * eighth].max(initial=0) for x in (sizes, sizes[::-1]))
    if abs(near - far) > max(side / count, 0.1 * max(near, far)):
        raise UserError(
            f"{name}: its fields grow along the map, from {near} to {far} of {side} pixels, so it joins branches of "
            "different jumps: resize them to one size before they are joined"
        )
    margin = sizes[count // 2]  # nearer to the border than its field a position may miss taps
    inside = np.flatnonzero((spans[:, 0] >= margin) & (spans[:, 1] < side - margin))
    if len(inside) < 2 or not inside[0] <= count // 2 <= inside[-1]:
        return None, side / count, (side - side / count * (count - 1) - 1) / 2
    inside = np.arange(inside[0], inside[-1] + 1)
    centres = spans[inside].mean(1)
    jump = (centres[-1] - centres[0]) / (len(centres) - 1)
    return int(sizes[inside].max()), float(jump), float((centres - jump * inside).mean())


@dataclass(frozen=True)
class Fields:
    """The fields of one network's maps and of its convolutions, and how many pixels they can see of each crop."""

    maps: tuple[Field, ...]
    layers: tuple[Field, ...]


def steps(subject):
    def measure():
        maps, layers = receptive_fields(subject.maps, subject.weights)
        return Fields(tuple(maps), tuple(layers))

    return [Step("receptive_field", Fields, 0.0, measure)]


def section(subject, results):
    """Stages and logits in words and a table, every convolution in a second one."""
    (fields,) = results
    crops = [f"{h}x{w}" for h, w in subject.crops]
    local = [field for field in fields.maps if None not in field.size]
    whole = [field.name for field in fields.maps if None in field.size]
    words = []
    if local:
        sides = [f"{field.size[0]} pixels at {field.name}" for field in local]
        widest = max((f for f in fields.layers if None not in f.size), key=lambda f: f.size[0])
        shares = [f"{widest.size[0] / h:.2f} times a crop of {h} rows" for h, _ in subject.crops]
        words.append(
            "The receptive field of a position is the square of pixels that it can depend on, whatever the weights. "
            f"Its side is {', '.join(sides)}. The widest that does not grow with the image is that of {widest.name}, "
            f"{widest.size[0]} pixels: {', '.join(shares)}."
        )
    if whole:
        words.append(
            f"At {', '.join(whole)} the field has no size of its own but grows with the image: there is pooling over "
            "the image, attention or a factorisation of all positions before it."
        )
    words.append(
        "The field does not depend on the crop. What does is how many positions have their field inside of it: the "
        "others see padding where the whole image has content."
    )
    rows = tuple(_row(field, subject) for field in fields.maps)
    columns = ("map", "rows", "columns", "jump", "offset", *(f"inside {crop}" for crop in crops))
    tables = (
        Table("receptive_field", columns, rows),
        Table("receptive_field_convolutions", columns, tuple(_row(field, subject) for field in fields.layers)),
    )

    def paint(axes):
        for k, axis in enumerate((0, 1)):
            ax = axes[0, k]
            known = [(i, f.size[axis]) for i, f in enumerate(fields.layers) if f.size[axis] is not None]
            ax.plot(*zip(*known, strict=True), ".", color=COLOURS[0], markersize=3)
            for crop, colour in zip(subject.crops, COLOURS[1:], strict=False):
                ax.axhline(crop[axis], color=colour, linewidth=1, label=f"crop of {crop[axis]}")
            ax.set(xlabel="convolution", ylabel=f"{('rows', 'columns')[axis]} seen", yscale="log")
            ax.legend()

    caption = (
        "What each convolution's result sees, in the order in which they run, where that does not grow with the image."
    )
    return Section("Receptive field", "\n\n".join(words), tables, draw(1, 2, paint), caption)


def _row(field, subject):
    return (field.name, *field.size, field.jump[0], field.offset[0], *(inside_share(field, c) for c in subject.crops))


def inside_share(field, crop):
    """The share of a map's positions whose field lies inside a `crop` (height, width); 1 where it grows with it."""
    return float(np.prod([_inside(*one) for one in zip(field.size, field.jump, field.offset, crop, strict=True)]))


def _inside(size, jump, offset, side):
    if size is None:
        return 1.0
    centres = offset + jump * np.arange(max(-(-side // jump), 1))
    half = (size - 1) / 2
    return float(((centres - half >= 0) & (centres + half <= side - 1)).mean())
