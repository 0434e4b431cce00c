"""Weak and strong scaling over processes here, and what the same model says of GPUs.

    python tests/show/scaling.py [--rounds 3] [--network segformer]

On a machine with as many cores as processes, at least two: each process has one core (taskset), and they sum over gloo
on the loopback address. The narrow network of configs/demo.py, DeepLabV3+ if not told, is trained on crops of 128x128,
weak with 8 images a process and strong with 8 in all. Beside it: two runs of a process each at the same time, which
exchange nothing but share the machine's memory; how long the step's sums take by themselves (the same operations in a
loop, without the network), and from these what the model below expects of two processes.

The model. A step takes T on one device. Over n devices it also sums the gradients, G bytes in float32, and within each
BatchNorm the statistics: s small sums that nothing can be done beside, four a BatchNorm (mean, variance, and two in
the backward pass), each as long as its latency L. The gradients' sum can hide behind the backward pass, of which it is
given up to half a step (overlap 1), or not at all (overlap 0):

    time(n) = T + s L(n) + max(0, R(n) - overlap T / 2),     R(n) = 2 (n - 1) / n  G / bandwidth

and over nodes of 8 GPUs hierarchically: within the node over NVLink, then an eighth of G each over the GPU's own port.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from command import environments

ROOT = Path(__file__).parents[2]
STEPS = 40
BESIDE = "two runs at once, 8 images each"

# Training steps measured on one H100, batch 8 at 512x512 in bfloat16: docs/performance.md, "On a GPU".
MEASURED = {"deeplab_512": 63.3e-3, "segformer_b3_512": 48.8e-3}
# An assumption each. NVLink 4: 450 GB/s a direction, of which NCCL's all-reduce reaches about 0.8 ("bus bandwidth");
# InfiniBand NDR: 50 GB/s a port, 0.9 of it. Latency of a small all-reduce: in a node, and over nodes by a tree.
NVLINK, PORT = 0.8 * 450e9, 0.9 * 50e9
LATENCY = {8: 15e-6, 64: 35e-6, 512: 55e-6}


def on_core(index):
    return ["taskset", "-c", str(index), sys.executable]


def train(count, batch, folder, network, *, runs=1):
    """Seconds a step of `runs` at the same time of `count` processes each, the median over the later log lines."""
    workdirs, processes = [Path(folder, str(random.random())) for _ in range(runs)], []
    for workdir in workdirs:
        for place in environments(count):
            command = [*on_core(len(processes)), "-m", "cropjax.main", f"--config=configs/demo.py:{network}"]
            command += [f"--workdir={workdir}", f"--config.train.steps={STEPS}", f"--config.train.batch_size={batch}"]
            command += ["--config.train.log_every=5", "--config.eval.every=1000", "--config.data.streets.eval_count=1"]
            command += ["--config.data.threads=1", "--config.data.in_memory=True"]
            command += ["--config.data.streets.train_count=8", "--config.eval.location_prior=0"]
            command += ["--config.mesh.data=-1", "--config.mesh.space=1"]
            processes.append(subprocess.Popen(command, env=os.environ | place, cwd=ROOT, stdout=subprocess.DEVNULL))
    assert [process.wait() for process in processes] == [0] * len(processes)
    rates = []
    for workdir in workdirs:
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        rates += [line["train/images_per_second"] for line in lines if "train/images_per_second" in line][2:]
    return batch / statistics.median(rates)


SUMS = """
import sys, time, jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from cropjax import distributed
distributed.join()
mesh = Mesh(np.array(jax.devices()), ("data",))
for size in map(int, sys.argv[1:]):
    x = jax.make_array_from_process_local_data(NamedSharding(mesh, P("data")), np.ones((1, size // 4), np.float32))
    total = jax.jit(lambda x: x.sum(0), out_shardings=NamedSharding(mesh, P()))
    times = []
    for _ in range(40):
        began = time.perf_counter()
        jax.block_until_ready(total(x))
        times.append(time.perf_counter() - began)
    if jax.process_index() == 0:
        print("seconds", sorted(times)[20], flush=True)
"""


def sums(*sizes):
    """Seconds of an all-reduce of so many bytes between two processes of a core each."""
    processes = []
    for index, place in enumerate(environments(2)):
        command = [*on_core(index), "-c", SUMS, *map(str, sizes)]
        processes.append(subprocess.Popen(command, env=os.environ | place, cwd=ROOT, stdout=subprocess.PIPE, text=True))
    output, _ = (process.communicate()[0] for process in processes)
    return [float(line.split()[1]) for line in output.splitlines() if line.startswith("seconds")]


PROGRAM = """
import sys
sys.path.insert(0, "tests/show")
from sharded_programs import read_config, compiled, exchanges
import re, jax, numpy as np
config = read_config(sys.argv[1])
size, batch = int(sys.argv[2]), int(sys.argv[3])
program, _, state = compiled(config, (2, 1), (size, size), batch)
count, total = exchanges(program.as_text())["all-reduce"]
from cropjax.config import build_model
from cropjax.step import split_model
weights = split_model(build_model(config))[1]
gradients = 4 * sum(np.size(leaf) for leaf in jax.tree.leaves(weights["params"]))
norms = sum(1 for path, _ in jax.tree.leaves_with_path(weights["batch_stats"]) if path[-1].key == "mean")
print("found", count, total, gradients, norms)
"""


def program(config, size, batch):
    """(all-reduces, their bytes, bytes of the gradients, BatchNorms) of the step compiled for two devices."""
    command = [sys.executable, "-c", PROGRAM, config, str(size), str(batch)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [int(word) for word in output.split("found")[1].split()]


def reduction(n, gradients):
    """Seconds of the gradients' sum over n GPUs in nodes of 8."""
    inside, nodes = min(n, 8), max(n // 8, 1)
    seconds = 2 * (inside - 1) / inside * gradients / NVLINK
    return seconds + 2 * (nodes - 1) / nodes * gradients / inside / PORT


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--network", default="deeplabv3plus")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = {"one process, 8 images": (1, 8), "weak: two, 16 images": (2, 16), "strong: two, 8 images": (2, 8)}
        cases |= {"one process, 4 images": (1, 4)}
        times = {name: [] for name in [*cases, BESIDE]}
        for _ in range(options.rounds):
            for name, (count, batch) in cases.items():
                times[name].append(train(count, batch, folder, options.network))
            times[BESIDE].append(train(1, 8, folder, options.network, runs=2))
    medians = {name: statistics.median(found) for name, found in times.items()}
    print("| processes | seconds a step | images/s |\n|---|---|---|")
    for name, batch in [*((name, batch) for name, (_, batch) in cases.items()), (BESIDE, 16)]:
        print(
            f"| {name} | {medians[name]:.3f} ({min(times[name]):.3f} to {max(times[name]):.3f}) | "
            f"{batch / medians[name]:.1f} |"
        )
    count, total, gradients, norms = program(f"demo:{options.network}", 128, 16)
    of_gradients, of_small = sums(gradients, 1024)
    extra = of_gradients + 4 * norms * of_small
    print(
        f"\n{options.network}: {count} all-reduces of {total / 2**20:.2f} MiB, of which the gradients "
        f"{gradients / 2**20:.2f}; {norms} BatchNorms.\nBy themselves the gradients' sum takes "
        f"{1e3 * of_gradients:.2f} ms, a small one {1e3 * of_small:.3f} ms: {1e3 * extra:.1f} ms a step."
    )
    one, weak = medians["one process, 8 images"], medians["weak: two, 16 images"]
    half, strong = medians["one process, 4 images"], medians["strong: two, 8 images"]
    modelled = one / (one + extra), one / (half + extra)
    beside = f"{100 * one / medians[BESIDE]:.0f} % without any exchange, the model says {100 * modelled[0]:.0f} %"
    print(f"Weak: efficiency {100 * one / weak:.0f} %, {beside}.")
    print(f"Strong: speed-up {one / strong:.2f}, the model says {modelled[1]:.2f}.\n")
    print("| config | all-reduces | gradients | GPUs | their sum | small sums | efficiency, overlap 0 | overlap 1 |")
    print("|---|---|---|---|---|---|---|---|")
    for config, seconds in MEASURED.items():
        count, _, gradients, norms = program(config, 512, 16)
        for n, latency in LATENCY.items():
            reduce, waits = reduction(n, gradients), 4 * norms * latency
            efficiency = [seconds / (seconds + waits + max(0, reduce - share * seconds / 2)) for share in (0, 1)]
            cells = [f"`{config}`", count, f"{gradients / 1e6:.0f} MB", n]
            cells += [f"{1e3 * part:.2f} ms" for part in (reduce, waits)] + [
                f"{100 * part:.0f} %" for part in efficiency
            ]
            print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    main()
