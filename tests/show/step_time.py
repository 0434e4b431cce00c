"""Start-up, time a step and peak memory of a config's training step on synthetic batches, one process a figure.

    python tests/show/step_time.py configs/deeplab_769.py [--steps 3]

Runs itself twice with one compilation cache, cold and then warm, and prints for each: seconds from the start of the
process to the dispatch of the first step, seconds a step (median), and the largest resident memory of the process.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BEGAN = time.monotonic()


def measure(path, steps):
    import jax
    import numpy as np

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from test_configs import load

    from cropjax.config import build_model, build_optimizer
    from cropjax.sharding import make_mesh, place_batch
    from cropjax.step import create_state, make_train_step, split_model

    _, config = load(Path(path))
    mesh = make_mesh(**config.mesh)
    graph, weights = split_model(build_model(config))
    direction, schedule = build_optimizer(config)
    step = make_train_step(graph, direction, schedule, config, mesh)
    state = create_state(weights, direction, mesh)
    rng, n, size = np.random.default_rng(0), config.train.batch_size, tuple(config.data.crop_size)
    batch = {
        "image": rng.integers(0, 256, (n, *size, 3), np.uint8),
        "label": rng.integers(0, 19, (n, *size), np.uint8),
        "size": np.full((n, 2), size, np.int32),
    }
    seconds = []
    for i in range(steps + 1):
        began = time.monotonic()
        state, report = step(state, place_batch(batch, mesh))
        if i == 0:
            dispatched = time.monotonic() - BEGAN
        jax.block_until_ready(report)
        seconds.append(time.monotonic() - began)
    print(
        json.dumps(
            {
                "dispatch": dispatched,
                "step": statistics.median(seconds[1:]),
                "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            }
        )
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help="measure in this process and print JSON")
    args = parser.parse_args()
    if args.measure:
        return measure(args.configs[0], args.steps)
    for path in args.configs:
        with tempfile.TemporaryDirectory() as cache:
            for kind in ("cold", "warm"):
                began = os.getloadavg()[0]
                command = [sys.executable, __file__, "--measure", "--steps", str(args.steps), path]
                environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
                result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                found = json.loads(result.stdout.splitlines()[-1])
                print(
                    f"{Path(path).stem:16} {kind}: first step dispatched after {found['dispatch']:.1f} s, "
                    f"{found['step']:.2f} s a step, peak memory {found['memory']:.2f} GiB (load before: {began:.1f})",
                    flush=True,
                )
    return None


if __name__ == "__main__":
    main()
