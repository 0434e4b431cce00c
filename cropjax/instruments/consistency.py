"""Crop against whole: how far into a crop what lies outside of it is missed.

A crop and the whole image are run through the network, and what they say of the same pixels is compared by the distance
to the crop's border. A network that looks no further than r pixels gives the same from r pixels on: crops that overlap
by that much are joined exactly (Majurski & Bajcsy 2021, "Exact tile-based segmentation inference", J. Res. NIST
126:126009). One that pools over the image never does; here it is measured how near it comes.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cropjax.data.labels import IGNORE
from cropjax.instruments.subject import Step, normalized
from cropjax.ops.resize import resize_bilinear
from cropjax.pages.figure import COLOURS, draw
from cropjax.pages.section import Section, Table, hxw

BIN = 8  # pixels of distance
_NEAR = 0.1  # of the difference at the border over that in the middle: nearer to it than this is the middle's


@dataclass(frozen=True)
class Agreement:
    """A crop of `size` at `place` (y, x) against the whole image, by distance to those of its borders that are cuts.

    Bin i has the pixels between i and i + 1 times `BIN` from the cut: `count` of them, `difference`, the mean total
    variation (half of the sum of absolute differences of the class probabilities), `changed`, the share whose class is
    another, and the accuracies of `crop` and `whole`, nan where no pixel has a label.
    """

    size: tuple[int, int]
    place: tuple[int, int]
    count: np.ndarray
    difference: np.ndarray
    changed: np.ndarray
    crop: np.ndarray
    whole: np.ndarray

    def middle(self, values):
        """The mean of the pixels furthest from the cuts: of the last quarter of the bins."""
        last = slice(-(len(self.count) // 4 or 1), None)
        known = np.isfinite(values[last])
        return float(np.average(values[last][known], weights=self.count[last][known])) if known.any() else np.nan

    @property
    def context_radius(self):
        """Pixels from the cut at which the difference has come down to the `middle`'s, within a tenth of the way.

        None where there is no way down.
        """
        plateau = self.middle(self.difference)
        way = self.difference[0] - plateau
        if way <= 0:
            return None
        above = np.flatnonzero(self.difference > plateau + _NEAR * way)
        return int((above[-1] + 1) * BIN)

    @property
    def stride(self):
        """The step of a sliding window of this size that sees every pixel at least the context radius from a cut."""
        radius = self.context_radius
        return None if radius is None or 2 * radius >= min(self.size) else min(self.size) - 2 * radius


def distance_to_cut(size, place, whole):
    """Of each pixel of a crop the distance, in pixels, to the nearest border that is not one of the `whole`: [h,w].

    A pixel at a cut has 0; inf where there is no cut.
    """
    found = []
    for side, start, total in zip(size, place, whole, strict=True):
        index = np.arange(side, dtype=float)
        before = index if start else np.full(side, np.inf)
        after = index[::-1] if start + side < total else np.full(side, np.inf)
        found.append(np.minimum(before, after))
    return np.minimum(found[0][:, None], found[1][None])


def agreement(crop, whole, label, place):
    """The `Agreement` of class probabilities of a crop [h,w,k] at `place` with those of the whole image [H,W,k].

    `label` [H,W] holds train ids.
    """
    size = crop.shape[:2]
    part = tuple(slice(start, start + side) for start, side in zip(place, size, strict=True))
    whole_size, whole, label = whole.shape[:2], whole[part], label[part]
    distance = distance_to_cut(size, place, whole_size)
    finite = np.isfinite(distance)
    bins = (distance[finite] / BIN).astype(int)
    count = np.bincount(bins)

    def mean(values, weights=None):
        total = np.bincount(bins, values[finite] * (1 if weights is None else weights[finite]), len(count))
        over = count if weights is None else np.bincount(bins, weights[finite], len(count))
        return np.divide(total, over, out=np.full(len(count), np.nan), where=over > 0)

    classes, whole_classes = crop.argmax(-1), whole.argmax(-1)
    labelled = (label != IGNORE).astype(float)
    return Agreement(
        tuple(size),
        tuple(place),
        count,
        mean(np.abs(crop - whole).sum(-1) / 2),
        mean((classes != whole_classes).astype(float)),
        mean((classes == label).astype(float), labelled),
        mean((whole_classes == label).astype(float), labelled),
    )


@dataclass(frozen=True)
class Agreements:
    """The crops of one image under one set of weights."""

    weights: str
    crops: tuple[Agreement, ...]


def steps(subject):
    """A step an image: the whole of it once, and a crop of each size."""
    align_corners = subject.config.model.align_corners

    @jax.jit
    def probabilities(weights, image):
        logits = subject.logits(weights, image)
        logits = resize_bilinear(logits.astype(jnp.float32), image.shape[1:3], align_corners=align_corners)
        return jax.nn.softmax(logits)[0]

    def measure(name, index):
        weights = subject.weight_sets[name]
        image, label = subject.whole(index)
        whole = np.asarray(probabilities(weights, normalized(image)))
        found = []
        for crop in subject.crops:
            y, x = (_start(index, total, side) for total, side in zip(subject.test_size, crop, strict=True))
            part = np.asarray(probabilities(weights, normalized(image[y : y + crop[0], x : x + crop[1]])))
            found.append(agreement(part, whole, label, (y, x)))
        return Agreements(name, tuple(found))

    area = sum(h * w for h, w in (subject.test_size, *subject.crops))
    return [
        Step(f"consistency/{name}/{index}", Agreements, area / 1e6, partial(measure, name, index))
        for name in subject.weight_sets
        for index in range(subject.budget.images)
    ]


def _start(index, total, side, grid=32):
    """A place for a crop, the middle in the first image: a multiple of the largest stride, so that cells coincide."""
    most = (total - side) // grid
    return int(most // 2 if index == 0 else np.random.default_rng([index, total]).integers(most + 1)) * grid


def section(subject, results):
    """How far the cuts are felt, the stride that follows, and what the position in a crop does to the accuracy."""
    found = {}
    for result in results:
        for one in result.crops:
            if len(one.count):
                found.setdefault((result.weights, one.size), []).append(one)
    if not found:
        return None
    merged = {key: _merged(crops) for key, crops in found.items()}
    sentences = []
    for (weights, size), one in merged.items():
        sentence = (
            f"{hxw(size)}, {weights} weights: crop and whole image differ by {one.difference[0]:.3f} at a cut and by "
            f"{one.middle(one.difference):.3f} furthest from it"
        )
        if one.context_radius is None:
            sentence += "; the difference does not fall towards the middle."
        elif one.stride is None:
            sentence += (
                f"; it falls for {one.context_radius} pixels, to the middle of the crop: no stride frees it of cuts."
            )
        else:
            sentence += (
                f"; it has fallen after {one.context_radius} pixels, for which a stride of {one.stride} would do."
            )
        if weights == "trained":
            sentence += f" Accuracy is {one.crop[0]:.1%} at a cut and {one.middle(one.crop):.1%} furthest from it."
        sentences.append(sentence)
    words = (
        "What lies outside of a crop is missing, and a network feels it near the cut. The difference is the total "
        "variation between the class probabilities that the crop and the whole image give one pixel, from 0 to 1; "
        "borders of the crop that are borders of the image are no cuts.\n\n" + "\n\n".join(sentences)
    )
    if not any(weights == "trained" for weights, _ in merged):
        words += "\n\nThe weights are drawn: the differences say how far cuts reach, and accuracies would say nothing."
    columns = (
        "weights",
        "crop",
        "distance",
        "pixels",
        "difference",
        "class changed",
        "accuracy crop",
        "accuracy whole",
    )
    rows = tuple(
        (
            weights,
            hxw(size),
            i * BIN,
            *map(float, (one.count[i], one.difference[i], one.changed[i], one.crop[i], one.whole[i])),
        )
        for (weights, size), one in merged.items()
        for i in range(len(one.count))
    )
    summary = tuple(
        (weights, hxw(size), float(one.difference[0]), one.middle(one.difference), one.context_radius, one.stride)
        for (weights, size), one in merged.items()
    )

    def paint(axes):
        for ((weights, size), one), colour in zip(merged.items(), COLOURS * 2, strict=False):
            distance = (np.arange(len(one.count)) + 0.5) * BIN
            label = f"{hxw(size)}, {weights}"
            axes[0, 0].plot(distance, one.difference, color=colour, label=label)
            axes[0, 1].plot(distance, one.crop, color=colour, label=f"{label}: crop")
            axes[0, 1].plot(distance, one.whole, "--", color=colour, label="whole image")
        axes[0, 0].set(xlabel="pixels to the cut", ylabel="difference", ylim=(0, None))
        axes[0, 1].set(xlabel="pixels to the cut", ylabel="accuracy")
        for ax in axes[0]:
            ax.legend()

    return Section(
        "Crop against whole",
        words,
        (
            Table("context_radius", ("weights", "crop", "at the cut", "furthest", "context radius", "stride"), summary),
            Table("consistency", columns, rows),
        ),
        draw(1, 2, paint),
        "Difference of the predictions, and their accuracy, against the distance to the crop's cuts.",
    )


def _merged(crops):
    """The mean of crops of one size, each bin by its pixels; bins that not all of them have are left out."""
    length = min(len(one.count) for one in crops)
    count = sum(one.count[:length] for one in crops)

    def mean(name):
        return np.average(
            [getattr(one, name)[:length] for one in crops], axis=0, weights=[one.count[:length] for one in crops]
        )

    return Agreement(crops[0].size, crops[0].place, count, *map(mean, ("difference", "changed", "crop", "whole")))
