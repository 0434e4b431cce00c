"""Full-size networks as exported files: what they weigh and how far they are off. For docs/export.md.

    python tests/show/exported.py deeplab_512x1024 [512x1024] [float32,int8] [PYTHON]

With PYTHON, of an environment that has jax, numpy and onnxruntime and no cropjax, the files are also run there.
"""

import platform
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from cropjax.config import build_model
from cropjax.export import FORMATS, difference, networks, stored
from cropjax.sharding import make_mesh
from cropjax.step import split_model

CONFIGS = Path(__file__).parents[2] / "configs"


def main(name, size="512x1024", dtypes="float32,bfloat16,int8", python=None):
    jax.config.update("jax_platforms", "cpu")
    config = runpy.run_path(CONFIGS / f"{name}.py")["get_config"]()
    graph, weights = split_model(build_model(config))
    rng = np.random.default_rng(0)  # scales that start at zero would hide what they scale
    weights = jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape).astype("f") * np.where(x, x, 0.2), weights)
    size = tuple(map(int, size.split("x")))
    logits, _ = networks(graph, config, make_mesh(data=-1, space=1), size)
    images = rng.integers(0, 256, (1, *size, 3), np.uint8)
    print(f"{name} at {size[0]}x{size[1]}, jax {jax.__version__}, {platform.machine()}")
    exact = np.asarray(jax.jit(logits)(weights, images))
    for dtype in dtypes.split(","):
        kept = stored(weights, dtype)
        live = np.asarray(jax.jit(logits)(kept, images))
        print(
            f"{dtype}: rounding moves logits by {difference(exact, live):.1e} of the largest, {np.abs(live).max():.3g}"
        )
        for kind, (write, run) in FORMATS.items():
            began = time.time()
            content = write(logits, kept, size)
            written = time.time()
            off = difference(live, run(content, images))
            print(
                f"  {kind}: {len(content) / 1e6:.1f} MB, off by {off:.1e}, written in {written - began:.0f} s, run for "
                f"the first time in {time.time() - written:.0f} s",
                flush=True,
            )
            if python:
                run_without_us(python, f"{name}_{dtype}.{kind}", content, images, live)


def run_without_us(python, name, content, images, logits):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, name).write_bytes(content)
        np.savez(Path(folder, "expected.npz"), images=images, logits=logits)
        script = Path(__file__).parents[1] / "run_exported.py"
        subprocess.run([python, script, "expected.npz", name], cwd=folder, check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main(*sys.argv[1:])
