"""Kills a training run with SIGKILL at random moments, re-runs it, and compares its end with an undisturbed run's.

A moment is up to half a second after a random step was logged: in a step, an evaluation or a save, as it comes.

    python tests/show/kill.py [--kills 5] [--seed 0]

Prints a line a kill and exits with 1 if a single bit of the final state differs.
"""

import argparse
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
    config.train.update(steps={steps}, checkpoint_every=10, log_every=5)
    config.eval.update(every=40)
    return config
"""


STEPS = 240


def start(config, workdir):
    command = [sys.executable, "-m", "cropjax.main", "--config", str(config), "--workdir", str(workdir)]
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
    args = parser.parse_args()
    draw = random.Random(args.seed)
    folder = Path(tempfile.mkdtemp())
    config = folder / "config.py"
    config.write_text(CONFIG.format(tests=str(Path(__file__).parents[1]), steps=STEPS))

    assert start(config, folder / "calm").wait() == 0
    for number, target in enumerate(sorted(draw.sample(range(1, STEPS - 10), args.kills)), 1):
        began = time.monotonic()
        run = start(config, folder / "killed")
        while last_step(folder / "killed") < target:
            assert run.poll() is None, "the run ended before it was killed"
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.5))
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        seconds = time.monotonic() - began
        print(
            f"kill {number}: {seconds:.1f} s after the start, step {last_step(folder / 'killed')} of {STEPS}",
            flush=True,
        )
    assert start(config, folder / "killed").wait() == 0

    settings = tiny_config()
    step, calm = final_state(settings, folder / "calm")
    killed_step, killed = final_state(settings, folder / "killed")
    same = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), jax.tree.map(np.asarray, calm), killed)
    differing = sum(not leaf for leaf in jax.tree.leaves(same))
    print(f"steps {step} and {killed_step}; {differing} of {len(jax.tree.leaves(same))} tensors differ")
    sys.exit(differing > 0 or step != killed_step)


if __name__ == "__main__":
    main()
