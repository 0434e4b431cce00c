"""Factorisation: how much of its map SegNeXt's head keeps in so few bases, and how many of them it uses.

Geng et al. 2021, "Is attention better than matrix decomposition?" (arXiv 2109.04553): the map X [positions, channels]
in front is replaced by C B', which is of low rank, so that positions speak to each other. No approximation of rank r
is nearer to X than that by its r largest singular values (Eckart & Young 1936): that is the floor of the error.
"""

from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import jax
import numpy as np

from cropjax.instruments.attention_reach import entropy
from cropjax.instruments.subject import Step, normalized
from cropjax.models.segnext import EVALUATION_SEED
from cropjax.ops.nmf import draw_bases, factorize
from cropjax.pages.figure import COLOURS, draw
from cropjax.pages.section import Section, Table, hxw
from cropjax.step import merge_model

_SEEDS = 5  # of the bases; the first is the network's own
_factorize = jax.jit(factorize, static_argnums=2)


@dataclass(frozen=True)
class Fit:
    """How well coefficients times bases [s,r] approximate one matrix; s are the seeds that the bases were drawn from.

    `error` [s] is |X - C B'| / |X|; `floor` [r] the least that ranks 1 to r can reach. `energy` [s,r] is the share of
    |c_i|^2 |b_i|^2 that each base carries, from the largest down; bases are not at right angles, so two may carry the
    same. `spectrum` [s,r] is the share of the squares of the approximation's singular values, which counts such bases
    once. `change` [s] is how far each approximation lies from the first, as a share of that.
    """

    error: np.ndarray
    floor: np.ndarray
    energy: np.ndarray
    spectrum: np.ndarray
    change: np.ndarray


def fit(x, bases, steps):
    """The `Fit` of `x` [p,d], not negative, from each of `bases` [s,d,r], refined `steps` times. Of zeros all is 0."""
    wide = np.asarray(x, np.float64)
    size = np.linalg.norm(wide)
    found, first = [], None
    for one in bases:
        factors = _factorize(x[None], one[None], steps)
        c, b = (np.asarray(factor[0], np.float64) for factor in factors)
        y = c @ b.T
        first = y if first is None else first
        values = np.linalg.svd(np.linalg.qr(c)[1] @ np.linalg.qr(b)[1].T, compute_uv=False)
        values = np.pad(values, (0, c.shape[1] - len(values)))
        energy = np.sort(np.square(c).sum(0) * np.square(b).sum(0))[::-1]
        error, change = np.linalg.norm(wide - y), np.linalg.norm(y - first)
        found.append((
            _share(error, size), _share(energy, energy.sum()), _share(values**2, np.square(values).sum()),
            _share(change, np.linalg.norm(first)),
        ))  # fmt: skip
    error, energy, spectrum, change = map(np.array, zip(*found, strict=True))
    return Fit(error, floor(wide, bases.shape[-1]), energy, spectrum, change)


def floor(x, rank):
    """The least relative error that each rank from 1 to `rank` can reach on `x` [p,d], by its Gram matrix."""
    values = np.maximum(np.linalg.eigvalsh(x.T @ x)[::-1], 0)
    left = np.append(np.cumsum(values[::-1])[::-1], np.zeros(rank))[1 : rank + 1]
    return np.sqrt(_share(left, values.sum()))


def effective_rank(shares):
    """exp of the entropy of `shares` [...,r], which add up to one: r if they are equal, 1 if one has everything."""
    return np.exp(entropy(shares))


def _share(part, whole):
    return part / whole if whole else part * 0.0


@dataclass(frozen=True)
class Factorization:
    """The `Fit` of the map of `map_size` and `channels` that the head makes of image `image` of `image_size`."""

    weights: str
    image: int
    image_size: tuple[int, int]
    map_size: tuple[int, int]
    channels: int
    steps: int
    fit: Fit


def steps(subject):
    """None but for SegNeXt; one a size and image, in a full report for all weights."""
    if subject.config.model.name != "segnext":
        return []

    @jax.jit
    def look(weights, images):
        network = merge_model(subject.graph, weights)
        return network.head.squeezed(network.backbone(images, False), False)[1]

    names = list(subject.weight_sets)
    return [
        Step(
            f"factorization/{size[0]}x{size[1]}/{weights}/{image}",
            Factorization,
            size[0] * size[1] / 1e6,
            partial(_measure, subject, look, weights, image, size),
        )
        for weights in (names[-1:] if subject.budget.name == "quick" else names)
        for size in dict.fromkeys([*subject.crops, subject.test_size])
        for image in range(subject.budget.images)
    ]


def _measure(subject, look, weights, image, size):
    pixels = subject.whole(image)[0] if size == subject.test_size else subject.crop(image, size)[2]
    _, *map_size, channels = (x := look(subject.weight_sets[weights], normalized(pixels))).shape
    head = subject.config.model.head
    bases = np.concatenate(
        [_bases(seed, channels, head.rank) for seed in range(EVALUATION_SEED, EVALUATION_SEED + _SEEDS)]
    )
    found = fit(x.reshape(-1, channels), bases, head.eval_steps)
    return Factorization(weights, image, tuple(size), tuple(map_size), channels, head.eval_steps, found)


def _bases(seed, channels, rank):
    """As the head draws them at test."""
    return draw_bases(jax.random.split(jax.random.key(seed))[0], 1, channels, rank)


def section(subject, results):
    """None for a network without a factorisation."""
    if not results:
        return None
    kinds = [list(kind) for _, kind in groupby(results, lambda r: (r.weights, r.image_size))]
    means = [_mean(kind) for kind in kinds]
    shown = [one for one in means if one.weights == means[-1].weights]
    rank = shown[0].fit.energy.shape[1]
    images = subject.budget.images
    words = [
        f"The head replaces its map, a matrix of positions times {shown[0].channels} channels, by one of rank {rank}: "
        f"coefficients times bases, none of them negative, refined from random ones in {shown[0].steps} steps. What is "
        "left out is the error; the floor is the error of the best matrix of that rank, whatever its signs.",
        *map(_sentence, shown),
        f"Bases that carry the map are counted by exp of the entropy of their energies, {rank} if all carry the same; "
        "directions in the same way by the singular values of the result, in which bases that are alike count once. "
        f"With {shown[0].weights} weights, {_SEEDS} draws of the bases, on {images} image{'s' * (images > 1)}.",
    ]
    columns = (
        "weights", "image", "map", "positions", "rank", "error", "spread of draws", "spread of images", "floor",
        "floor of rank 1", "bases", "directions", "change by draw",
    )  # fmt: skip
    rows = tuple(
        (
            one.weights, hxw(one.image_size), hxw(one.map_size), one.map_size[0] * one.map_size[1],
            one.fit.energy.shape[1], float(one.fit.error.mean()), float(one.fit.error.std()),
            float(np.std([of_image.fit.error.mean() for of_image in kind])), float(one.fit.floor[-1]),
            float(one.fit.floor[0]), *(float(effective_rank(s).mean()) for s in (one.fit.energy, one.fit.spectrum)),
            float(one.fit.change[1:].mean()),
        )
        for kind, one in zip(kinds, means, strict=True)
    )  # fmt: skip
    ranks = np.arange(1, rank + 1)
    by_rank = tuple(
        (one.weights, hxw(one.image_size), int(r), *map(float, values))
        for one in means
        for r, *values in zip(ranks, one.fit.floor, one.fit.energy.mean(0), one.fit.spectrum.mean(0), strict=True)
    )
    tables = (
        Table("factorization", columns, rows),
        Table("factorization_ranks", ("weights", "image", "rank", "floor", "energy", "spectrum"), by_rank),
    )

    def paint(axes):
        for one, colour in zip(shown, COLOURS, strict=False):
            axes[0, 0].plot(ranks, one.fit.floor, color=colour, label=hxw(one.image_size))
            axes[0, 0].plot([rank] * _SEEDS, one.fit.error, ".", color=colour)
            axes[0, 1].plot(ranks, one.fit.energy.mean(0), ".-", color=colour)
            axes[0, 2].plot(ranks, one.fit.spectrum.mean(0), ".-", color=colour)
        axes[0, 0].set(xlabel="rank", ylabel="relative error", ylim=(0, None))
        axes[0, 0].legend()
        axes[0, 1].set(xlabel="base", ylabel="share of the energy", ylim=(0, None))
        axes[0, 2].set(xlabel="direction", ylabel="share of the squares", yscale="log")

    caption = (
        f"The floor of the error by rank and, as dots, the factorisation's from {_SEEDS} draws; the energy of the "
        "bases and the squares of the result's singular values, from the largest down."
    )
    return Section("Factorisation", "\n\n".join(words), tables, draw(1, 3, paint), caption)


def _mean(kind):
    """Of the results for several images their mean."""
    names = ("error", "floor", "energy", "spectrum", "change")
    return replace(kind[0], fit=Fit(*(np.mean([getattr(one.fit, name) for one in kind], axis=0) for name in names)))


def _sentence(one):
    positions, found = one.map_size[0] * one.map_size[1], one.fit
    rank = found.energy.shape[1]
    bases, directions = (effective_rank(shares).mean() for shares in (found.energy, found.spectrum))
    return (
        f"On {hxw(one.image_size)} the matrix has {positions} positions ({hxw(one.map_size)}). The error is "
        f"{found.error.mean():.1%} of the map, give or take {found.error.std():.2%} by the draw of the bases; the "
        f"floor is {found.floor[-1]:.1%}, and {found.floor[0]:.1%} for a single base. {bases:.1f} of {rank} bases "
        f"carry the result, in {directions:.1f} directions. Another draw changes it by {found.change[1:].mean():.1%}."
    )
