"""How long training waits for a checkpoint: the state of a config in full size, saved as a run saves it.

    python tests/show/saves.py configs/deeplab_769.py configs/segformer_b3_512.py [--folder /tmp] [--saves 9]

`--folder` says on which disk. Weights and moments are noise, which does not compress. Prints a line a config: the
median, the fastest and the slowest of the saves, each with its copy, in seconds.
"""

import argparse
import runpy
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from cropjax.checkpoint import Checkpoints
from cropjax.config import build_model, build_optimizer
from cropjax.sharding import make_mesh
from cropjax.step import create_state, split_model


def noisy_state(config):
    """A state of `config` in NumPy, whose floating-point arrays are noise."""
    direction, _ = build_optimizer(config)
    state = create_state(split_model(build_model(config))[1], direction, make_mesh(data=1, space=1))
    rng = np.random.default_rng(0)

    def noise(x):
        return rng.standard_normal(x.shape, x.dtype) if x.dtype == np.float32 else np.asarray(x)

    return jax.tree.map(noise, state)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--folder", default=tempfile.gettempdir())
    parser.add_argument("--saves", type=int, default=9)
    options = parser.parse_args()
    for path in options.configs:
        state, seconds = noisy_state(runpy.run_path(path)["get_config"]()), []
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            checkpoints = Checkpoints(Path(folder) / "checkpoints", best="")
            checkpoints.hold_room(state)
            checkpoints.wait()
            for step in range(options.saves):
                began = time.monotonic()
                checkpoints.save(step, state)
                seconds.append(time.monotonic() - began)
            checkpoints.close()
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
        print(
            f"{path}: {size:.0f} MB, {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
