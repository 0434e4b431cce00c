"""The effective receptive field: which pixels a position does depend on, by how much.

Luo et al. 2016, "Understanding the effective receptive field in deep convolutional neural networks" (NeurIPS): the
gradient of one position with respect to the image, |d output / d input|, is the mass that a pixel has there. For linear
chains it is the convolution of their kernels, near to a Gaussian whose width grows with the square root of the depth.
The position's channels are added up with random signs: with equal ones classes that compete would cancel.
"""

from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from cropjax.instruments.receptive_field import receptive_fields
from cropjax.instruments.subject import Step, check_map, normalized
from cropjax.pages.figure import COLOURS, draw
from cropjax.pages.section import Section, Table, hxw

SHARES = (0.5, 0.9, 0.95)
_PICTURE = 96  # positions a side of the mass that is kept


@dataclass(frozen=True)
class EffectiveField:
    """Of position `cell` (row, column) of a map, which looks at pixel `centre` (y, x), `border` pixels from the border.

    `theory` is the side of the receptive field, None where that grows with the image. Per image: `radius` [images,3],
    half the side of the square around `centre` that holds `SHARES` of the mass, and `sigma` [images,2], the standard
    deviations of the Gaussian of the same second moments, by rows and columns, in pixels. `mass` [h',w'] adds up to
    one: the mean over the images, in blocks. A position that depends on nothing has zeros.
    """

    map: str
    weights: str
    image_size: tuple[int, int]
    cell: tuple[int, int]
    centre: tuple[float, float]
    border: float
    theory: int | None
    radius: np.ndarray
    sigma: np.ndarray
    mass: np.ndarray

    @property
    def anisotropy(self):
        """The wider standard deviation over the other, of the image's mean."""
        sigma = self.sigma.mean(0)
        return float(sigma.max() / sigma.min()) if sigma.all() else 1.0


def gradient_mass(function):
    """The jitted `(weights, images [1,h,w,c], row, column) -> mass [h,w]` of a position of `function`'s map.

    Position and images are arguments: one compilation a size.
    """

    @jax.jit
    def mass(weights, image, row, column):
        def output(image):
            channels = function(weights, image)[0, row, column]
            signs = jax.random.rademacher(jax.random.key(0), channels.shape, channels.dtype)
            return jnp.vdot(signs, channels)

        return jnp.abs(jax.grad(output)(image)[0]).sum(-1)

    return mass


def effective_field(mass, weights, images, cell, map_size, *, theory=None, name="", weights_name=""):
    """The `EffectiveField` of `cell` of a map of `map_size`; `mass` is `gradient_mass`'s, `images` [n,h,w,c]."""
    size = images.shape[1:3]
    centre = tuple((i + 0.5) * whole / count - 0.5 for i, whole, count in zip(cell, size, map_size, strict=True))
    masses = [np.asarray(mass(weights, image[None], *cell), np.float64) for image in images]
    return EffectiveField(
        name,
        weights_name,
        tuple(size),
        tuple(cell),
        centre,
        min(*centre, *(side - 1 - place for side, place in zip(size, centre, strict=True))),
        theory,
        np.array([radius(one, centre) for one in masses]),
        np.array([deviation(one) for one in masses]),
        blocks(sum(one / (one.sum() or 1) for one in masses) / len(masses), _PICTURE),
    )


def radius(mass, centre, shares=SHARES):
    """Half the side, in pixels, of the squares around `centre` that hold `shares` of `mass` [h,w]."""
    y, x = (np.abs(np.arange(side) - place) for side, place in zip(mass.shape, centre, strict=True))
    distance = np.maximum(y[:, None], x[None]).ravel()
    order = np.argsort(distance, kind="stable")
    held = np.cumsum(mass.ravel()[order])
    return distance[order][np.searchsorted(held, np.array(shares) * held[-1] * (1 - 1e-12))]


def deviation(mass):
    """Standard deviations of `mass` [h,w] around its mean, by rows and columns, in pixels."""
    found = []
    for axis in (1, 0):
        along = mass.sum(axis) / (mass.sum() or 1)
        place = np.arange(len(along))
        found.append(np.sqrt(along @ (place - along @ place) ** 2))
    return np.array(found)


def blocks(mass, most):
    """`mass` [h,w] added up in square blocks, so that no side is longer than `most`."""
    block = -(-max(mass.shape) // most)
    padded = np.pad(mass, [(0, -side % block) for side in mass.shape])
    h, w = padded.shape
    return padded.reshape(h // block, block, w // block, block).sum((1, 3))


def grid(size, positions):
    """`positions` x `positions` cells of a map of `size`, from border to border."""
    rows, columns = (np.unique(np.linspace(0, side - 1, positions).round().astype(int)) for side in size)
    return [(int(row), int(column)) for row in rows for column in columns]


def steps(subject):
    """A step a position of the logits; of the backbone's last map, the one in the middle."""
    functions = {"logits": subject.logits, "stage 4": partial(_last_stage, subject)}
    masses = {name: gradient_mass(function) for name, function in functions.items()}
    theory = cache(partial(_theory, subject))
    found = []
    for crop in subject.crops:
        form = jax.ShapeDtypeStruct((1, *crop, 3), jnp.float32)
        for name, function in functions.items():
            _, *size, _ = check_map(function, subject.weights, form)
            cells = grid(size, subject.budget.positions) if name == "logits" else [tuple(side // 2 for side in size)]
            for weights in subject.weight_sets:
                for cell in cells:
                    measure = partial(_measure, subject, masses[name], theory, name, weights, crop, cell, tuple(size))
                    path = f"effective_field/{crop[0]}x{crop[1]}/{weights}/{name.replace(' ', '_')}/{cell[0]}-{cell[1]}"
                    cost = 3 * subject.budget.images * crop[0] * crop[1] / 1e6
                    found.append(Step(path, EffectiveField, cost, measure))
    return found


def _last_stage(subject, weights, images):
    return subject.maps(weights, images)["stage 4"]


def _theory(subject):
    """The side of the last stage's receptive field."""
    (field, *_), _ = receptive_fields(lambda w, x: {"stage 4": _last_stage(subject, w, x)}, subject.weights)
    return field.size[0]


def _measure(subject, mass, theory, name, weights, crop, cell, size):
    side = None if name == "logits" else theory()
    images = jnp.concatenate([normalized(subject.crop(i, crop)[2]) for i in range(subject.budget.images)])
    return effective_field(
        mass, subject.weight_sets[weights], images, cell, size, theory=side, name=name, weights_name=weights
    )


def section(subject, results):
    """How wide the mass is in the middle, how that changes towards the border, and what of the theory it is."""
    middles = [r for r in results if r.border == max(s.border for s in results if _same_kind(r, s))]
    sentences = []
    for one in middles:
        half, most, nearly = one.radius.mean(0)
        side = one.image_size[0]
        sentence = (
            f"{one.map}, {one.weights} weights, crop of {hxw(one.image_size)}: half of the mass lies within "
            f"{half:.0f} pixels of the position, 90 % within {most:.0f} and 95 % within {nearly:.0f}"
        )
        if one.theory:
            share = (2 * nearly + 1) / one.theory
            sentence += f"; the square of 95 % has {share:.0%} of the theoretical side of {one.theory}"
        sentences.append(f"{sentence}, {min((2 * nearly + 1) / side, 1):.0%} of the crop's side.")
    words = (
        "The effective field says how much a position depends on each pixel that it can see, by the gradient. "
        "In the middle of the crop:\n\n" + "\n\n".join(sentences) + "\n\n"
        "Near the border the square around a position reaches past the crop, and what would lie there is missing. "
        f"Means of {subject.budget.images} image{'s' if subject.budget.images > 1 else ''}."
    )
    columns = (
        "map", "weights", "crop", "y", "x", "to border", "50 %", "90 %", "95 %", "spread of 90 %", "sigma rows",
        "sigma columns", "anisotropy", "of the crop's area",
    )  # fmt: skip
    rows = tuple(
        (
            r.map, r.weights, hxw(r.image_size), *r.centre, r.border, *map(float, r.radius.mean(0)),
            float(r.radius[:, 1].std()), *map(float, r.sigma.mean(0)), r.anisotropy, _area(r),
        )
        for r in results
    )  # fmt: skip
    shown = [one for one in middles if one.map == "logits"]

    def paint(axes):
        for ax, one in zip(axes[0], shown, strict=False):
            h, w = one.image_size
            log = np.log10(np.maximum(one.mass / one.mass.max(), 1e-5))
            picture = ax.imshow(log, extent=(0, w, h, 0), vmin=-5, vmax=0)
            ax.set(title=f"{hxw(one.image_size)}, {one.weights}", xlabel="pixels")
        ax.figure.colorbar(picture, ax=list(axes[0, : len(shown)]), label="log10 of the mass", shrink=0.8)
        last = axes[0, -1]
        for one, colour in zip(shown, COLOURS * 2, strict=False):
            near = [r for r in results if _same_kind(r, one)]
            last.plot([r.border for r in near], [r.radius[:, 1].mean() for r in near], ".", color=colour,
                      label=f"{one.image_size[0]}, {one.weights}")  # fmt: skip
        last.set(xlabel="pixels to the border", ylabel="radius of 90 %")
        last.legend()

    caption = (
        "The mass of the logits' middle position, and the radius that holds 90 % against the distance to the border."
    )
    return Section(
        "Effective field",
        words,
        (Table("effective_field", columns, rows),),
        draw(1, len(shown) + 1, paint, height=2.6),
        caption,
    )


def _same_kind(a, b):
    return (a.map, a.weights, a.image_size) == (b.map, b.weights, b.image_size)


def _area(result):
    """The share of the crop's area that the square of 95 % covers."""
    reach = result.radius[:, 2].mean()
    sides = [
        min(place + reach, side - 1) - max(place - reach, 0) + 1
        for place, side in zip(result.centre, result.image_size, strict=True)
    ]
    return float(np.prod(sides) / np.prod(result.image_size))
