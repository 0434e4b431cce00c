"""What one image of 1024x2048 takes in each mode, and a folder of many: memory and time.

    python tests/show/inference.py deeplab_769 pspnet_769 segformer_b3_769 segnext_b_769
    python tests/show/inference.py --folder 10000

The first prints for each of the configs, with random weights, and each mode: seconds of one run and of compiling before
it, the memory that the plans of the programs say, and the process's largest resident memory; each in a process of its
own. On two cores it takes half an hour, and with `--modes slide_tta` an hour more. The second
predicts so many images of 64x128 with a small network, as `cropjax.predict` does, prints the resident memory at each
tenth of them, and exits with 1 if it grows by more than 5 % after the first.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

SIZE = (1024, 2048)
MODES = ("whole", "slide", "whole_tta")
CONFIGS = ("deeplab_769", "pspnet_769", "segformer_b3_769", "segnext_b_769")
GROWTH = 1.05


def one_mode(name, mode):
    import importlib.util

    from cropjax.config import build_model
    from cropjax.inference import Inference
    from cropjax.sharding import make_mesh, replicated
    from cropjax.step import split_model

    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config, mesh = module.get_config(), make_mesh(data=1, space=1)
    graph, weights = split_model(build_model(config))
    weights = jax.device_put(weights, replicated(mesh))
    inference = Inference(graph, config, mesh)
    image = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)
    began = time.monotonic()
    needed = inference.needed_bytes(weights, image.shape, mode) / 2**30
    compiling = time.monotonic() - began
    began = time.monotonic()
    jax.block_until_ready(inference.ids(weights, image, mode))
    seconds = time.monotonic() - began
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    time_taken = f"{seconds:7.1f} s, compiled in {compiling:5.1f} s"
    print(f"{name:18} {mode:10} {time_taken}; planned {needed:5.2f}, resident {resident:5.2f} GiB", flush=True)


def many(count):
    from PIL import Image
    from tiny import tiny_config

    from cropjax.inputs import find
    from cropjax.network import Network
    from cropjax.outputs import Outputs
    from cropjax.predict import predict
    from cropjax.train import train

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        config = tiny_config()
        config.train.steps = 1
        train(config, folder / "run")
        rng, images = np.random.default_rng(0), folder / "images"
        images.mkdir()
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (64, 128, 3), np.uint8)).save(images / f"{i:05d}.png")
        net, held = Network(config, folder / "run", "latest"), []
        out = folder / "out"
        inputs = find([str(images)], sys.stdin, out)

        class Watched(Outputs):
            def write(self, *what, **found):
                super().write(*what, **found)
                self.written += 1
                if self.written % (count // 10) == 0:
                    held.append(resident())

        outputs = Watched(out, net.labels)
        outputs.written = 0
        began = time.monotonic()
        assert predict(net, "whole", inputs, outputs) == 0
        rate = count / (time.monotonic() - began)
    print(f"{count} images, {rate:.0f} a second; resident MiB:", *(f"{x / 2**20:.0f}" for x in held))
    sys.exit(max(held) > GROWTH * held[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="*", default=CONFIGS)
    parser.add_argument("--modes", nargs="*", default=MODES)
    parser.add_argument("--folder", type=int)
    parser.add_argument("--here", action="store_true", help="in this process")
    given = parser.parse_args()
    if given.folder:
        many(given.folder)
    for name in given.configs:
        for mode in given.modes:
            if given.here:
                one_mode(name, mode)
            else:
                subprocess.run([sys.executable, __file__, name, "--modes", mode, "--here"], check=True)
