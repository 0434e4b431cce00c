"""Valid taps: how many of a dilated kernel's taps lie inside the map, and what the others would have been worth.

Chen et al. 2017, "Rethinking atrous convolution for semantic image segmentation" (arXiv 1706.05587, section 3.3 and
figure 4): as the rate comes near to the size of the map, ever more positions see the padding by all taps but the
centre's, and the kernel degenerates to 1x1. A network that is trained on crops and tested on whole images is given
taps at test that training has hardly used.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cropjax.instruments.reach import convolutions, trace
from cropjax.instruments.subject import Step, normalized
from cropjax.pages.figure import COLOURS, draw
from cropjax.pages.section import Section, Table, hxw


@dataclass(frozen=True)
class ValidTaps:
    """Of a convolution on one map: `inside` int [h',w'], the taps that lie on the map for each output position.

    `share` [taps + 1] of the positions that have so many, `mean`, and the shares that have `full` kernels and that
    have the `centre` alone.
    """

    inside: np.ndarray
    share: np.ndarray
    mean: float
    full: float
    centre: float


def valid_taps(size, *, kernel, dilation, padding, stride=(1, 1)):
    """The `ValidTaps` of a convolution on a map of `size`; all pairs (rows, columns), `padding` a pair of pairs."""
    rows, columns = (
        _inside(*one) for one in zip(size, kernel, dilation, padding, stride, strict=True)
    )  # of each output row, the taps
    inside = np.multiply.outer(rows.sum(1), columns.sum(1))
    share = np.bincount(inside.ravel(), minlength=kernel[0] * kernel[1] + 1) / inside.size
    centre = (inside == 1) & np.multiply.outer(rows[:, kernel[0] // 2], columns[:, kernel[1] // 2])
    return ValidTaps(inside, share, float(inside.mean()), float(share[-1]), float(centre.mean()))


def _inside(size, kernel, dilation, padding, stride):
    """Whether each tap of each output position is on the map: bool [outputs, kernel]."""
    outputs = (size + sum(padding) - dilation * (kernel - 1) - 1) // stride + 1
    place = np.arange(outputs)[:, None] * stride + np.arange(kernel) * dilation - padding[0]
    return (place >= 0) & (place < size)


def tap_energy(x, kernel, *, dilation, padding, stride=(1, 1)):
    """What each tap adds to a convolution's result: the sum of squares of its part, over all that is there, [kh,kw].

    `x` [n,h,w,i] is the map; `kernel` [kh,kw,i,o], or [kh,kw,1,i] where every channel has its own. A tap outside of
    the map adds nothing. The parts of two taps need not be at right angles: the energies need not add up to the sum's.
    """
    kh, kw, i, o = kernel.shape
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    spans = [padded.shape[1 + k] - dilation[k] * ((kh, kw)[k] - 1) for k in (0, 1)]

    def energy(y, x):
        part = padded[:, y * dilation[0] :, x * dilation[1] :][:, : spans[0] : stride[0], : spans[1] : stride[1]]
        tap = kernel[y, x].astype(dtype)
        part = part.astype(dtype)
        return jnp.sum(jnp.square(part * tap[0] if i == 1 and o > 1 else part @ tap))

    return jnp.stack([jnp.stack([energy(y, x) for x in range(kw)]) for y in range(kh)])


@dataclass(frozen=True)
class Taps:
    """One dilated convolution on one input: its `ValidTaps`, and each tap's share [kh,kw] of the taps' energy."""

    name: str
    dilation: int
    size: tuple[int, int]
    valid: ValidTaps
    energy: np.ndarray


@dataclass(frozen=True)
class DilatedConvolutions:
    """All dilated convolutions of a network on images of one size, `taps` in order."""

    image_size: tuple[int, int]
    weights: str
    taps: tuple[Taps, ...]


def dilated_convolutions(function, weights, images):
    """The `Taps` of every convolution of `function(weights, images)` with a dilation above 1, energies by `images`."""
    layers = trace(function, weights, images.shape[1:3], spans=True).layers
    forms = {
        index: {"dilation": layer.dilation, "padding": layer.padding, "stride": layer.stride}
        for index, layer in enumerate(layers)
        if max(layer.dilation) > 1
    }

    @jax.jit
    def energies(weights, images):
        def look(index, x, kernel):
            return tap_energy(x, kernel, **forms[index]) if index in forms else None

        return [energy for energy in convolutions(function, weights, images, look) if energy is not None]

    found = []
    for index, energy in zip(forms, energies(weights, images) if forms else [], strict=True):
        layer = layers[index]
        valid = valid_taps(layer.input_size, kernel=layer.kernel, **forms[index])
        energy = np.asarray(energy, np.float64)
        name = layer.name.removeprefix("params.").removesuffix(".kernel")
        found.append(Taps(name, max(layer.dilation), layer.input_size, valid, energy / energy.sum()))
    return tuple(found)


def steps(subject):
    """On the crops and on the whole image."""

    def measure(weights, size):
        image = subject.whole(0)[0] if size == subject.test_size else subject.crop(0, size)[2]
        found = dilated_convolutions(subject.logits, subject.weight_sets[weights], normalized(image))
        return DilatedConvolutions(size, weights, found)

    return [
        Step(
            f"valid_taps/{size[0]}x{size[1]}/{weights}",
            DilatedConvolutions,
            size[0] * size[1] / 1e6,
            partial(measure, weights, size),
        )
        for weights in subject.weight_sets
        for size in dict.fromkeys([*subject.crops, subject.test_size])
    ]


def section(subject, results):
    """None for a network without dilated convolutions."""
    if not any(result.taps for result in results):
        return None
    columns = ("convolution", "rate", "image", "map", "weights", "mean taps", "all", "centre only", "centre's energy")
    rows = tuple(
        (
            taps.name, taps.dilation, hxw(result.image_size), hxw(taps.size), result.weights, taps.valid.mean,
            taps.valid.full, taps.valid.centre, float(taps.energy[tuple(k // 2 for k in taps.energy.shape)]),
        )
        for result in results
        for taps in result.taps
    )  # fmt: skip
    weights = results[-1].weights
    shown = [result for result in results if result.weights == weights]
    widest = max(range(len(shown[0].taps)), key=lambda i: shown[0].taps[i].dilation)
    of_widest = [(result.image_size, result.taps[widest]) for result in shown]
    name, rate = of_widest[0][1].name, of_widest[0][1].dilation
    sentences = [
        f"on {hxw(size)} (a map of {hxw(taps.size)}) it has {taps.valid.mean:.2f} of 9 taps inside on average, all "
        f"of them at {taps.valid.full:.0%} of the positions and the centre alone at {taps.valid.centre:.0%}, and the "
        f"centre gives {float(taps.energy[1, 1]):.0%} of the taps' energy"
        for size, taps in of_widest
    ]
    words = (
        "A tap that lies outside of the map multiplies padding. The widest kernel here is "
        f"{name}, rate {rate}: {'; '.join(sentences)} ({weights} weights).\n\n"
        "What a tap has not seen in training it has not learned: the larger the step from the crop to the test image, "
        "the more of the kernel is used at test that was multiplied with zeros before."
    )

    def paint(axes):
        for ax, (size, taps) in zip(axes[0], of_widest, strict=True):
            picture = ax.imshow(taps.valid.inside, vmin=1, vmax=9)
            ax.set(title=f"{hxw(size)}: {taps.valid.mean:.2f}", xticks=[], yticks=[])
        axes[0, 0].figure.colorbar(picture, ax=list(axes[0]), label="taps inside", shrink=0.8)
        for ax, (_, taps) in zip(axes[1], of_widest, strict=True):
            ax.bar(range(10), taps.valid.share, color=COLOURS[0])
            ax.set(xlabel="taps inside", xticks=range(1, 10, 2), ylim=(0, 1))
        axes[1, 0].set_ylabel("share of positions")

    caption = f"{name}, rate {rate}: taps inside at each position of the map, their mean, and how they are distributed."
    tables = Table("valid_taps", columns, rows), _tap_by_tap(results)
    return Section("Valid taps", words, tables, draw(2, len(of_widest), paint), caption)


def _tap_by_tap(results):
    places = [f"{y},{x}" for y in (-1, 0, 1) for x in (-1, 0, 1)]
    rows = tuple(
        (taps.name, taps.dilation, hxw(result.image_size), result.weights, *map(float, taps.energy.ravel()))
        for result in results
        for taps in result.taps
    )
    return Table("tap_energy", ("convolution", "rate", "image", "weights", *places), rows)
