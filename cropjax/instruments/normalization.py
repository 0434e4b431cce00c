"""Normalisation: which norm a network has, and how much the statistics of a batch vary.

A BatchNorm's mean over n positions would vary by sigma^2 / n if the positions were independent (Ioffe & Szegedy 2015,
arXiv 1502.03167). Neighbours on a map are not: n_eff = sigma^2 / Var(mean), the number of independent samples that
would vary as much, says what a larger crop is worth. sigma^2 is the variance within a batch and between batches: by
the one within alone, a batch of two constant images would count as one sample. On a branch that is pooled to s x s
cells a batch of b images has b s^2 values a channel: with two, the normalised ones are +1 and -1, whatever the images
show.
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from flax import nnx

from cropjax.instruments.pooling import branches
from cropjax.instruments.subject import Step, batch_statistics, normalized
from cropjax.models.layers import BatchNorm, GroupNorm, LayerNorm
from cropjax.ops.pool import adaptive_average_pool
from cropjax.pages.figure import COLOURS, draw
from cropjax.pages.section import Section, Table, hxw
from cropjax.step import merge_model, network_input

BATCHES = {"quick": (2,), "full": (2, 8)}  # images; 2 is the study's, 8 upstream's
POOLED_BATCHES = (2, 4, 8)
POOLED = "pooled branches"


@dataclass(frozen=True)
class Noise:
    """Of one BatchNorm, between batches of `positions` values a channel.

    `mean` is the standard deviation of the batch's mean in units of the layer's own, `variance` that of the batch's
    variance as a share of it, both root mean squares over channels; `effective` is n_eff, and `without` [batches] the
    logarithm of what it would be without each of the batches.
    """

    name: str
    positions: int
    mean: float
    variance: float
    effective: float
    without: np.ndarray

    @property
    def error(self):
        """The relative standard error of `effective`."""
        return jackknife(self.without)


def jackknife(without):
    """The standard error of a number from its values `without` [batches] each of the batches (Efron 1982)."""
    count = len(without)
    return float(np.sqrt((count - 1) / count * np.square(without - without.mean()).sum()))


def noise(name, positions, means, variances):
    """The `Noise` of batch statistics `means` and unbiased `variances` [batches,c]; at least three batches."""

    def total(means, variances):
        return variances.mean(0) * (positions - 1) / positions + means.var(0, ddof=1)

    def effective(means, variances):
        return total(means, variances).sum() / np.maximum(means.var(0, ddof=1).sum(), 1e-30)

    count = len(means)
    kept = [np.arange(count) != k for k in range(count)]
    without = np.log([effective(means[rows], variances[rows]) for rows in kept])
    own, within = (np.maximum(x, 1e-30) for x in (total(means, variances), variances.mean(0)))
    return Noise(
        name,
        positions,
        float(np.sqrt((means.var(0, ddof=1) / own).mean())),
        float(np.sqrt((variances.var(0, ddof=1) / within**2).mean())),
        float(effective(means, variances)),
        without,
    )


@dataclass(frozen=True)
class PooledNorm:
    """A BatchNorm on a branch pooled to `scale` x `scale` cells, of batches of `images`: `values` a channel.

    `spread` is the root mean square of how far the training output is from +1 or -1 (before scale and bias), 0 where it
    says nothing but a sign; `told` the share of the variance of what it is given that its training output tells, by
    linear regression over all batches; `jump` the root mean square difference of the outputs in training and at test,
    in the same units; channel by channel, then the mean.
    """

    scale: int
    images: int
    values: int
    spread: float
    told: float
    jump: float


def pooled_norm(values, mean, var, eps, *, scale=1, images=0):
    """The `PooledNorm` of `values` [batches,n,c], what the norm is given, and its running `mean` and `var` [c]."""
    centred = values - values.mean(1, keepdims=True)
    train = centred / np.sqrt(np.square(centred).mean(1, keepdims=True) + eps)
    test = (values - mean) / np.sqrt(var + eps)
    flat = [x.reshape(-1, x.shape[-1]) for x in (train, values)]
    flat = [x - x.mean(0) for x in flat]
    power = np.square(flat[0]).mean(0) * np.square(flat[1]).mean(0)
    told = np.square((flat[0] * flat[1]).mean(0)) / np.maximum(power, 1e-30)
    return PooledNorm(
        scale,
        images,
        values.shape[1],
        float(np.sqrt(np.square(np.abs(train) - 1).mean())),
        float(told.mean()),
        float(np.sqrt(np.square(train - test).mean((0, 1))).mean()),
    )


@dataclass(frozen=True)
class Norms:
    """What of a network was found at one crop: its norms by kind and part, their noise, and its pooled norms."""

    crop: tuple[int, int]
    weights: str
    kinds: tuple[tuple[str, str, int], ...]  # part, kind, count
    noise: tuple[tuple[int, tuple[Noise, ...]], ...]  # images of a batch
    pooled: tuple[PooledNorm, ...]


def kinds(model):
    """How many norms of each kind a network has: ((part, kind, count), ...)."""
    found = {}
    for path, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm | GroupNorm | LayerNorm):
            key = str(path[0]), type(module).__name__
            found[key] = found.get(key, 0) + 1
    return tuple((*key, count) for key, count in found.items())


def positions(graph, weights, images):
    """How many values a channel every BatchNorm is given by `images` in training: {name: count}, in their order."""
    counts = {}

    class Counting(BatchNorm):
        def __call__(self, x, train):
            counts[self.name] = int(np.prod(x.shape[:3]))
            return super().__call__(x, train)

    def run(weights, images):
        model = merge_model(graph, weights)
        for _, module in nnx.iter_modules(model):
            if isinstance(module, BatchNorm):
                module.__class__ = Counting
        return model(images, train=True, key=jax.random.key(0)).logits

    jax.eval_shape(run, weights, images)
    return counts


def steps(subject):
    """A step a crop and set of weights: `budget.batches` training batches, and crops for the pooled norms."""
    sizes = BATCHES[subject.budget.name]
    find = batch_statistics(subject.config)
    return [
        Step(
            f"normalization/{crop[0]}x{crop[1]}/{name}",
            Norms,
            (sum(sizes) + 1) * subject.budget.batches * crop[0] * crop[1] / 1e6,
            partial(_measure, subject, find, crop, name, sizes),
        )
        for crop in subject.crops
        for name in subject.weight_sets
    ]


def _measure(subject, find, crop, name, sizes):
    weights = subject.weight_sets[name]
    found = []
    for size in sizes:
        batches = subject.batches(crop, size)
        images = [network_input(next(batches), np.float32) for _ in range(subject.budget.batches)]
        batches.close()
        statistics = [_by_name(find(weights["params"], batch)) for batch in images]
        counts = positions(subject.graph, weights, images[0])
        found.append(
            (
                size,
                tuple(
                    noise(
                        norm, counts[norm], *(np.stack([one[norm][k] for one in statistics]) for k in ("mean", "var"))
                    )
                    for norm in counts
                ),
            )
        )
    model = merge_model(subject.graph, weights)
    return Norms(crop, name, kinds(model), tuple(found), _pooled(subject, name, crop))


def _by_name(statistics):
    """{path of the norm: {"mean", "var"}} of the tree of statistics."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(statistics):
        *norm, kind = (str(entry.key) for entry in path)
        found.setdefault(".".join(norm), {})[kind] = np.asarray(leaf, np.float64)
    return found


def _pooled(subject, name, crop):
    """The pooled norms, of crops that pass the backbone with its running statistics.

    Drawn weights have norms whose running statistics are of two images: those of all these crops stand for them. They
    hold the batch itself, so that with few crops the jump comes out too small.
    """
    weights = subject.weight_sets[name]
    model = merge_model(subject.graph, weights)
    found = [(scale, layer) for scale, layer in branches(model.head) if layer.norm is not None]
    if not found:
        return ()

    @jax.jit
    def last_map(weights, image):
        return merge_model(subject.graph, weights).backbone(image, False)[-1]

    count = max(subject.budget.batches, max(POOLED_BATCHES))
    values = {scale: [] for scale, _ in found}
    for index in range(count):
        x = last_map(weights, normalized(subject.crop(index, crop)[2]))
        for scale, layer in found:
            pooled = layer.conv(adaptive_average_pool(x, scale))
            values[scale].append(np.asarray(pooled, np.float64).reshape(scale**2, -1))
    results = []
    for scale, layer in found:
        every = np.concatenate(values[scale])
        mean, var = every.mean(0), every.var(0)
        if name == "trained":
            mean, var = np.asarray(layer.norm.mean[...]), np.asarray(layer.norm.var[...])
        for images in POOLED_BATCHES:
            batches = len(values[scale]) // images
            if batches < 2:  # one batch's output is linear in its values: it would tell everything
                continue
            grouped = np.stack(values[scale][: batches * images]).reshape(batches, images * scale**2, -1)
            results.append(pooled_norm(grouped, mean, var, layer.norm.eps, scale=scale, images=images))
    return tuple(results)


def part_of(name):
    """The stage of a backbone or the head that a norm belongs to."""
    words = name.split(".")
    if words[0] != "backbone":
        return words[0]
    stage = {"stem": "stem", "conv1": "stem"}.get(words[1])
    return stage or f"stage {int(words[2]) + 1}"


def section(subject, results):
    """Which norms there are, what a larger crop is worth to their statistics, and what pooled norms leave."""
    counted = ", ".join(f"{count} {kind} in the {part}" for part, kind, count in results[0].kinds)
    paragraphs = [f"The network has {counted}."]
    merged = {(r.weights, r.crop, images): by_part(norms) for r in results for images, norms in r.noise}
    for weights in subject.weight_sets:
        small, large = ((weights, crop, 2) for crop in (subject.crops[0], subject.crops[-1]))
        if not merged.get(small) or small == large:
            continue
        pixels = np.prod(large[1]) / np.prod(small[1])
        both = [part for part in merged[small] if part in merged[large] and part != POOLED]
        if not both:
            continue
        ratios = []
        for part in both:
            (_, before, error), (_, after, other) = merged[small][part], merged[large][part]
            ratios.append(f"{after / before:.2f} ± {after / before * np.hypot(error, other):.2f} ({part})")
        share = max(merged[small][part][1] / merged[small][part][0] for part in both)
        every = next(r.noise[0][1] for r in results if (r.weights, r.crop) == small[:2])
        fixed, pooled = (sum(map(which, every)) for which in (_is_fixed, _is_pooled))
        paragraphs.append(
            f"{weights.capitalize()} weights, batches of 2: a crop of {hxw(large[1])} has {pixels:.2f} times the "
            f"pixels of {hxw(small[1])}, and the statistics are worth {', '.join(ratios)} times as many independent "
            f"samples, with standard errors from {subject.budget.batches} batches. "
            + _against_pixels(
                pixels,
                *(next(r.noise[0][1] for r in results if (r.weights, r.crop) == key[:2]) for key in (small, large)),
            )
            + f" At the smaller crop {share:.2%} of a part's positions count as independent, in the part where that is "
            "the most."
            + f" {fixed} of {len(every)} BatchNorms are left out: they vary less than independent positions would, "
            "because a norm before them has already fixed the batch's mean."
            * (fixed > 0)
            + f" So are {pooled} on pooled branches, which get as many values at any crop." * (pooled > 0)
        )
    for result in results:
        two = [one for one in result.pooled if one.values == 2]
        most = [max((x for x in result.pooled if x.scale == one.scale), key=lambda x: x.images) for one in two]
        for one, other in zip(two, most, strict=True):
            paragraphs.append(
                f"{hxw(result.crop)}, {result.weights} weights: a batch of 2 gives the norm of the branch that is "
                "pooled to one cell two values a channel. In training its output is then a sign: it is "
                f"{one.spread:.3f} away from +1 or -1, tells {one.told:.0%} of what varies, and jumps by "
                f"{one.jump:.2f} when running statistics take over. With {other.images} images these are "
                f"{other.told:.0%} and {other.jump:.2f}."
                + " Drawn weights have no running statistics of a training: those of all these crops, the batch's own "
                "among them, stand for them, which makes the jumps too small." * (result.weights == "drawn")
            )
    columns = ("weights", "crop", "images", "part", "positions", "independent", "relative error", "share")
    rows = tuple(
        (weights, hxw(crop), images, part, count, effective, error, effective / count)
        for (weights, crop, images), parts in merged.items()
        for part, (count, effective, error) in parts.items()
    )
    layer_rows = tuple(
        (
            r.weights,
            hxw(r.crop),
            images,
            one.name,
            one.positions,
            one.mean,
            one.variance,
            one.effective,
            one.error,
        )
        for r in results
        for images, norms in r.noise
        for one in norms
    )
    pooled_rows = tuple(
        (r.weights, hxw(r.crop), one.scale, one.images, one.values, one.spread, one.told, one.jump)
        for r in results
        for one in r.pooled
    )
    tables = (
        Table("norm_parts", columns, rows),
        Table(
            "norm_layers",
            ("weights", "crop", "images", "norm", "positions", "noise of mean", "of variance", "independent", "error"),
            layer_rows,
        ),
        Table(
            "pooled_norms",
            ("weights", "crop", "scale", "images", "values", "away from a sign", "told", "jump"),
            pooled_rows,
        ),
    )

    pooled = any(result.pooled for result in results)

    def paint(axes):
        for result, colour in zip(results, COLOURS * 2, strict=False):
            label = f"{hxw(result.crop)}, {result.weights}"
            _, norms = result.noise[0]
            effective = [np.nan if _is_fixed(one) else one.effective for one in norms]
            axes[0, 0].plot(effective, ".", color=colour, markersize=3, label=label)
            for scale in sorted({one.scale for one in result.pooled}):
                of_scale = [one for one in result.pooled if one.scale == scale]
                axes[0, 1].plot([one.values for one in of_scale], [one.jump for one in of_scale], "o-", color=colour,
                                markersize=3, label=label if scale == 1 else None)  # fmt: skip
        axes[0, 0].set(xlabel="BatchNorm, in order", ylabel="independent samples", yscale="log")
        if pooled:
            axes[0, 1].set(xlabel="values a channel", ylabel="jump to running statistics", xscale="log")
        for ax in axes[0]:
            ax.legend()

    caption = "Independent samples that a batch of 2 is worth, norm by norm, without those that another norm has fixed"
    caption += "; the jump of pooled norms at test, for scales and batches." if pooled else "."
    return Section(
        "Normalisation",
        "\n\n".join(paragraphs),
        tuple(table for table in tables if table.rows),
        draw(1, 1 + pooled, paint),
        caption,
    )


def by_part(norms):
    """{part: (positions, n_eff, relative error)}, means over the part's norms (of n_eff the geometric one).

    Without those that vary less than independent positions would, because a norm before them has fixed the batch.
    Norms on pooled branches are a part of their own: they get as many values at any crop.
    """
    parts = {}
    for one in norms:
        if not _is_fixed(one):
            parts.setdefault(POOLED if _is_pooled(one) else part_of(one.name), []).append(one)
    return {
        part: (
            float(np.mean([one.positions for one in found])),
            float(np.exp(np.mean([np.log(one.effective) for one in found]))),
            jackknife(np.mean([one.without for one in found], axis=0)),
        )
        for part, found in parts.items()
    }


def _against_pixels(pixels, small, large):
    """What the norms of two crops say together of a ratio of `pixels`; of norms that count at both."""
    pairs = [pair for pair in zip(small, large, strict=True) if not any(_is_fixed(x) or _is_pooled(x) for x in pair)]
    if not pairs:
        return "No norm counts at both crops."
    before, after = zip(*pairs, strict=True)
    ratio = np.exp(np.mean([np.log(b.effective / a.effective) for a, b in pairs]))
    error = np.hypot(*(jackknife(np.mean([x.without for x in found], axis=0)) for found in (before, after)))
    low, high = ratio * np.exp(-2 * error), ratio * np.exp(2 * error)
    verdict = "as many as the pixels, within the errors" if low <= pixels <= high else "not what the pixels promise"
    return f"All norms together: {ratio:.2f} times, {low:.2f} to {high:.2f} within two errors, {verdict}."


def _is_fixed(one):
    """By more than three errors: the n_eff of independent positions comes out above their number half of the time."""
    return one.effective > one.positions * math.exp(3 * one.error)


def _is_pooled(one):
    return "pool" in one.name
