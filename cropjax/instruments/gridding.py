"""Gridding: which positions a stack of dilated kernels looks at, and how often.

A kernel of dilation d reads every d-th position only. A stack of them counts, for each position around an output, the
paths that lead there: the number of ways to add up one tap of each kernel. Yu & Koltun 2016; Wang et al. 2018,
"Understanding convolution for semantic segmentation" (arXiv 1702.08502, section 3.2), who name the artefact and propose
hybrid dilations (HDC). `contract_dilation` is mmsegmentation's: the first block of a dilated stage has half its rate.
"""

import re
from dataclasses import dataclass

import numpy as np

from cropjax.instruments.reach import trace
from cropjax.instruments.subject import Step
from cropjax.pages.figure import draw
from cropjax.pages.section import Section, Table

# Wang et al. 2018, section 4.1.3: what three blocks after another have in place of a stage's one rate.
HDC = {2: (1, 2, 3), 4: (3, 4, 5)}


@dataclass(frozen=True)
class Stack:
    """What an output of a stack of kernels looks at on the stack's input map.

    `paths` [s,s] counts how often, around the output's own position; `coverage` is the share of the s x s positions
    that are looked at at all. `evenness` compares the d x d grids into which positions fall by their remainders modulo
    the largest dilation d: exp of the entropy of the paths' distribution over the grids, over d^2. 1 is a stack that
    looks at all grids alike, 1 / d^2 one that never leaves its own.
    """

    name: str
    dilations: tuple[int, ...]
    shortcuts: bool
    paths: np.ndarray
    coverage: float
    evenness: float


def stack(name, dilations, *, shortcuts=False, kernel=3):
    """The `Stack` of square kernels of `dilations`, one after another, with a shortcut around each or without."""
    paths = np.ones((1, 1))
    for dilation in dilations:
        reach = dilation * (kernel // 2)
        grown = np.zeros([side + 2 * reach for side in paths.shape])
        for y in range(0, 2 * reach + 1, dilation):
            for x in range(0, 2 * reach + 1, dilation):
                grown[y : y + len(paths), x : x + len(paths)] += paths
        if shortcuts:
            grown[reach : reach + len(paths), reach : reach + len(paths)] += paths
        paths = grown
    return Stack(name, tuple(dilations), shortcuts, paths, float((paths > 0).mean()), _evenness(paths, max(dilations)))


def _evenness(paths, dilation):
    centre = len(paths) // 2
    phase = (np.arange(len(paths)) - centre) % dilation
    share = np.zeros((dilation, dilation))
    np.add.at(share, (phase[:, None], phase[None]), paths / paths.sum())
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()) / dilation**2)


def coverage(rows, columns):
    """For each position of a map [h,w] the share of the box around the pixels it sees that it does see.

    `rows` [h,H] and `columns` [w,W] are exact sets, as `trace` gives them.
    """
    return np.multiply.outer(_density(rows), _density(columns))


def _density(sets):
    first, last = sets.argmax(1), sets.shape[1] - 1 - sets[:, ::-1].argmax(1)
    return sets.sum(1) / (last - first + 1)


@dataclass(frozen=True)
class Gridding:
    """The stacks of a network's dilated stages, and the least and mean `coverage` of its maps at each crop."""

    stacks: tuple[Stack, ...]
    maps: tuple[tuple[str, int, int, float, float], ...]  # name, crop's rows and columns, least, mean


def dilated_stages(layers):
    """{stage: dilations of its 3x3 convolutions} of those stages of a backbone that have dilations, of `trace`."""
    found = {}
    for layer in layers:
        match = re.search(r"backbone\.stages\.(\d)\.", layer.name)
        if match and layer.kernel == (3, 3) and layer.groups == 1:
            found.setdefault(int(match[1]) + 1, []).append(layer.dilation[0])
    return {stage: tuple(dilations) for stage, dilations in found.items() if max(dilations) > 1}


def steps(subject):
    def measure():
        maps, stages = [], {}
        for crop in subject.crops:
            traced = trace(subject.maps, subject.weights, crop)
            stages = dilated_stages(traced.layers)
            for name, (rows, columns) in sorted(traced.maps.items(), key=lambda item: (item[0] == "logits", item[0])):
                share = coverage(rows, columns)
                maps.append((name, *crop, float(share.min()), float(share.mean())))
        stacks = []
        for name, patterns in _patterns(stages).items():
            for shortcuts in (False, True):
                stacks.append(stack(name, patterns, shortcuts=shortcuts))
        return Gridding(tuple(stacks), tuple(maps))

    return [Step("gridding", Gridding, 0.0, measure)]


def _patterns(stages):
    """{name: dilations} of each stage and of all together: as they are, with one rate a stage, and hybrid."""
    kinds = {
        "as built": lambda d: d,
        "one rate": lambda d: (max(d),) * len(d),
        "hybrid": lambda d: tuple(HDC[max(d)][i % 3] for i in range(len(d))),
    }
    patterns = {}
    for kind, make in kinds.items():
        made = {
            stage: make(dilations) for stage, dilations in stages.items() if kind != "hybrid" or max(dilations) in HDC
        }
        patterns |= {f"stage {stage}, {kind}": dilations for stage, dilations in made.items()}
        if len(made) > 1:
            patterns[f"stages {'-'.join(map(str, made))}, {kind}"] = sum(made.values(), ())
    return patterns


def section(subject, results):
    """None for a network without dilated stages."""
    (found,) = results
    if not found.stacks:
        return None
    worst = min(found.stacks, key=lambda s: s.evenness)
    built = [s for s in found.stacks if s.name.endswith("as built")][-2:]
    least = min(row[3] for row in found.maps)
    share = "all" if least == 1 else f"at least {least:.0%}"
    words = (
        "A dilated kernel reads every d-th position, and a stack of kernels of one rate never leaves the grid of its "
        f"own position: {worst.name} covers {worst.coverage:.0%} of its field by its convolutions alone and is "
        f"{worst.evenness:.0%} even. As built, {built[0].name.removesuffix(', as built')} is "
        f"{built[0].evenness:.0%} even by the convolutions alone and {built[1].evenness:.0%} with the shortcuts.\n\n"
        "None of this depends on the size of the map: a stack looks at the same offsets everywhere. Counted in pixels "
        f"of the image, with the stem and the stages before, the positions of the maps see {share} of the "
        f"box around what they see, at {' and '.join(f'{h}x{w}' for h, w in subject.crops)}."
    )
    columns = ("stack", "dilations", "shortcuts", "side", "coverage", "evenness")
    rows = tuple(
        (s.name, "-".join(map(str, s.dilations)), "yes" if s.shortcuts else "no", len(s.paths), s.coverage, s.evenness)
        for s in found.stacks
    )
    by_crop = ("map", "crop rows", "crop columns", "least coverage", "mean coverage")
    tables = Table("gridding", columns, rows), Table("gridding_maps", by_crop, found.maps)
    last = max(found.stacks, key=lambda s: len(s.dilations)).name.split(",")[0]
    shown = [s for s in found.stacks if s.name.startswith(last + ",") and not s.shortcuts]

    def paint(axes):
        for ax, one in zip(axes[0], shown, strict=True):
            ax.imshow(np.log1p(one.paths), extent=[-len(one.paths) / 2, len(one.paths) / 2] * 2)
            ax.set(title=one.name.split(", ")[1], xlabel="positions of the map")

    caption = (
        f"How often an output looks at each position (logarithm of the number of paths), {last}, without shortcuts."
    )
    return Section("Gridding", words, tables, draw(1, len(shown), paint, height=2.8), caption)
