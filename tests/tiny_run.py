"""`tiny_config` as a config file, for commands: `--config tests/tiny_run.py[:network]`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from tiny import tiny_config


def get_config(network="deeplabv3plus"):
    config = tiny_config(network)
    config.train.update(steps=12, checkpoint_every=3, log_every=1)
    config.eval.update(every=6, modes=("whole",), batch_size=1)
    return config
