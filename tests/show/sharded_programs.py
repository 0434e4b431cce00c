"""The training step of each network, compiled for meshes of virtual devices: its memory, and what they exchange.

    python tests/show/sharded_programs.py deeplab_769 --crop 1024x2048 --batch 1 --meshes 1x1 1x2 1x4 1x8

Nothing is run: what XLA plans for one device, and the collective operations of the compiled program. The branches of
`cropjax.ops` are those for a GPU; XLA's partitioner is the same everywhere, what comes after it is the CPU's compiler,
so that a GPU's program has the same exchanges, and other buffers. A line of Markdown a mesh: memory of the step besides
weights and batch, weights and optimiser, then the number of operations and the bytes that they give one device:
halos (collective-permute), sums (all-reduce), and everything else.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import argparse
import contextlib
import importlib.util
import re
import time
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from cropjax.config import build_model, build_optimizer, example_form
from cropjax.sharding import batch_form
from cropjax.step import abstract_state, make_train_step, run_key, split_model

ROOT = Path(__file__).parents[2]
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s32": 4, "u32": 4, "f32": 4, "bf16": 2, "f64": 8, "s64": 8, "u64": 8}
KINDS = ("collective-permute", "all-reduce", "all-gather", "all-to-all", "reduce-scatter")


def read_config(name):
    """The config of configs/, `name` or `name:argument`."""
    name, *argument = name.split(":")
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*argument)


@contextlib.contextmanager
def as_on_a_gpu():
    """What asks for the kind of device hears that it is a GPU."""
    jax.devices()  # which are the CPU's
    real, jax.default_backend = jax.default_backend, lambda: "gpu"
    try:
        yield
    finally:
        jax.default_backend = real


def exchanges(text):
    """{kind: (operations, bytes that they give one device)} of a compiled program's text."""
    found = dict.fromkeys(KINDS, (0, 0))
    for shapes, kind in re.findall(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(", text):
        size = sum(
            BYTES[dtype] * int(np.prod([int(side) for side in sides.split(",") if side]))
            for dtype, sides in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
        )
        count, total = found[kind]
        found[kind] = (count + 1, total + size)
    return found


def compiled(config, shape, crop, batch):
    """(program, seconds that compiling took, bytes of the state on one device)."""
    data, space = shape
    mesh = Mesh(np.reshape(jax.devices()[: data * space], shape), ("data", "space"), axis_types=(AxisType.Auto,) * 2)
    graph, weights = split_model(build_model(config))
    direction, schedule = build_optimizer(config)
    template = abstract_state(weights, direction, mesh, shard_optimizer=config.optim.shard_state)
    step = make_train_step(graph, direction, schedule, config, mesh, template=template)
    began = time.monotonic()
    form = batch_form(batch, mesh, **example_form(config, crop))
    program = step.lower(template, form, run_key(config.seed, mesh)).compile()
    state = sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf in jax.tree.leaves(template)
    )
    return program, time.monotonic() - began, state


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("--crop", default="1024x2048")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--meshes", nargs="+", default=["1x1", "1x2", "1x4", "1x8"])
    parser.add_argument("--shard_state", action="store_true")
    options = parser.parse_args()
    # Of a program as long as SegNeXt-B's jaxlib loads what it has kept by recursion, beyond a thread's stack.
    jax.config.update("jax_enable_compilation_cache", False)
    config = read_config(options.config)
    config.optim.shard_state = options.shard_state
    if config.model.head.get("pool_norm") and options.batch == 1:
        config.model.head.pool_norm = False  # one value a channel has no variance
    crop = tuple(map(int, options.crop.split("x")))
    for mesh in options.meshes:
        with as_on_a_gpu():
            program, seconds, state = compiled(config, tuple(map(int, mesh.split("x"))), crop, options.batch)
        memory = program.memory_analysis().temp_size_in_bytes
        found = exchanges(program.as_text())
        halo, sums = found.pop("collective-permute"), found.pop("all-reduce")
        rest = tuple(map(sum, zip(*found.values(), strict=True)))
        shown = " | ".join(f"{count}, {size / 2**20:.1f} MiB" for count, size in (halo, sums, rest))
        print(
            f"| {options.config} | {options.crop} | {options.batch} | {mesh} | {memory / 2**30:.2f} GiB | "
            f"{state / 2**20:.0f} MiB | {shown} | {seconds:.0f} s |",
            flush=True,
        )


if __name__ == "__main__":
    main()
