"""The programs that docs/performance.md times, as they are lowered: a hash each, equal for commits that change none.

    python tests/show/programs.py [CONFIG ...]

Forward of batch 1 and the training step of batch 2, before XLA compiles. Without names: all of 512 and 769.
"""

import hashlib
import importlib.util
import sys
from pathlib import Path

from cropjax.benchmark.programs import Programs

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = [f"{net}_{crop}" for crop in (512, 769) for net in ("deeplab", "pspnet", "segformer_b3", "segnext_b")]


def load(name):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def main(names):
    for name in names or NAMES:
        config = load(name)
        config.train.batch_size = 2
        programs, size = Programs(config), tuple(config.data.crop_size)
        forward = programs.forward(programs.batch(1, size), config.train.dtype)
        texts = forward.jitted.lower(*forward.arguments).as_text(), programs.train_forms(2, size).lower().as_text()
        print(name, *(hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
