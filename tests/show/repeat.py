"""Evaluates a run's checkpoint twice on one device and once on four virtual ones, and compares every pixel.

    python tests/show/repeat.py --config configs/demo.py:segnext --workdir runs/demo_segnext

Prints whether the two confusion matrices are equal, the share of pixels that differ on four devices, and the largest
distance between the two best logits at one of those; exits with 1 if a bound is missed (equal; 1e-5; 1e-3).
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from absl import flags

from cropjax import commandline
from cropjax.config import build_source
from cropjax.evaluate import evaluate
from cropjax.inference import Inference
from cropjax.ops.normalize import normalize
from cropjax.ops.resize import resize_bilinear
from cropjax.restore import restore_run
from cropjax.sharding import local_mesh, make_mesh
from cropjax.step import merge_model

RECORD = flags.DEFINE_string("record", None, "Write this process's confusion matrix and predictions here.")
PIXELS, MARGIN = 1e-5, 1e-3


def record(config, workdir, path):
    mesh = make_mesh(**config.mesh)
    _, graph, state = restore_run(config, workdir, "best", mesh)
    source, ids = build_source(config, "eval"), []

    class Recording(Inference):
        def ids(self, *what):
            found = super().ids(*what)
            ids.append(np.asarray(found))
            return found

    mode = config.eval.modes[0]
    with config.unlocked():
        config.eval.modes = (mode,)
    scores = evaluate(Recording(graph, config, local_mesh(mesh)), state, source, config, mesh).scores
    np.savez(path, confusion=scores[mode].confusion, ids=np.concatenate(ids)[: len(source)])


def margins(config, workdir, different):
    """Distance of the two largest logits of the whole image at each pixel of `different` bool [n,h,w]."""
    _, graph, state = restore_run(config, workdir, "best", make_mesh(**config.mesh))
    source = build_source(config, "eval")

    @jax.jit
    def logits(image):
        found = merge_model(graph, state)(normalize(image[None])).logits
        return resize_bilinear(found, image.shape[:2], align_corners=config.model.align_corners)[0]

    for i in np.flatnonzero(different.any((1, 2))):
        best = np.sort(np.asarray(logits(source[int(i)]["image"]))[different[i]], -1)
        yield from best[:, -1] - best[:, -2]


def compare(config, workdir):
    if RECORD.value:
        record(config, workdir, RECORD.value)
        return
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for i, devices in enumerate((1, 1, 4)):
            path = Path(folder, f"{i}.npz")
            environment = os.environ | {
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
                "PJRT_NPROC": "256",  # threads: with one a device, devices can wait for each other for ever
            }
            command = [sys.executable, *sys.argv, f"--record={path}"]
            subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
            found.append(dict(np.load(path)))
    first, second, four = found
    equal = np.array_equal(first["confusion"], second["confusion"]) and np.array_equal(first["ids"], second["ids"])
    different = first["ids"] != four["ids"]
    margin = max(margins(config, workdir, different), default=0.0)
    print(f"{len(different)} images; twice on one device: {'the same' if equal else 'DIFFERENT'}")
    print(f"on four: {different.sum()} of {different.size} pixels differ, share {different.mean():.1e}")
    print(f"largest distance of the two best logits at one of them: {margin:.1e}")
    sys.exit(not (equal and different.mean() <= PIXELS and margin < MARGIN))


if __name__ == "__main__":
    commandline.run(compare)
