"""Kills a training run with SIGKILL at random moments, re-runs it, and compares its end with an undisturbed run's.

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
    config.train.update(steps=60, checkpoint_every=5, log_every=5)
    config.eval.update(every=20)
    return config
"""


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
    config.write_text(CONFIG.format(tests=str(Path(__file__).parents[1])))

    began = time.monotonic()
    assert start(config, folder / "calm").wait() == 0
    whole = time.monotonic() - began  # with a cold compilation cache; later starts are quicker
    began = time.monotonic()
    assert start(config, folder / "warm").wait() == 0
    whole = time.monotonic() - began
    print(f"undisturbed: {whole:.0f} s", flush=True)

    for number in range(1, args.kills + 1):
        moment = draw.uniform(0.1, 0.9) * whole
        run = start(config, folder / "killed")
        time.sleep(moment)
        run.send_signal(signal.SIGKILL)
        code = run.wait()
        tail = " (had finished)" if code == 0 else ""
        print(f"kill {number} after {moment:.1f} s, step {last_step(folder / 'killed')}{tail}", flush=True)
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
