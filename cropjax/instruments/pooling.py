"""Pooling over the image: which pixels a cell covers, and what a larger image does to the pooled vectors.

Cells of PSPNet's pyramid and of DeepLabV3+'s image pooling are shares of the map, so that they cover more pixels of the
whole test image than they ever did of a crop. The pooled vectors are means over more of the scene: their distribution
is another one than the layers behind them were trained on. Chu et al. 2022, "Improving image restoration by revisiting
global information aggregation" (arXiv 2112.04491), name the shift and pool over local windows of the training size at
test, which is our `eval.pool_window`.

The shift of a channel is |mean over whole images - mean over crops| / sqrt(var + eps), with the running variance of the
norm behind it. Few crops are drawn, so it comes with the standard error of the differences, image by image: a shift
that is no larger than that may be where the crops happened to lie.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cropjax.instruments.subject import Step, normalized
from cropjax.ops.pool import adaptive_average_pool, adaptive_bins, cells_in_windows
from cropjax.pages.figure import COLOURS, draw
from cropjax.pages.section import Section, Table, hxw
from cropjax.step import merge_model

_IMAGES, _CROPS_PER_IMAGE = 4, 4  # images at least: a variance is asked for
_PLACES = 8  # a side of the grid of positions whose windows are looked at on the whole image


@dataclass(frozen=True)
class Cells:
    """The cells of one scale on a map of `size` of an image of `image_size`.

    `sides` are the numbers of positions, (rows, columns), that occur; `overlap` the positions that two neighbouring
    cells share at most; `pixels` the (rows, columns) of the image that the largest cell averages over, not counting
    what its positions see beside them; `area` the mean share of the map.
    """

    scale: int
    image_size: tuple[int, int]
    size: tuple[int, int]
    sides: tuple[tuple[int, ...], tuple[int, ...]]
    overlap: int
    pixels: tuple[int, int]
    area: float


def cells(scale, image_size, stride):
    """The `Cells` of adaptive pooling to `scale` x `scale` of the map at `stride` of an image of `image_size`."""
    size = tuple(-(-side // stride) for side in image_size)
    bins = [adaptive_bins(side, scale) for side in size]
    lengths = [np.ptp(one, axis=1) for one in bins]
    sides = tuple(tuple(map(int, np.unique(one))) for one in lengths)
    overlap = max(int((one[:-1, 1] - one[1:, 0]).max(initial=0)) for one in bins)
    pixels = tuple(min(one[-1] * stride, whole) for one, whole in zip(sides, image_size, strict=True))
    area = float(np.prod([one.mean() / side for one, side in zip(lengths, size, strict=True)]))
    return Cells(scale, tuple(image_size), size, sides, overlap, pixels, area)


@dataclass(frozen=True)
class Shift:
    """How the vectors of a pooled branch differ from the training crop to something else.

    Per channel [c]: `mean`, the absolute difference of the means, in units of a standard deviation; `variance`, the
    variance over that of the crops. A channel that is always the same has neither: nan, as has the variance of one
    vector. `error` is the standard error of the difference, in the same units, where it is known (see `paired_error`).
    """

    mean: np.ndarray
    variance: np.ndarray
    error: np.ndarray | None = None


def shift(train, test, scale):
    """The `Shift` from vectors `train` [m,c] to `test` [n,c]; `scale` [c] is the standard deviation that is the unit.

    Variances are unbiased, since m and n may be few.
    """
    mean = np.abs(test.mean(0) - train.mean(0))
    ours, theirs = ((x - x.mean(0)) ** 2 for x in (train, test))
    ours, theirs = (x.sum(0) / max(len(x) - 1, 1) for x in (ours, theirs))
    defined = (ours > 0) & (len(test) > 1)
    return Shift(_ratio(mean, scale, scale > 0), _ratio(theirs, ours, defined))


def paired_error(train, test, scale):
    """The standard error [c] of the mean of `test` less that of `train`, in units of `scale` [c].

    Both are [images,k,c], vectors of the same images: what one image has more of than another is in both. Which crops
    were drawn, and which images, is what is left. Two images at least.
    """
    difference = test.mean(1) - train.mean(1)  # [images, c]
    return _ratio(difference.std(0, ddof=1) / len(difference) ** 0.5, scale, scale > 0)


def _ratio(a, b, defined):
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=defined)


@dataclass(frozen=True)
class Pooled:
    """Of one crop's size and one scale: the shifts to whole images, pooled as they are and over windows of the crop.

    Of the vectors "after" the branch's convolution, which its norm is given, in units of the norm's running standard
    deviation; or of those "before" it, in units of the crops' own.
    """

    weights: str
    crop: tuple[int, int]
    scale: int
    plain: Shift
    windowed: Shift
    convolution: str = "after"


@dataclass(frozen=True)
class Pools:
    """All cells and shifts of one network."""

    cells: tuple[Cells, ...]
    pooled: tuple[Pooled, ...]


def pooled_vectors(x, bins):
    """Those of every cell of `bins` x `bins` of the maps `x` [n,h,w,c]: [n bins bins, c]."""
    return np.asarray(adaptive_average_pool(x, bins)).reshape(-1, x.shape[-1])


def windowed_vectors(x, bins, window, *, align_corners):
    """Those that the positions of an even grid on `x` [n,h,w,c] read of a window of `window` around each: [m,c].

    As `windowed_average_pools` has them, each of the cells that a position reads once, whatever its weight.
    """

    def matrices(size, side):
        step = -(-size // _PLACES)
        return [matrix[step // 2 :: step] for matrix, _ in cells_in_windows(size, side, bins, align_corners)]

    found = []
    rows, columns = (matrices(*one) for one in zip(x.shape[1:3], window, strict=True))
    for row in rows:
        y = jnp.einsum("ph,nhwc->npwc", jnp.asarray(row, x.dtype), x, precision="highest")
        for column in columns:
            found.append(jnp.einsum("qw,npwc->npqc", jnp.asarray(column, x.dtype), y, precision="highest"))
    return np.concatenate([np.asarray(one).reshape(-1, x.shape[-1]) for one in found])


def branches(head):
    """(scale, layer) of the pooled branches of a head; none of one that does not pool."""
    if hasattr(head, "pools"):
        return list(zip(head.pool_scales, head.pools, strict=True))
    return [(1, head.image_pool)] if hasattr(head, "image_pool") else []


def steps(subject):
    """One step a set of weights, in a quick report of the last: whole images, and crops of each size out of each."""
    if not hasattr(subject.config.model.head, "pool_norm"):
        return []
    area = np.prod(subject.test_size) + _CROPS_PER_IMAGE * sum(h * w for h, w in subject.crops)
    cost = _images(subject) * area / 1e6
    names = list(subject.weight_sets)
    return [
        Step(f"pooling/{name}", Pools, cost, partial(_measure, subject, name))
        for name in (names[-1:] if subject.budget.name == "quick" else names)
    ]


def _images(subject):
    return max(subject.budget.images, _IMAGES)


def _measure(subject, name):
    weights, config = subject.weight_sets[name], subject.config.model
    found = branches(merge_model(subject.graph, weights).head)

    @jax.jit
    def last_map(weights, image):
        return merge_model(subject.graph, weights).backbone(image, False)[-1]

    train, whole, windowed = defaultdict(list), defaultdict(list), defaultdict(list)  # an item an image
    for index in range(_images(subject)):
        image, _ = subject.whole(index)
        x = last_map(weights, normalized(image))
        for crop in subject.crops:
            corners = places(subject.test_size, crop, seed=(subject.config.seed, index))
            parts = [last_map(weights, normalized(image[y : y + crop[0], z : z + crop[1]])) for y, z in corners]
            parts = jnp.concatenate(parts)
            for scale, _ in found:
                train[crop, scale].append(pooled_vectors(parts, scale))
                whole[crop, scale].append(pooled_vectors(x, scale))
                local = windowed_vectors(x, scale, parts.shape[1:3], align_corners=config.align_corners)
                windowed[crop, scale].append(local)

    def flat(x):
        return x.reshape(-1, x.shape[-1])

    def compared(crop, scale, layer, convolution):
        ours, *theirs = (np.stack(one[crop, scale]) for one in (train, whole, windowed))  # [images, k, c]
        unit = flat(ours).std(0, ddof=1)
        if convolution == "after":
            ours, *theirs = (np.asarray(layer.conv(one[:, :, None]))[:, :, 0] for one in (ours, *theirs))
            unit = flat(ours).std(0, ddof=1) if layer.norm is None else np.sqrt(layer.norm.var[...] + layer.norm.eps)
        unit = np.asarray(unit)
        shifts = [replace(shift(flat(ours), flat(x), unit), error=paired_error(ours, x, unit)) for x in theirs]
        return Pooled(name, crop, scale, *shifts, convolution)

    pooled = [
        compared(crop, scale, layer, convolution)
        for convolution in ("after", "before")
        for crop in subject.crops
        for scale, layer in found
    ]
    sizes = dict.fromkeys([*subject.crops, subject.test_size])
    geometry = [cells(scale, size, config.backbone.output_stride) for scale, _ in found for size in sizes]
    return Pools(tuple(geometry), tuple(pooled))


def places(image_size, crop, *, seed):
    """Top left corners [k,2] of crops: drawn, but evenly along both sides, as a Latin hypercube.

    What is in a scene depends on the height above all. Were all crops of an image drawn low, that would be the shift.
    """
    rng = np.random.default_rng(seed)
    strata = rng.permuted(np.tile(np.arange(_CROPS_PER_IMAGE), (2, 1)), axis=1).T
    shares = (strata + rng.random(strata.shape)) / _CROPS_PER_IMAGE
    return (shares * (np.array(image_size) - crop + 1)).astype(int)


def section(subject, results):
    """None for a network without pooled branches."""
    if not results:
        return None
    geometry = results[0].cells
    smallest, largest = (pick(one.scale for one in geometry) for pick in (min, max))
    of_largest = [one for one in geometry if one.scale == largest]
    pooled = [one for result in results for one in result.pooled]
    after = [one for one in pooled if one.convolution == "after"]
    clear = sum(_median(one.plain.mean) > 2 * _median(one.plain.error) for one in after)
    unit = "of its norm's" if subject.config.model.head.pool_norm else "of the crops'"
    images, crops = _images(subject), _images(subject) * _CROPS_PER_IMAGE
    words = (
        f"A cell of scale {largest} averages over up to {_each(of_largest, lambda one: hxw(one.pixels))} pixels of "
        f"{_each(of_largest, lambda one: hxw(one.image_size))}. As a share of the map it is the same at any size, "
        f"{1 / largest**2:.1%}, but for rounding outwards: {_each(of_largest, lambda one: f'{one.area:.1%}')}. What "
        "changes from training to test is how many pixels it is.\n\n"
        "A mean over more of the scene may be distributed otherwise. From crops to the whole image the mean of what a "
        f"branch's convolution gives moves, in the median channel, in units {unit} standard deviations:\n\n"
        f"{_moves(after)}.\n\n"
        f"Of these {len(after)} moves to the whole image {clear} are more than twice their error; a smaller one may be "
        f"chance. Errors are standard errors over {images} images; the {crops} crops of a size are out of the same "
        f"images, which are not rescaled as in training. The variance of scale {smallest} on whole images is that of "
        f"{images * smallest**2} vectors. `eval.pool_window` pools over windows of a given size at test."
    )
    caption = (
        f"Cells of scale {largest} on the crops and on the whole image; how far the pooled channels move (10 to 90 % "
        "of them, and the median), and the median error."
    )
    last = [one for one in after if one.weights == after[-1].weights]
    figure = draw(1, 2, partial(_paint, of_largest, last), height=3.0)
    return Section("Pooling", words, (_cell_table(geometry), _shift_table(pooled)), figure, caption)


def _moves(pooled):
    def move(found):
        return f"{_median(found.mean):.2f} ± {_median(found.error):.2f}"

    def spread(found):
        return f"{_median(found.variance):.2f}"

    sentences = []
    for weights, crop in dict.fromkeys((one.weights, one.crop) for one in pooled):
        these = [one for one in pooled if (one.weights, one.crop) == (weights, crop)]
        sentences.append(
            f"crops of {hxw(crop)}, {weights} weights, scale{'s' * (len(these) > 1)} "
            f"{_each(these, lambda one: str(one.scale))}: by {_each(these, lambda one: move(one.plain))} on the whole "
            f"image and {_each(these, lambda one: move(one.windowed))} with a window of the crop's size; the variance "
            f"is {_each(these, lambda one: spread(one.plain))} and {_each(these, lambda one: spread(one.windowed))} "
            "times the crops'"
        )
    return ";\n\n".join(sentences)


def _each(items, text):
    return ", ".join(map(text, items))


def _median(values):
    return _quantiles(values, 0.5)[0]


def _quantiles(values, *shares):
    """Over the channels that have a value; nan where none has."""
    values = values[np.isfinite(values)]
    return [float(q) for q in np.quantile(values, shares)] if values.size else [float("nan")] * len(shares)


def _cell_table(geometry):
    rows = tuple(
        (
            one.scale, hxw(one.image_size), hxw(one.size), *("-".join(map(str, side)) for side in one.sides),
            one.overlap, *one.pixels, one.area,
        )
        for one in geometry
    )  # fmt: skip
    columns = ("scale", "image", "map", "rows", "columns", "overlap", "pixels down", "pixels across")
    return Table("pool_cells", (*columns, "share of the map"), rows)


def _shift_table(pooled):
    rows = tuple(
        (
            one.weights, hxw(one.crop), one.scale, one.convolution, test, *_quantiles(found.mean, 0.5, 0.9),
            _median(found.error), *_quantiles(found.variance, 0.1, 0.5, 0.9),
        )
        for one in pooled
        for test, found in (("whole image", one.plain), ("window", one.windowed))
    )  # fmt: skip
    columns = ("weights", "crop", "scale", "convolution", "test", "shift, median", "shift, 90 %", "error, median")
    return Table("pool_shift", (*columns, *(f"variance, {share}" for share in ("10 %", "median", "90 %"))), rows)


def _paint(geometry, pooled, axes):
    ax = axes[0, 0]
    for one, colour in zip(geometry[::-1], COLOURS, strict=False):
        h, w = one.image_size
        for axis, line in ((0, ax.hlines), (1, ax.vlines)):
            edges = adaptive_bins(one.size[axis], one.scale).ravel() / one.size[axis] * (h, w)[axis]
            line(edges, 0, (w, h)[axis], color=colour, linewidth=0.8)
        ax.plot([], [], color=colour, label=hxw(one.image_size))
    ax.set(title=f"cells of scale {geometry[0].scale}", aspect="equal", xlabel="pixels")
    ax.invert_yaxis()
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=len(geometry), handlelength=1, columnspacing=1)
    ax = axes[0, 1]
    for offset, pick, colour, label in (
        (-0.2, lambda one: one.plain, COLOURS[1], "whole image"),
        (0.2, lambda one: one.windowed, COLOURS[0], "window"),
    ):
        low, middle, high = zip(*(_quantiles(pick(one).mean, 0.1, 0.5, 0.9) for one in pooled), strict=True)
        place = np.arange(len(pooled)) + offset
        ax.vlines(place, low, high, color=colour)
        ax.plot(place, middle, "o", color=colour, markersize=4, label=label)
        ax.plot(place, [_median(pick(one).error) for one in pooled], "_", color=colour, markersize=8)
    ax.plot([], [], "_", color="grey", label="error")
    ax.set(xticks=range(len(pooled)), ylabel="shift, deviations", xlabel="crop: scale", ylim=(0, None))
    ax.set_xticklabels([f"{hxw(one.crop)}: {one.scale}" for one in pooled], rotation=60, ha="right")
    ax.legend()
