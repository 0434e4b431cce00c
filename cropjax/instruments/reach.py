"""Which pixels every position of a map depends on, read off the program of any function.

`trace` walks the function's jaxpr once for the rows and once for the columns of the image. Each value carries, for the
index along one of its axes, the rows that it sees: as an exact set, or as the first and last of them where the image
is large. What an operation does to them follows from which elements it reads, so that it holds for any network:
branches and residuals unite, constant matrices (pooling, resizing) count where they are not zero, and an operation that
is not known here is taken to look at everything. Weights count as not zero.

Rows and columns are followed apart. A position sees rows x columns; where branches unite of which none is within
another (a cross of strips), that is the smallest product around what it sees.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from cropjax.errors import UserError
from cropjax.ops.plain import plain

_LARGEST = 2**22  # elements of a constant that is computed
_LONGEST = 2**18  # axis of merged rows and columns that is followed; on a longer one all is taken to see everything


class Sets:
    """Exact sets, bool [indices, pixels]."""

    def whole(self, size):
        return np.eye(size, dtype=bool)

    def none(self, like, count):
        return np.zeros((count, like.shape[1]), bool)

    def union(self, a, b):
        return a | b

    def all(self, a):
        return a.any(0, keepdims=True)

    def read(self, a, index):
        """Of outputs that read the elements `index` [outputs, k], -1 for none."""
        found = np.zeros((len(index), a.shape[1]), bool)
        for column in index.T:  # one at a time: k copies of a are too much
            found |= a[column] & (column >= 0)[:, None]
        return found


class Spans:
    """First and last pixel, int [indices, 2]; an empty set's last comes before its first."""

    _NONE = (2**40, -1)

    def whole(self, size):
        return np.stack([np.arange(size)] * 2, 1)

    def none(self, like, count):
        return np.tile(np.array(self._NONE), (count, 1))

    def union(self, a, b):
        return np.stack([np.minimum(a[:, 0], b[:, 0]), np.maximum(a[:, 1], b[:, 1])], 1)

    def all(self, a):
        return np.array([[a[:, 0].min(), a[:, 1].max()]])

    def read(self, a, index):
        found = self.none(a, len(index))
        for column in index.T:
            found = self.union(found, np.where((column >= 0)[:, None], a[column], self._NONE))
        return found


@dataclass(frozen=True)
class Layer:
    """A convolution of the function: the path of its kernel, its form, and what its result sees.

    Pairs are (rows, columns); `padding` is ((top, bottom), (left, right)); `rows` and `columns` are `Sets` or `Spans`
    of the positions of its result, whose map is `size`.
    """

    name: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    groups: int
    channels: tuple[int, int]
    input_size: tuple[int, int]
    size: tuple[int, int]
    rows: np.ndarray
    columns: np.ndarray


class Reach(NamedTuple):
    """What the positions of one map see: `rows` of each of its rows, `columns` of each of its columns."""

    rows: np.ndarray
    columns: np.ndarray


class Traced(NamedTuple):
    """`maps`, a `Reach` for every map that the function gives, in its structure; and its convolutions in order."""

    maps: Any
    layers: list[Layer]


def trace(function: Callable, weights: Any, size: tuple[int, int], *, channels: int = 3, spans: bool = False) -> Traced:
    """What `function(weights, images [1,h,w,channels])` reads of images of `size` (h, w), without running it.

    `weights` may be shapes. With `spans` only first and last pixels are followed: for any size.

    Raises:
        UserError: something that the function gives is no map [1,h',w',c].
    """
    image = jax.ShapeDtypeStruct((1, *size, channels), np.float32)
    weights = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), weights)
    with plain():
        program, shapes = jax.make_jaxpr(lambda *args: function(*args), return_shape=True)(weights, image)
    for shape in jax.tree.leaves(shapes):
        if len(shape.shape) != 4 or 0 in shape.shape:
            raise UserError(
                f"the function gives {shape.shape} for images {image.shape}: an instrument needs maps "
                "[images, rows, columns, channels] with at least a position"
            )
    names = [
        _Weight(jax.tree_util.keystr(path, simple=True, separator="."))
        for path, _ in jax.tree_util.tree_leaves_with_path(weights)
    ]
    seen, found = [], []
    for axis in (1, 2):
        walk = _Walk(Spans() if spans else Sets(), size[axis - 1])
        results = walk.closed(program, [*names, _Seen(axis, walk.image)])
        leaves = zip(jax.tree.leaves(shapes), results, strict=True)
        seen.append([walk.along(value, axis, shape.shape[axis]) for shape, value in leaves])
        found.append(walk.layers)
    maps = jax.tree.unflatten(jax.tree.structure(shapes), [Reach(*pair) for pair in zip(*seen, strict=True)])
    layers = [Layer(**form, rows=rows, columns=columns) for (form, rows), (_, columns) in zip(*found, strict=True)]
    return Traced(maps, layers)


def convolutions(function: Callable, weights: Any, images: jax.Array, look: Callable) -> list:
    """`look(index, x, kernel)` of every convolution that `function(weights, images)` computes, in `trace`'s order.

    `x` [n,h,w,c] and `kernel` [kh,kw,i,o] are the operands. May be traced: only what `look` returns is kept. Those in
    a loop are left out, and not counted.
    """
    with plain():
        program = jax.make_jaxpr(lambda *args: function(*args))(weights, images)
    found = []

    def evaluate(closed, arguments):
        jaxpr = closed.jaxpr
        values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        values |= dict(zip(jaxpr.invars, arguments, strict=True))
        for eqn in jaxpr.eqns:
            operands = [x.val if isinstance(x, Literal) else values[x] for x in eqn.invars]
            inner = _called(eqn)
            if inner is not None:
                results = evaluate(inner, operands)
            else:
                if eqn.primitive.name == "conv_general_dilated":
                    found.append(look(len(found), *operands))
                results = _computed(eqn, operands)
            values |= dict(zip(eqn.outvars, results, strict=True))
        return [x.val if isinstance(x, Literal) else values[x] for x in jaxpr.outvars]

    evaluate(program, jax.tree.leaves((weights, images)))
    return found


class _Weight(NamedTuple):
    """A value that comes from weights alone, and the path of the first of them."""

    name: str


class _Known(NamedTuple):
    """A value that depends on nothing."""

    value: Any


class _Seen(NamedTuple):
    """What is seen by the index along `axis`; by all elements alike where it is None, `sets` having one row then."""

    axis: int | None
    sets: np.ndarray


def _called(eqn) -> ClosedJaxpr | None:
    """The program that an equation calls once, with its own operands."""
    if eqn.primitive.name in ("scan", "while", "cond"):
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(name)
        if inner is not None and len(getattr(inner, "jaxpr", inner).invars) == len(eqn.invars):
            return inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())
    return None


def _computed(eqn, operands):
    results = eqn.primitive.bind(*operands, **eqn.params)
    return results if eqn.primitive.multiple_results else [results]


class _Walk:
    """One pass over a program, for the rows or for the columns."""

    def __init__(self, kind, size):
        self.kind, self.image = kind, kind.whole(size)
        self.layers = []
        self.loops = 0  # that the walk is in

    # ------------------------------------------------------------------------------------------------- programs

    def closed(self, program, arguments):
        return self.run(program.jaxpr, [_Known(x) for x in program.consts], arguments)

    def run(self, jaxpr, constants, arguments):
        values = dict(zip(jaxpr.constvars, constants, strict=True)) | dict(zip(jaxpr.invars, arguments, strict=True))

        def of(x):
            return _Known(x.val) if isinstance(x, Literal) else values[x]

        for eqn in jaxpr.eqns:
            values |= dict(zip(eqn.outvars, self.equation(eqn, [of(x) for x in eqn.invars]), strict=True))
        return [of(x) for x in jaxpr.outvars]

    def equation(self, eqn, operands):
        name, inner = eqn.primitive.name, _called(eqn)
        if inner is not None:
            return self.closed(inner, operands)
        if not any(isinstance(x, _Seen) for x in operands):
            return self.without_image(eqn, operands)
        if name in ("scan", "while", "cond"):
            self.loops += 1
            results = getattr(self, f"_{name}")(eqn, operands)
            self.loops -= 1
            return results
        rule = _RULES.get(name, _Walk._elementwise if name in _ELEMENTWISE else _Walk._unknown)
        result = rule(self, eqn, operands)
        return result if isinstance(result, list) else [result]

    def without_image(self, eqn, operands):
        weights = [x for x in operands if isinstance(x, _Weight)]
        if weights:
            return [weights[0]] * len(eqn.outvars)
        if eqn.primitive.name in ("scan", "while", "cond") or any(x.aval.size > _LARGEST for x in eqn.outvars):
            return [_Weight("")] * len(eqn.outvars)
        with jax.ensure_compile_time_eval():
            return [_Known(x) for x in _computed(eqn, [x.value for x in operands])]

    # --------------------------------------------------------------------------------------------------- values

    def along(self, value, axis, count):
        """The sets of each of `count` indices along `axis`."""
        if not isinstance(value, _Seen):
            return self.kind.none(self.image, count)
        if value.axis not in (None, axis):
            value = self._everything([value])
        return np.broadcast_to(value.sets, (count, value.sets.shape[1]))

    def _united(self, values):
        """Of values of one shape."""
        seen = [x for x in values if isinstance(x, _Seen)]
        axes = {x.axis for x in seen} - {None}
        if len(axes) > 1:
            return self._everything(seen)
        sets = seen[0].sets
        for value in seen[1:]:
            sets = self.kind.union(*np.broadcast_arrays(sets, value.sets))
        return _Seen(axes.pop() if axes else None, sets)

    def _everything(self, values):
        sets = [self.kind.all(x.sets) for x in values if isinstance(x, _Seen)]
        whole = sets[0]
        for other in sets[1:]:
            whole = self.kind.union(whole, other)
        return _Seen(None, whole)

    def _moved(self, value, axis):
        """The same sets along another axis, or of nothing in particular."""
        return self._everything([value]) if axis is None else _Seen(axis, value.sets)

    # ---------------------------------------------------------------------------------------------------- rules

    def _unknown(self, eqn, operands):
        return [self._everything(operands)] * len(eqn.outvars)

    def _elementwise(self, eqn, operands):
        return [self._united(operands)] * len(eqn.outvars)

    def _each(self, eqn, operands):
        return operands

    def _broadcast_in_dim(self, eqn, operands):
        x = operands[0]
        if x.axis is None:
            return x
        axis = eqn.params["broadcast_dimensions"][x.axis]
        same = eqn.params["shape"][axis] == eqn.invars[0].aval.shape[x.axis]
        return self._moved(x, axis if same else None)

    def _squeeze(self, eqn, operands):
        return self._without(operands[0], eqn.params["dimensions"])

    def _reduce(self, eqn, operands):
        return [self._without(self._united(operands), eqn.params["axes"])] * len(eqn.outvars)

    def _without(self, x, axes):
        if x.axis is None:
            return x
        return self._moved(x, None if x.axis in axes else x.axis - sum(axis < x.axis for axis in axes))

    def _transpose(self, eqn, operands):
        x = operands[0]
        return x if x.axis is None else self._moved(x, eqn.params["permutation"].index(x.axis))

    def _reshape(self, eqn, operands):
        x = operands[0]
        if x.axis is None:
            return x
        before, after = eqn.invars[0].aval.shape, eqn.params["new_sizes"]
        for ours, theirs in _groups(before, after):
            sizes = [before[axis] for axis in ours]
            if x.axis not in ours or math.prod(sizes) > _LONGEST:
                continue
            place = np.indices(sizes, sparse=True)[ours.index(x.axis)]
            place = np.broadcast_to(place, sizes).reshape([after[axis] for axis in theirs])
            if len(theirs) > 1:  # of equal sets the first stands for all
                _, first, which = np.unique(x.sets, axis=0, return_index=True, return_inverse=True)
                place = first[which.reshape(-1)][place]
            for k, axis in enumerate(theirs):  # does the index along one of the new axes alone tell the set?
                line = np.moveaxis(place, k, 0).reshape(after[axis], -1)
                if (line == line[:, :1]).all():
                    return _Seen(axis, x.sets[line[:, 0]])
        return self._everything([x])

    def _read(self, x, index):
        return _Seen(x.axis, self.kind.read(x.sets, np.asarray(index)))

    def _slice(self, eqn, operands):
        x, p = operands[0], eqn.params
        if x.axis is None:
            return x
        strides = p["strides"] or (1,) * len(p["start_indices"])
        part = slice(*(values[x.axis] for values in (p["start_indices"], p["limit_indices"], strides)))
        return _Seen(x.axis, x.sets[part])

    def _dynamic_slice(self, eqn, operands):
        x, *starts = operands
        if not isinstance(x, _Seen) or any(isinstance(start, _Seen) for start in starts):
            return self._everything(operands)
        if x.axis is None:
            return x
        size, count = eqn.invars[0].aval.shape[x.axis], eqn.params["slice_sizes"][x.axis]
        if size == count:
            return x
        if not isinstance(starts[x.axis], _Known):
            return self._everything([x])
        start = min(max(int(starts[x.axis].value), 0), size - count)
        return _Seen(x.axis, x.sets[start : start + count])

    def _split(self, eqn, operands):
        x, sizes = operands[0], eqn.params["sizes"]
        if x.axis != eqn.params["axis"]:
            return [x] * len(sizes)
        return [_Seen(x.axis, sets) for sets in np.split(x.sets, np.cumsum(sizes)[:-1])]

    def _rev(self, eqn, operands):
        x = operands[0]
        return _Seen(x.axis, x.sets[::-1]) if x.axis in eqn.params["dimensions"] else x

    def _pad(self, eqn, operands):
        x = operands[0]
        if not isinstance(x, _Seen):
            return self._everything(operands)
        if x.axis is None:
            return x
        low, _, interior = eqn.params["padding_config"][x.axis]
        place = np.arange(eqn.outvars[0].aval.shape[x.axis]) - low
        return self._read(x, _inside(place, interior + 1, len(x.sets))[:, None])

    def _concatenate(self, eqn, operands):
        axis = eqn.params["dimension"]
        seen = [x for x in operands if isinstance(x, _Seen)]
        if any(x.axis not in (None, axis) for x in seen):
            return self._united(operands)
        counts = [x.aval.shape[axis] for x in eqn.invars]
        sets = [
            np.broadcast_to(x.sets, (count, x.sets.shape[1]))
            if isinstance(x, _Seen)
            else self.kind.none(seen[0].sets, count)
            for x, count in zip(operands, counts, strict=True)
        ]
        return _Seen(axis, np.concatenate(sets))

    def _gather(self, eqn, operands):
        x, indices = operands
        p, shape = eqn.params["dimension_numbers"], eqn.invars[0].aval.shape
        if not isinstance(x, _Seen) or isinstance(indices, _Seen) or p.operand_batching_dims:
            return self._everything(operands)
        if x.axis is None:
            return x
        if x.axis not in p.start_index_map:
            kept = [axis for axis in range(len(shape)) if axis not in p.collapsed_slice_dims]
            return self._moved(x, p.offset_dims[kept.index(x.axis)] if x.axis in kept else None)
        others = [axis for axis in range(eqn.outvars[0].aval.ndim) if axis not in p.offset_dims]
        if not (
            isinstance(indices, _Known)
            and p.start_index_map == p.collapsed_slice_dims == (x.axis,)
            and len(others) == 1
        ):
            return self._everything([x])
        index = np.clip(np.asarray(indices.value).reshape(-1), 0, shape[x.axis] - 1)
        return _Seen(others[0], x.sets[index])

    def _dot_general(self, eqn, operands):
        (contracted, batched), shapes = eqn.params["dimension_numbers"], [x.aval.shape for x in eqn.invars]
        free = [
            [axis for axis in range(len(shape)) if axis not in (*over, *batch)]
            for shape, over, batch in zip(shapes, contracted, batched, strict=True)
        ]
        results = []
        for k, x in enumerate(operands):
            if not isinstance(x, _Seen):
                continue
            other = operands[1 - k]
            first = len(batched[k]) + (len(free[0]) if k else 0)
            if x.axis is None:
                results.append(x)
            elif x.axis in batched[k]:
                results.append(_Seen(batched[k].index(x.axis), x.sets))
            elif x.axis in free[k]:
                results.append(_Seen(first + free[k].index(x.axis), x.sets))
            elif isinstance(other, _Known) and len(free[1 - k]) == 1:  # a constant matrix, where it is not zero
                axis, along = free[1 - k][0], contracted[1 - k][contracted[k].index(x.axis)]
                matrix = np.moveaxis(np.asarray(other.value) != 0, (axis, along), (0, 1))
                matrix = matrix.any(tuple(range(2, matrix.ndim)))
                count = matrix.sum(1).max()
                order = np.argsort(~matrix, axis=1, kind="stable")[:, :count]
                index = np.where(np.take_along_axis(matrix, order, 1), order, -1)
                place = len(batched[k]) + (0 if k else len(free[0]))
                results.append(_Seen(place, self.kind.read(x.sets, index)))
            else:
                results.append(self._everything([x]))
        return self._united(results)

    def _window(self, eqn, operands):
        x, p = self._united(operands), eqn.params
        if x.axis is None:
            return x
        names = ("window_dimensions", "window_strides", "window_dilation", "base_dilation")
        size, stride, dilation, base = (p[name][x.axis] if name in p else 1 for name in names)
        low, _ = p["padding"][x.axis]
        count = eqn.outvars[0].aval.shape[x.axis]
        place = np.arange(count)[:, None] * stride + np.arange(size) * dilation - low
        return self._read(x, _inside(place, base, len(x.sets)))

    def _convolution(self, eqn, operands):
        x, kernel = operands
        if not isinstance(x, _Seen) or isinstance(kernel, _Seen):
            return self._everything(operands)
        p, shape, out = eqn.params, [x.aval.shape for x in eqn.invars], eqn.outvars[0].aval.shape
        lhs, rhs, result = p["dimension_numbers"]
        taps = tuple(shape[1][axis] for axis in rhs[2:])
        if x.axis in lhs[2:]:
            k = lhs[2:].index(x.axis)
            place = np.arange(out[result[2 + k]])[:, None] * p["window_strides"][k]
            place = place + np.arange(taps[k]) * p["rhs_dilation"][k] - p["padding"][k][0]
            sets = self.kind.read(x.sets, _inside(place, p["lhs_dilation"][k], len(x.sets)))
            seen = _Seen(result[2 + k], sets)
        else:
            seen = self._moved(x, result[0] if x.axis == lhs[0] else None)
        if len(taps) == 2 and not self.loops:
            form = {
                "name": kernel.name if isinstance(kernel, _Weight) else "",
                "kernel": taps,
                "stride": tuple(p["window_strides"]),
                "dilation": tuple(p["rhs_dilation"]),
                "padding": tuple(map(tuple, p["padding"])),
                "groups": p["feature_group_count"],
                "channels": (shape[0][lhs[1]], out[result[1]]),
                "input_size": tuple(shape[0][axis] for axis in lhs[2:]),
                "size": tuple(out[axis] for axis in result[2:]),
            }
            self.layers.append((form, seen.sets))
        return seen

    # ---------------------------------------------------------------------------------------------------- loops

    def _scan(self, eqn, operands):
        p, body = eqn.params, eqn.params["jaxpr"]
        constants, carried = p["num_consts"], p["num_consts"] + p["num_carry"]
        each = [self._turn(x) for x in operands[carried:]]

        def turn(carry):
            return self.closed(body, [*operands[:constants], *carry, *each])

        results = self._settled(turn, operands[constants:carried], eqn)
        collected = [self._collected(x) for x in results[p["num_carry"] :]]
        return results[: p["num_carry"]] + collected

    def _turn(self, x):
        """What one turn of a loop gets of an array that has a row for every turn."""
        if not isinstance(x, _Seen):
            return _Weight("") if isinstance(x, _Known) else x
        return x if x.axis is None else self._moved(x, x.axis - 1 if x.axis else None)

    def _collected(self, x):
        return _Seen(x.axis + 1, x.sets) if isinstance(x, _Seen) and x.axis is not None else x

    def _while(self, eqn, operands):
        p = eqn.params
        test, body = p["cond_nconsts"], p["body_nconsts"]

        def turn(carry):
            return self.closed(p["body_jaxpr"], [*operands[test : test + body], *carry])

        return self._settled(turn, operands[test + body :], eqn)

    def _settled(self, turn, carry, eqn):
        """The results of a loop's turn once what it carries sees no more than before."""
        carry = [_Weight("") if isinstance(x, _Known) else x for x in carry]  # another value in every turn
        while True:
            results = turn(carry)
            grown = [
                self._united([a, b]) if isinstance(a, _Seen) or isinstance(b, _Seen) else a
                for a, b in zip(carry, results, strict=False)
            ]
            if all(_same(a, b) for a, b in zip(carry, grown, strict=True)):
                return [*grown, *results[len(carry) :]]
            carry = grown

    def _cond(self, eqn, operands):
        which, *operands = operands
        branches = [self.closed(branch, operands) for branch in eqn.params["branches"]]
        results = []
        for found in zip(*branches, strict=True):
            seen = [x for x in (*found, which) if isinstance(x, _Seen)]
            results.append(self._united(seen) if seen else found[0])
        return results


def _same(a, b):
    if isinstance(a, _Seen) and isinstance(b, _Seen):
        return a.axis == b.axis and np.array_equal(a.sets, b.sets)
    return type(a) is type(b)


def _inside(place, dilation, size):
    """The elements at `place` of an axis of `size` elements `dilation` apart; -1 where there is none."""
    element = place // dilation
    return np.where((place % dilation == 0) & (element >= 0) & (element < size), element, -1)


def _groups(before, after):
    """The axes of two shapes of one size, in the smallest runs of equal size: [(axes before, axes after)]."""
    before, after = ([(axis, size) for axis, size in enumerate(shape) if size > 1] for shape in (before, after))
    groups = []
    while before:
        ours, theirs = [before.pop(0)], [after.pop(0)]
        while (a := math.prod(size for _, size in ours)) != (b := math.prod(size for _, size in theirs)):
            (ours if a < b else theirs).append((before if a < b else after).pop(0))
        groups.append(tuple([axis for axis, _ in run] for run in (ours, theirs)))
    return groups


_ELEMENTWISE = frozenset(
    re.findall(
        r"\w+",
        """
        abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy cos cosh
        digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt imag integer_pow is_finite le lgamma log log1p
        logistic lt max min mul name ne neg nextafter not or pow real reduce_precision rem round rsqrt select_n
        shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor
        """,
    )
)
_RULES = {
    "broadcast_in_dim": _Walk._broadcast_in_dim,
    "concatenate": _Walk._concatenate,
    "conv_general_dilated": _Walk._convolution,
    "dot_general": _Walk._dot_general,
    "dynamic_slice": _Walk._dynamic_slice,
    "gather": _Walk._gather,
    "optimization_barrier": _Walk._each,
    "pad": _Walk._pad,
    "reshape": _Walk._reshape,
    "rev": _Walk._rev,
    "slice": _Walk._slice,
    "split": _Walk._split,
    "squeeze": _Walk._squeeze,
    "transpose": _Walk._transpose,
    **dict.fromkeys(("argmax", "argmin"), _Walk._reduce),
    **dict.fromkeys((f"reduce_{x}" for x in ("and", "max", "min", "or", "prod", "sum")), _Walk._reduce),
    **dict.fromkeys((f"reduce_window_{x}" for x in ("max", "min", "sum")), _Walk._window),
    "reduce_window": _Walk._window,
}
