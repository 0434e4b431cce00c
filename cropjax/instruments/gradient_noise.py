"""The gradient noise scale: how many images a batch needs before its gradient is more signal than noise.

McCandlish et al. 2018, "An empirical model of large-batch training" (arXiv 1812.06162, section 2.2 and appendix A.1):
B = tr(Sigma) / |G|^2, of the gradient's covariance over single examples and its mean. Both are estimated without bias
from squared norms of gradients of small and of large batches. BatchNorm ties the images of a batch together, so that a
small batch is one that a device would get, with statistics of its own, and a large one the mean of many of them.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cropjax.config import build_balance, build_model, build_objective, build_source
from cropjax.instruments.subject import Step, drawn_weights
from cropjax.models.segnext import NORM_GROUPS
from cropjax.pages.figure import COLOURS, draw
from cropjax.pages.section import Section, Table, hxw
from cropjax.step import merge_model, network_input, segmentation_loss, split_model

BATCHES = (2, 4)  # images of a small batch; 2 is the study's
_GROUPS = 4  # of small batches, for the jackknife
PARTS = ("backbone", "head", "auxiliary")


@dataclass(frozen=True)
class NoiseScale:
    """`scale` = `noise` / `signal` in images, of tr(Sigma) for single images and |G|^2; `error` is its standard error.

    `signal` is an estimate and can come out negative where the noise is too large for so few batches; `scale` is inf
    then.
    """

    part: str
    scale: float
    error: float
    signal: float
    noise: float


def noise_scale(squares, gram, images, *, part=""):
    """The `NoiseScale` from the squared norms of small batches' gradients and the products of their groups' sums.

    `squares` [groups,batches]; `gram` [groups,groups] holds the inner products of the sums over each group. A small
    batch has `images`. The error is the jackknife's over groups.
    """
    groups, batches = squares.shape

    def estimate(rows):
        count = len(rows) * batches
        small = squares[rows].mean()
        large = gram[np.ix_(rows, rows)].sum() / count**2
        signal = (count * large - small) / (count - 1)
        noise = (small - large) / (1 - 1 / count) * images
        return signal, noise, noise / signal if signal > 0 else np.inf

    signal, noise, scale = estimate(np.arange(groups))
    parts = np.array([estimate(np.delete(np.arange(groups), k))[2] for k in range(groups)])
    error = np.inf
    if np.isfinite(parts).all():
        error = np.sqrt((groups - 1) / groups * np.square(parts - parts.mean()).sum())
    return NoiseScale(part, float(scale), float(error), float(signal), float(noise))


@dataclass(frozen=True)
class Scales:
    """Of one network at one crop: the scale of all parameters and of its parts; `narrow` for a twin of few channels.

    From `batches` batches of `images` images.
    """

    crop: tuple[int, int]
    images: int
    weights: str
    narrow: bool
    batches: int
    parts: tuple[NoiseScale, ...]


def narrow_twin(config):
    """The same layers with a quarter of the channels, or about an eighth in the heads."""
    config = config.copy_and_resolve_references()
    if "width" in config.model.backbone:
        config.model.backbone.width = max(config.model.backbone.width // 4, 2)
        config.model.head.channels = max(config.model.head.channels // 8, 8)
    else:
        config.model.backbone.widths = tuple(max(width // 4, 2) for width in config.model.backbone.widths)
        config.model.head.channels = max(config.model.head.channels // 8 // NORM_GROUPS, 1) * NORM_GROUPS
    config.model.auxiliary.channels = max(config.model.auxiliary.channels // 8, 4)
    return config


def small_gradient(config, graph, class_weights=()):
    """The jitted `(weights, batch, index) -> {part: gradient}` of the training loss of one small batch, flat arrays.

    `class_weights`, one a class, are those of `config.loss` unless given.
    """
    objective = build_objective(config, class_weights)

    @jax.jit
    def gradient(weights, batch, index):
        def loss(params):
            model = merge_model(graph, weights | {"params": params})
            total, _ = segmentation_loss(
                model,
                network_input(batch, jnp.float32),
                batch["label"],
                key=jax.random.fold_in(jax.random.key(config.seed), index),
                objective=objective,
                auxiliary_weight=config.loss.auxiliary_weight,
            )
            return total

        found = jax.grad(loss)(weights["params"])
        return {part: jnp.concatenate([x.ravel() for x in jax.tree.leaves(found[part])]) for part in found}

    return gradient


def steps(subject):
    """A step a crop and batch: under a quick budget of the narrow twin with drawn weights, else of each of the weights.

    Batches of any size see as many images, `budget.batches` a group or a few less.
    """
    narrow = subject.budget.name == "quick"
    seen = max(subject.budget.batches // max(BATCHES), 1) * max(BATCHES)
    return [
        Step(
            f"gradient_noise/{crop[0]}x{crop[1]}/{images}_images/{name}",
            Scales,
            3 * _GROUPS * seen * crop[0] * crop[1] / 1e6 / (10 if narrow else 1),
            partial(_measure, subject, crop, images, seen // images, name, narrow),
        )
        for crop in subject.crops
        for images in BATCHES
        for name in (["drawn"] if narrow else subject.weight_sets)
    ]


def _measure(subject, crop, images, per, name, narrow):
    """`per` batches a group."""
    batches = subject.batches(crop, images)
    if narrow:
        config = narrow_twin(subject.config)
        graph, weights = drawn_weights(config, network_input(next(batches), np.float32))
    else:
        config, weights = subject.config, subject.weight_sets[name]
        graph, _ = split_model(build_model(config))
    balanced = ()
    if config.loss.balance != "none":  # the trainer counts the classes then
        balanced, _ = build_balance(config, build_source(config, "train"))
    gradient = small_gradient(config, graph, balanced)
    names = [part for part in PARTS if part in weights["params"]]
    squares = {part: np.zeros((_GROUPS, per)) for part in names}
    sums = {part: [] for part in names}
    for group in range(_GROUPS):
        total = None
        for k in range(per):
            batch = {key: value for key, value in next(batches).items() if key != "distortion"}
            found = gradient(weights, batch, group * per + k)
            total = found if total is None else jax.tree.map(jnp.add, total, found)
            for part in names:
                squares[part][group, k] = jnp.vdot(found[part], found[part])
        for part in names:
            sums[part].append(np.asarray(total[part], np.float64))
    batches.close()
    grams = {part: np.array(sums[part]) @ np.array(sums[part]).T for part in names}
    parts = [noise_scale(sum(squares.values()), sum(grams.values()), images, part="all")]
    parts += [noise_scale(squares[part], grams[part], images, part=part) for part in names]
    return Scales(crop, images, name, narrow, _GROUPS * per, tuple(parts))


def section(subject, results):
    """The noise scale at each crop and batch, in images and in pixels."""
    sentences = []
    for one in results:
        whole = one.parts[0]
        pixels = whole.scale * one.crop[0] * one.crop[1] / 1e6
        found = (
            f"{whole.scale:.1f} images, with a standard error of {whole.error:.1f}, which is {pixels:.1f} megapixels"
            if np.isfinite(whole.scale + whole.error)
            else "more than these batches can tell: no signal was left above the noise"
        )
        sentences.append(
            f"crop of {hxw(one.crop)}, {one.batches} batches of {one.images}, {one.weights} weights: {found}"
        )
    narrow = any(one.narrow for one in results)
    words = (
        "A batch much smaller than the noise scale has a gradient that is mostly noise, one much larger wastes images. "
        + (
            "Measured on a twin of this network with a quarter of the channels, an eighth in the heads, and drawn "
            "weights, which says how the crops compare and not what the trained network needs. "
            if narrow
            else ""
        )
        + "Each batch has BatchNorm statistics of its own:\n\n"
        + ";\n\n".join(sentences)
        + "."
    )
    for name, images in dict.fromkeys((one.weights, one.images) for one in results):
        ends = [one for one in results if (one.weights, one.images) == (name, images)]
        small, large = (key(ends, key=lambda one: np.prod(one.crop)) for key in (min, max))
        low, high = small.parts[0], large.parts[0]
        if small is large or not np.isfinite([low.scale, low.error, high.scale, high.error]).all():
            continue
        apart = abs(low.scale - high.scale) > 2 * np.hypot(low.error, high.error)
        found = f"the smaller crop is {'noisier' if low.scale > high.scale else 'less noisy'}, by more than two errors"
        words += (
            f"\n\n{name.capitalize()} weights, batches of {images}, from a crop of {hxw(small.crop)} to "
            f"{hxw(large.crop)}: the scale in images changes by a factor of {high.scale / low.scale:.2f} while the "
            f"pixels of an image grow by {np.prod(large.crop) / np.prod(small.crop):.2f}: "
            + (f"{found}." if apart else "it is within the errors, these batches show no difference.")
        )
    columns = ("weights", "narrow", "crop", "images", "part", "noise scale", "standard error", "|G|^2", "tr(Sigma)")
    rows = tuple(
        (
            one.weights, "yes" if one.narrow else "no", hxw(one.crop), one.images, part.part,
            *(value if np.isfinite(value) else None for value in (part.scale, part.error)), part.signal, part.noise,
        )
        for one in results
        for part in one.parts
    )  # fmt: skip

    def paint(axes):
        for k, part in enumerate(("all", *PARTS)):
            values = [next((p for p in one.parts if p.part == part), None) for one in results]
            if None in values:  # not every network has an auxiliary head
                continue
            place = np.arange(len(results)) + 0.2 * (k - 1)
            ok = [i for i, v in enumerate(values) if np.isfinite(v.scale + v.error)]
            axes[0, 0].errorbar(
                place[ok], [values[i].scale for i in ok], [values[i].error for i in ok], fmt="o", capsize=3,
                color=COLOURS[k], label=part,
            )  # fmt: skip
        axes[0, 0].set(ylabel="noise scale, images", xticks=range(len(results)), ylim=(0, None))
        axes[0, 0].set_xticklabels([f"{hxw(one.crop)}\n{one.images} images\n{one.weights}" for one in results])
        axes[0, 0].legend()

    caption = "The noise scale of all parameters and of the parts, with its standard error."
    return Section("Gradient noise", words, (Table("gradient_noise", columns, rows),), draw(1, 1, paint), caption)
