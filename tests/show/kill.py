"""Kills a training run with SIGKILL at random moments, re-runs it, and compares its end with an undisturbed run's.

A moment is up to half a second after a random step was logged: in a step, an evaluation or a save, as it comes.

    python tests/show/kill.py [--kills 5] [--seed 0] [--workers 0]

`--workers 2,0` starts with two worker processes that read data, goes on with none, and so on in turn. An epoch is six
steps, so that nearly every kill is in the middle of one. Prints a line a kill and exits with 1 if a single bit of the
final state differs.
"""

import argparse
import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_train import final_state
from tiny import tiny_config

CONFIG = """
import sys
sys.path.insert(0, {tests!r})
from tiny import tiny_config

def get_config():
    config = tiny_config()
    config.data.streets.train_count = 24
    config.train.update(steps={steps}, checkpoint_every=10, log_every=5)
    config.eval.update(every=40)
    return config
"""


STEPS = 240


def start(config, workdir, workers):
    command = [sys.executable, "-m", "cropjax.main", "--config", str(config), "--workdir", str(workdir)]
    command.append(f"--config.data.workers={workers}")
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def last_step(workdir):
    """The last step that a run has logged."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", default="0")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    workers = itertools.cycle(map(int, args.workers.split(",")))
    folder = Path(tempfile.mkdtemp())
    config = folder / "config.py"
    config.write_text(CONFIG.format(tests=str(Path(__file__).parents[1]), steps=STEPS))

    assert start(config, folder / "calm", 0).wait() == 0
    for number, target in enumerate(sorted(draw.sample(range(1, STEPS - 10), args.kills)), 1):
        began = time.monotonic()
        reading = next(workers)
        run = start(config, folder / "killed", reading)
        while last_step(folder / "killed") < target:
            assert run.poll() is None, "the run ended before it was killed"
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.5))
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        seconds = time.monotonic() - began
        print(
            f"kill {number}: {seconds:.1f} s after the start, step {last_step(folder / 'killed')} of {STEPS}, "
            f"workers {reading}",
            flush=True,
        )
    assert start(config, folder / "killed", next(workers)).wait() == 0

    settings = tiny_config()
    step, calm = final_state(settings, folder / "calm")
    killed_step, killed = final_state(settings, folder / "killed")
    same = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), jax.tree.map(np.asarray, calm), killed)
    differing = sum(not leaf for leaf in jax.tree.leaves(same))
    print(f"steps {step} and {killed_step}; {differing} of {len(jax.tree.leaves(same))} tensors differ")
    sys.exit(differing > 0 or step != killed_step)


if __name__ == "__main__":
    main()
