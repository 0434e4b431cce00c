"""Compares one training run on one device with the same on several; run by test_devices.py in a process of its own.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 python tests/devices.py float64 deeplabv3plus 4x1 2x2

In one of several processes (JAX_COORDINATOR_ADDRESS and so on) the one device is the process's own, and the meshes are
over all. `--variants` picks of "groups 1", "groups 4" (of BatchNorm), "accumulated", which has 4 groups, the batch in
two parts one after the other, and on each device only its part of the optimiser's arrays, "aided", which is that with
an average of the weights, a frozen stem and stage, and layer-wise learning rates, and "every loss".

Prints JSON: for each variant and mesh (data x space) the largest relative difference of a tensor's update after five
steps, and how many of the program's loops and calls exchange something between devices; in float32 also, for scale, the
largest of ten permutations of the batches on one device, within their groups. Left out is a tensor that float64 finds
to have no gradient, such as a bias before a norm: Adam makes an update of rounding. stderr names them.
"""

import argparse
import json
import os
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from tiny import tiny_config

from cropjax import distributed
from cropjax.config import build_augment, build_model, build_optimizer, build_source
from cropjax.data.pipeline import train_batches
from cropjax.losses.cross_entropy import BAND_BYTES
from cropjax.models import segnext
from cropjax.ops.nmf import draw_bases
from cropjax.sharding import place_batch
from cropjax.step import abstract_state, create_state, make_train_step, run_key, split_model

# A device that waits for the others holds a thread for each exchange it has begun. XLA has a thread a device, unless
# told otherwise before it starts: one device with two of them left none for the last, and all waited for ever.
os.environ.setdefault("PJRT_NPROC", "256")

STEPS, PERMUTATIONS = 5, 10
STILL = 1e-12  # of the largest update is none: what Adam makes of float64's rounding is less
# norm.groups, train.accumulate
VARIANTS = {"groups 1": (1, 1), "groups 4": (4, 1), "accumulated": (4, 2), "aided": (4, 2), "every loss": (1, 1)}
SHARE = 4  # devices that share the rows of a map, at most; the deepest has one row more
BATCH = 16  # four images in each of four BatchNorm groups: the sum of two would be the same in either order


def mesh_of(shape):
    """Over all processes; of one device over that of this process."""
    data, space = shape
    devices = jax.local_devices() if data * space == 1 else jax.devices()
    return Mesh(np.reshape(devices[: data * space], shape), ("data", "space"), axis_types=(AxisType.Auto,) * 2)


def ours(batch, mesh):
    """This process's part of a global batch, NumPy arrays."""
    processes = sorted({device.process_index for device in mesh.devices.flat})
    part = processes.index(jax.process_index())
    return {k: np.split(v, len(processes))[part] for k, v in batch.items()}


def trainer(config, shape, dtype):
    """A function that trains from the start on batches, on a mesh of `shape`.

    It gives the losses of the steps, how far each tensor of params, batch_stats and their average went, {path: array},
    and the text of the compiled step.
    """
    mesh = mesh_of(shape)
    graph, weights = split_model(build_model(config))
    weights = jax.tree.map(lambda x: np.asarray(x, dtype), weights)
    direction, schedule = build_optimizer(config)
    form = {"shard_optimizer": config.optim.shard_state, "ema": bool(config.train.ema)}
    template = abstract_state(weights, direction, mesh, **form)
    start = weights | ({"ema": weights["params"]} if config.train.ema else {})
    step = make_train_step(graph, direction, schedule, config, mesh, template=template)

    def run(batches):
        state = create_state(weights, direction, mesh, **form)
        losses, placed = [], [place_batch(ours(batch, mesh), mesh) for batch in batches]
        key = run_key(config.seed, mesh)
        program = step.lower(state, placed[0], key).compile()
        for batch in placed:
            state, report = program(state, batch, key)
            losses.append(float(report.loss.compute()))
        moved = jax.tree.map(lambda new, old: np.asarray(new) - old, {k: state[k] for k in start}, start)
        moved = {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_leaves_with_path(moved)}
        return losses, moved, program.as_text()

    return run


def nested_exchanges(text):
    """How many of a compiled program's loops and calls hold an exchange between devices.

    XLA's CPU devices may come to it in another order than to exchanges beside it, and then wait for ever.
    """
    bodies = dict(re.findall(r"^(?:ENTRY )?%([\w.-]+) .*?\{$(.*?)^\}", text, re.M | re.S))

    def exchanges(name):
        within = re.findall(r"(?:to_apply|body|calls)=%([\w.-]+)", bodies[name])
        return "channel_id=" in bodies[name] or any(map(exchanges, within))

    return sum(map(exchanges, re.findall(r" (?:while|call)\(.*(?:body|to_apply)=%([\w.-]+)", text)))


def summing_loop():
    """A program that sums over all devices in each turn of a loop, compiled."""
    n = jax.device_count()
    split = NamedSharding(jax.make_mesh((n,), ("data",), (AxisType.Auto,)), PartitionSpec("data"))

    def program(x):
        return jax.lax.fori_loop(0, 9, lambda _, total: jnp.cos(total * x).sum(), jnp.ones((), x.dtype))

    return jax.jit(program).lower(jax.ShapeDtypeStruct((n,), jnp.float32, sharding=split)).compile()


def still(moved):
    """The names of the tensors that have hardly moved; `trainer` on those that have no gradient."""
    sizes = {k: np.abs(v).max() for k, v in moved.items()}
    return {k for k, size in sizes.items() if size <= STILL * max(sizes.values())}


def distance(run, reference, flat):
    """The largest relative difference of a tensor's update, where, and the first step's loss.

    Tensors named in `flat` have no gradient: in float64 they must not move, in float32 they are left out.
    """
    (losses, moved, text), (reference_losses, expected, _) = run, reference
    found = {k: float(np.abs(moved[k] - v).max() / np.abs(v).max()) for k, v in expected.items() if k not in flat}
    if jax.config.jax_enable_x64:
        found |= {k: float("inf") for k in flat - still(moved)}
    worst = max(found, key=found.get)
    return {
        "update": found[worst],
        "tensor": worst,
        "first_loss": abs(losses[0] / reference_losses[0] - 1),
        "nested_exchanges": nested_exchanges(text),
        "without_gradient": len(flat),
    }


def main(dtype, network, meshes, variants):
    distributed.join()
    jax.config.update("jax_enable_x64", dtype == "float64")
    jax.config.update("jax_disable_most_optimizations", dtype == "float64")  # each program runs five times only
    BAND_BYTES["cpu"] = 2**15  # several bands of even these maps
    if jax.process_count() == 1:
        assert nested_exchanges(summing_loop().as_text()) == 1  # or the form of the text has changed
    rng, report = np.random.default_rng(0), {}
    for name in variants:
        groups, accumulate = VARIANTS[name]
        side = 16 * SHARE if "output_stride" in tiny_config(network).model.backbone else 32 * SHARE
        config = tiny_config(network, crop_size=(side + 1, side + 1), scale=(2 * side, side))
        config.data.streets.size = side, 2 * side
        config.train.update(batch_size=BATCH, steps=STEPS, dtype=dtype)
        config.model.norm.groups = groups
        if name == "every loss":
            config.loss.terms = dict.fromkeys(config.loss.terms, 1.0)
            config.loss.ohem.update(min_kept=side, threshold=0.1)
        if name == "aided":
            config.train.update(ema=0.25, frozen_stages=1)
            config.optim.layer_decay = 0.8
        config.optim.warmup_steps = 0  # or five steps go no further than a parameter's rounding
        segnext.draw_bases = draw_bases
        if dtype == "float32" or accumulate > 1:  # what is drawn depends on the position in the batch
            segnext.draw_bases = same_bases
            config.model.head.dropout = config.model.auxiliary.dropout = 0.0
            if "drop_path" in config.model.backbone:
                config.model.backbone.drop_path = 0.0
        source = build_source(config, "train")
        stream = train_batches(source, build_augment(config), seed=0, batch_size=BATCH)
        batches = [next(stream) for _ in range(STEPS)]
        stream.close()

        with jax.enable_x64(True):
            config.train.dtype = "float64"
            exact = trainer(config, (1, 1), "float64")(batches)
            flat = still(exact[1])
            config.train.dtype = dtype
        print(f"{name}: without a gradient: {', '.join(sorted(flat)) or 'none'}", file=sys.stderr)
        one = trainer(config, (1, 1), dtype)
        expected = one(batches) if dtype == "float32" else exact
        if dtype == "float32" and accumulate == 1:
            permuted = [distance(one(permute(batches, groups, rng)), expected, flat) for _ in range(PERMUTATIONS)]
            report[f"{name}, permuted batch"] = max(permuted, key=lambda found: found["update"])
        config.train.accumulate, config.optim.shard_state = accumulate, accumulate > 1
        for shape in [(1, 1)] * (accumulate > 1) + meshes:
            report[f"{name}, mesh {shape}"] = distance(trainer(config, shape, dtype)(batches), expected, flat)
    if jax.process_index() == 0:
        print(json.dumps(report))


def same_bases(key, images, channels, rank):
    """In place of `draw_bases`: the same for every image, whatever the key."""
    bases = draw_bases(jax.random.key(0), 1, channels, rank)
    return jnp.broadcast_to(bases, (images, channels, rank))


def permute(batches, groups, rng):
    """Each batch with its images in another order, those of a BatchNorm group still together."""
    order = rng.permuted(np.arange(BATCH).reshape(groups, -1), axis=1)
    order = rng.permutation(order).ravel()
    return [{k: v[order] for k, v in batch.items()} for batch in batches]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("dtype")
    parser.add_argument("network")
    parser.add_argument("meshes", nargs="+", type=lambda mesh: tuple(map(int, mesh.split("x"))))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS)[:3])
    main(**vars(parser.parse_args()))
