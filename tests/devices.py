"""Compares one training run on one device with the same on several; run by test_devices.py in a process of its own.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 python tests/devices.py float64 4x1 2x2

Prints JSON: for each mesh (data x space) and number of BatchNorm groups, the largest relative difference of any
tensor's update after five steps, and how many loops of the program exchange something between devices; in float32
also, for scale, the largest of ten permutations of the batches on one device, within their groups.
"""

import json
import os
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tiny import tiny_config

import cropjax.losses
from cropjax.config import build_augment, build_model, build_optimizer, build_source
from cropjax.data.pipeline import train_batches
from cropjax.sharding import place_batch
from cropjax.step import create_state, make_train_step, split_model

# A device that waits for the others holds a thread for each exchange it has begun. XLA has a thread a device, unless
# told otherwise before it starts: one device with two of them left none for the last, and all waited for ever.
os.environ.setdefault("PJRT_NPROC", "64")

STEPS, PERMUTATIONS = 5, 10
BATCH = 16  # four images in each of four BatchNorm groups: the sum of two would be the same in either order


def trainer(config, shape, dtype):
    """A function that trains from the start on batches, on a mesh of `shape`.

    It gives the losses of the steps, how far each tensor of params and batch_stats went, {path: array}, and the text
    of the compiled step.
    """
    mesh = jax.make_mesh(shape, ("data", "space"), (AxisType.Auto,) * 2, devices=jax.devices()[: shape[0] * shape[1]])
    graph, weights = split_model(build_model(config))
    weights = jax.tree.map(lambda x: np.asarray(x, dtype), weights)
    direction, schedule = build_optimizer(config)
    step = make_train_step(graph, direction, schedule, config, mesh)

    def run(batches):
        state, losses = create_state(weights, direction, mesh), []
        program = step.lower(state, place_batch(batches[0], mesh)).compile()
        for batch in batches:
            state, report = program(state, place_batch(batch, mesh))
            losses.append(float(report.loss.compute()))
        moved = jax.tree.map(lambda new, old: np.asarray(new) - old, {k: state[k] for k in weights}, weights)
        moved = {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_leaves_with_path(moved)}
        return losses, moved, program.as_text()

    return run


def exchanging_loops(text):
    """How many of a compiled program's loops hold an exchange between devices, be it in what their bodies call.

    XLA's CPU devices may come to it in another order than to exchanges beside the loop, and then wait for ever.
    """
    bodies = dict(re.findall(r"^(?:ENTRY )?%([\w.-]+) .*?\{$(.*?)^\}", text, re.M | re.S))

    def exchanges(name):
        calls = re.findall(r"(?:to_apply|body|calls)=%([\w.-]+)", bodies[name])
        return "channel_id=" in bodies[name] or any(map(exchanges, calls))

    return sum(map(exchanges, re.findall(r" while\(.*body=%([\w.-]+)", text)))


def summing_loop():
    """A program that sums over all devices in each turn of a loop, compiled."""
    n = jax.device_count()
    split = NamedSharding(jax.make_mesh((n,), ("data",), (AxisType.Auto,)), PartitionSpec("data"))

    def program(x):
        return jax.lax.fori_loop(0, 9, lambda _, total: jnp.cos(total * x).sum(), jnp.ones((), x.dtype))

    return jax.jit(program).lower(jax.ShapeDtypeStruct((n,), jnp.float32, sharding=split)).compile()


def distance(run, reference):
    """Largest relative difference of a tensor's update (floor 1e-12), where, and of the first step's loss."""
    (losses, moved, text), (reference_losses, expected, _) = run, reference
    found = {k: float(np.abs(moved[k] - v).max() / max(np.abs(v).max(), 1e-12)) for k, v in expected.items()}
    worst = max(found, key=found.get)
    return {
        "update": found[worst],
        "tensor": worst,
        "first_loss": abs(losses[0] / reference_losses[0] - 1),
        "exchanging_loops": exchanging_loops(text),
    }


def main(dtype, meshes):
    jax.config.update("jax_enable_x64", dtype == "float64")
    jax.config.update("jax_disable_most_optimizations", dtype == "float64")  # each program runs five times only
    cropjax.losses.BAND_BYTES["cpu"] = 2**15  # several bands of even these maps
    assert exchanging_loops(summing_loop().as_text()) == 1  # or the form of the text has changed
    rng, report = np.random.default_rng(0), {}
    for groups in (1, 4):
        config = tiny_config()
        config.train.update(batch_size=BATCH, steps=STEPS, dtype=dtype)
        config.model.norm.groups = groups
        if dtype == "float32":  # dropout draws by position in the batch, which permuting changes
            config.model.head.dropout = config.model.auxiliary.dropout = 0.0
        source = build_source(config, "train")
        stream = train_batches(source, build_augment(config), seed=0, batch_size=BATCH)
        batches = [next(stream) for _ in range(STEPS)]
        stream.close()

        one = trainer(config, (1, 1), dtype)
        expected = one(batches)
        for shape in meshes:
            report[f"groups {groups}, mesh {shape}"] = distance(trainer(config, shape, dtype)(batches), expected)
        if dtype == "float32":
            permuted = [distance(one(permute(batches, groups, rng)), expected) for _ in range(PERMUTATIONS)]
            report[f"groups {groups}, permuted batch"] = max(permuted, key=lambda found: found["update"])
    print(json.dumps(report))


def permute(batches, groups, rng):
    """Each batch with its images in another order, those of a BatchNorm group still together."""
    order = rng.permuted(np.arange(BATCH).reshape(groups, -1), axis=1)
    order = rng.permutation(order).ravel()
    return [{k: v[order] for k, v in batch.items()} for batch in batches]


if __name__ == "__main__":
    main(sys.argv[1], [tuple(map(int, mesh.split("x"))) for mesh in sys.argv[2:]])
