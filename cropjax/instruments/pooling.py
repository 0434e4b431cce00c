"""Pooling over the image: which pixels a cell covers, and what a larger image does to the pooled vectors.

Cells of PSPNet's pyramid and of DeepLabV3+'s image pooling are shares of the map, so that they cover more pixels of the
whole test image than they ever did of a crop. The pooled vectors are means over more of the scene: their distribution
is another one than the layers behind them were trained on. Chu et al. 2022, "Improving image restoration by revisiting
global information aggregation" (arXiv 2112.04491), name the shift and pool over local windows of the training size at
test, which is our `eval.pool_window`.
"""

from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from cropjax.instruments.figure import COLOURS, draw
from cropjax.instruments.section import Section, Table, hxw
from cropjax.instruments.subject import Step, normalized
from cropjax.ops.pool import adaptive_average_pool, adaptive_bins, windowed_average_pools
from cropjax.step import merge_model

_IMAGES, _CROPS_PER_IMAGE = 4, 2  # images at least: a variance is asked for
_PLACES = 8  # a side of the grid of positions whose windows are looked at on the whole image


@dataclass(frozen=True)
class Cells:
    """The cells of one scale on a map of `size` of an image of `image_size`.

    `sides` are the numbers of positions, (rows, columns), that occur; `overlap` the positions that two neighbouring
    cells share at most; `pixels` the larger side of the largest cell, in pixels; `area` the mean share of the image.
    """

    scale: int
    image_size: tuple[int, int]
    size: tuple[int, int]
    sides: tuple[tuple[int, ...], tuple[int, ...]]
    overlap: int
    pixels: int
    area: float


def cells(scale, image_size, size):
    """The `Cells` of adaptive pooling to `scale` x `scale` of a map of `size`."""
    bins = [adaptive_bins(side, scale) for side in size]
    lengths = [np.ptp(one, axis=1) for one in bins]
    overlap = max(int((one[:-1, 1] - one[1:, 0]).max(initial=0)) for one in bins)
    stride = [-(-whole // side) for whole, side in zip(image_size, size, strict=True)]
    pixels = max(int(one.max()) * step for one, step in zip(lengths, stride, strict=True))
    area = float(np.prod([one.mean() / side for one, side in zip(lengths, size, strict=True)]))
    sides = tuple(tuple(map(int, np.unique(one))) for one in lengths)
    return Cells(scale, tuple(image_size), tuple(size), sides, overlap, pixels, area)


@dataclass(frozen=True)
class Shift:
    """How the vectors that a pooled branch's norm is given differ from the training crop to something else.

    Per channel [c]: `mean`, the absolute difference of the means, in units of the norm's running standard deviation;
    `variance`, the variance over that of the crops, nan of a single vector.
    """

    mean: np.ndarray
    variance: np.ndarray


def shift(train, test, scale):
    """The `Shift` from vectors `train` [m,c] to `test` [n,c]; `scale` [c] is the norm's standard deviation."""
    mean = np.abs(test.mean(0) - train.mean(0)) / scale
    variance = test.var(0) / np.maximum(train.var(0), 1e-20)
    return Shift(mean, variance if len(test) > 1 else np.full_like(variance, np.nan))


@dataclass(frozen=True)
class Pooled:
    """Of one crop's size and one scale: the shifts to whole images, pooled as they are and over windows of the crop."""

    weights: str
    crop: tuple[int, int]
    scale: int
    plain: Shift
    windowed: Shift


@dataclass(frozen=True)
class Pools:
    """All cells and shifts of one network."""

    cells: tuple[Cells, ...]
    pooled: tuple[Pooled, ...]


def branches(head):
    """(scale, layer) of the pooled branches of a head; none of one that does not pool."""
    if hasattr(head, "pools"):
        return list(zip(head.pool_scales, head.pools, strict=True))
    return [(1, head.image_pool)] if hasattr(head, "image_pool") else []


def steps(subject):
    """One step a set of weights: whole images, and crops of each size out of each."""
    if not hasattr(subject.config.model.head, "pool_norm"):
        return []
    area = np.prod(subject.test_size) + _CROPS_PER_IMAGE * sum(h * w for h, w in subject.crops)
    cost = _images(subject) * area / 1e6
    return [Step(f"pooling/{name}", Pools, cost, partial(_measure, subject, name)) for name in subject.weight_sets]


def _images(subject):
    return max(subject.budget.images, _IMAGES)


def _measure(subject, name):
    weights = subject.weight_sets[name]
    model = merge_model(subject.graph, weights)
    found = branches(model.head)

    @jax.jit
    def last_map(weights, image):
        return merge_model(subject.graph, weights).backbone(image, False)[-1]

    def vectors(x, scale, layer):
        """What the branch's norm is given of every cell: [cells, c]."""
        return np.asarray(layer.conv(adaptive_average_pool(x, scale))).reshape(-1, layer.conv.kernel.shape[-1])

    def in_windows(x, scale, layer, window):
        h, w = x.shape[1:3]
        places = np.s_[:, :: -(-h // _PLACES), :: -(-w // _PLACES)]
        pools = windowed_average_pools(x, scale, window, align_corners=subject.config.model.align_corners)
        pooled = [np.asarray(layer.conv(one[places])) for one, _ in pools]
        return np.concatenate([one.reshape(-1, one.shape[-1]) for one in pooled])

    whole, windowed, train, sizes = {}, {}, {}, {}
    for index in range(_images(subject)):
        image, _ = subject.whole(index)
        x = last_map(weights, normalized(image))
        sizes[subject.test_size] = x.shape[1:3]
        for crop in subject.crops:
            parts = []
            for k in range(_CROPS_PER_IMAGE):
                y, z = _place(subject, crop, index, k)
                parts.append(last_map(weights, normalized(image[y : y + crop[0], z : z + crop[1]])))
            sizes[crop] = parts[0].shape[1:3]
            for scale, layer in found:
                train.setdefault((crop, scale), []).extend(vectors(part, scale, layer) for part in parts)
                windowed.setdefault((crop, scale), []).append(in_windows(x, scale, layer, sizes[crop]))
        for scale, layer in found:
            whole.setdefault(scale, []).append(vectors(x, scale, layer))
    pooled = []
    for crop in subject.crops:
        for scale, layer in found:
            ours = np.concatenate(train[crop, scale])
            deviation = ours.std(0) + 1e-12 if layer.norm is None else np.sqrt(layer.norm.var[...] + layer.norm.eps)
            plain = shift(ours, np.concatenate(whole[scale]), deviation)
            local = shift(ours, np.concatenate(windowed[crop, scale]), deviation)
            pooled.append(Pooled(name, crop, scale, plain, local))
    geometry = [cells(scale, size, map_size) for scale, _ in found for size, map_size in sizes.items()]
    return Pools(tuple(geometry), tuple(pooled))


def _place(subject, crop, index, k):
    rng = np.random.default_rng([subject.config.seed, index, k])
    return tuple(int(rng.integers(whole - side + 1)) for whole, side in zip(subject.test_size, crop, strict=True))


def section(subject, results):
    """None for a network without pooled branches."""
    if not results:
        return None
    geometry = results[0].cells
    pooled = [one for result in results for one in result.pooled]
    largest = max(one.scale for one in geometry)
    of_largest = [one for one in geometry if one.scale == largest]
    wide = ", ".join(f"{one.pixels} pixels on {hxw(one.image_size)}" for one in of_largest)
    sentences = []
    for weights, crop in dict.fromkeys((one.weights, one.crop) for one in pooled):
        these = [one for one in pooled if (one.weights, one.crop) == (weights, crop)]

        plain, windowed, spread, windowed_spread = (
            ", ".join(f"{_median(getattr(getattr(one, pools), what)):.2f}" for one in these)
            for what in ("mean", "variance")
            for pools in ("plain", "windowed")
        )
        sentences.append(
            f"crop of {hxw(crop)}, {weights} weights, scale{'s' * (len(these) > 1)} "
            f"{', '.join(str(one.scale) for one in these)}: by {plain} deviations on the whole image and {windowed} "
            f"with a window of the crop's size; the variance is {spread} and {windowed_spread} times the crops'"
        )
    words = (
        f"A cell of scale {largest} is up to {wide} wide. As a share of the image a cell is the same on all of them, "
        f"{of_largest[0].area:.1%} on average: what changes from training to test is how many pixels it is.\n\n"
        "The mean over more of the scene has another distribution. From the training crop to the whole image the mean "
        "of what the branch's norm is given moves, in the median channel:\n\n" + ";\n\n".join(sentences) + ".\n\n"
        f"{_images(subject) * _CROPS_PER_IMAGE} crops of each size against {_images(subject)} whole images. "
        "`eval.pool_window` pools over windows of a given size at test."
    )
    cell_rows = tuple(
        (
            one.scale, hxw(one.image_size), hxw(one.size), *("-".join(map(str, side)) for side in one.sides),
            one.overlap, one.pixels, one.area,
        )
        for one in geometry
    )  # fmt: skip
    shift_rows = tuple(
        (
            one.weights, hxw(one.crop), one.scale, pools, *(float(np.quantile(found.mean, q)) for q in (0.5, 0.9)),
            *(float(np.quantile(found.variance, q)) for q in (0.1, 0.5, 0.9)),
        )
        for one in pooled
        for pools, found in (("whole image", one.plain), ("window", one.windowed))
    )  # fmt: skip

    def paint(axes):
        ax = axes[0, 0]
        for one, colour in zip(of_largest[::-1], COLOURS, strict=False):
            h, w = one.image_size
            for axis, line in ((0, ax.hlines), (1, ax.vlines)):
                edges = adaptive_bins(one.size[axis], one.scale).ravel() / one.size[axis] * (h, w)[axis]
                line(edges, 0, (w, h)[axis], color=colour, linewidth=0.8)
            ax.plot([], [], color=colour, label=hxw(one.image_size))
        ax.set(title=f"cells of scale {largest}", aspect="equal", xlabel="pixels")
        ax.invert_yaxis()
        ax.legend(loc="upper right")
        ax = axes[0, 1]
        names = [f"{one.crop[0]}: {one.scale}" for one in pooled]
        for offset, pick, colour, label in (
            (-0.2, lambda one: one.plain.mean, COLOURS[1], "whole image"),
            (0.2, lambda one: one.windowed.mean, COLOURS[0], "window"),
        ):
            values = [np.quantile(pick(one), (0.1, 0.5, 0.9)) for one in pooled]
            place = np.arange(len(pooled)) + offset
            ax.vlines(place, [v[0] for v in values], [v[2] for v in values], color=colour)
            ax.plot(place, [v[1] for v in values], "o", color=colour, markersize=4, label=label)
        ax.set(xticks=range(len(pooled)), ylabel="shift, deviations", xlabel="crop: scale", ylim=(0, None))
        ax.set_xticklabels(names, rotation=60)
        ax.legend()

    return Section(
        "Pooling",
        words,
        (
            Table(
                "pool_cells",
                ("scale", "image", "map", "rows", "columns", "overlap", "largest, pixels", "share of the image"),
                cell_rows,
            ),
            Table(
                "pool_shift",
                (
                    "weights", "crop", "scale", "test", "shift, median", "shift, 90 %", "variance, 10 %",
                    "variance, median", "variance, 90 %",
                ),
                shift_rows,
            ),
        ),
        draw(1, 2, paint, height=3.0),
        "Cells on the crops and on the whole image; how far the pooled channels move (10 to 90 % of them, and median).",
    )  # fmt: skip


def _median(values):
    return float(np.median(values))
