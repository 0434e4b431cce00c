"""`python -m cropjax.data.browse --config FILE`: contact sheets of what the network sees in training.

Crops come from the pipeline that training reads, in its order, and through the step's own distortion and
normalisation, which is undone for the eye: padding has the mean colour. Beside each crop its label lies over it.
"""

import itertools
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from cropjax import commandline
from cropjax.config import build_balance, build_batches, build_source, label_set
from cropjax.errors import UserError
from cropjax.ops.normalize import MEAN, STD
from cropjax.panels import BACKGROUND, GAP, legend, overlay
from cropjax.progress import Progress
from cropjax.step import network_input

COLUMNS, ROWS = 3, 4  # of a sheet
WIDEST = 384  # pixels of a crop on a sheet


def crops(config, step=1):
    """The crops of training from those of `step` on, without end: (image uint8 [h,w,3], label uint8 [h,w])."""
    source = build_source(config, "train")
    with Progress(len(source), unit="image", label="count classes") as progress:
        _, repeats = build_balance(config, source, progress)
    batches = build_batches(config, source, start_step=step - 1, repeats=repeats)
    seen = jax.jit(lambda batch: (network_input(batch, jnp.float32) * STD + MEAN + 0.5).astype(jnp.uint8))
    try:
        for batch in batches:
            labels = batch.pop("label")
            yield from zip(np.asarray(seen(batch)), labels, strict=True)
    finally:
        batches.close()


def sheet(pairs, labels):
    """Crops beside their overlays, `COLUMNS` a row, and the classes below: uint8 [height, width, 3]."""
    cells = []
    for image, label in pairs:
        scale = min(1, WIDEST / image.shape[1])
        size = tuple(max(round(n * scale), 1) for n in label.shape[::-1])
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
        gap = np.full((len(image), GAP, 3), BACKGROUND, np.uint8)
        cells.append(np.concatenate([image, gap, overlay(image, label, labels), gap, gap], 1))
    blank = np.full_like(cells[0], BACKGROUND)
    cells += [blank] * (-len(cells) % COLUMNS)
    rows = [np.concatenate(cells[i : i + COLUMNS], 1) for i in range(0, len(cells), COLUMNS)]
    gap = np.full((2 * GAP, rows[0].shape[1], 3), BACKGROUND, np.uint8)
    parts = [part for row in rows for part in (row, gap)]
    return np.concatenate([*parts, legend(labels, rows[0].shape[1])])


def browse(config, out, count, step=1):
    """Writes `count` crops to `out`/000.png, 001.png, ..., in place of those that are there, and returns the paths."""
    out.mkdir(parents=True, exist_ok=True)
    for earlier in out.glob("[0-9][0-9][0-9].png"):
        earlier.unlink()
    taken, paths = itertools.islice(crops(config, step), count), []
    while pairs := list(itertools.islice(taken, COLUMNS * ROWS)):
        path = out / f"{len(paths):03d}.png"
        if not cv2.imwrite(str(path), sheet(pairs, label_set(config))[..., ::-1]):
            raise UserError(f"{path} cannot be written: name another --out")
        paths.append(path)
    return paths


def _command(config, workdir):
    given = flags.FLAGS
    paths = browse(config, Path(given.out or workdir / "browse").expanduser(), given.count, given.step)
    print(f"{given.count} crops in {', '.join(map(str, paths))}")


if __name__ == "__main__":
    flags.DEFINE_integer("count", COLUMNS * ROWS, "How many crops.", lower_bound=1)
    flags.DEFINE_integer("step", 1, "The training step whose batch comes first.", lower_bound=1)
    flags.DEFINE_string("out", None, "The folder of the sheets; default: <workdir>/browse.")
    commandline.run(_command)
