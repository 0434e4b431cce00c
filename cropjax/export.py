"""A trained network as files that run without cropjax: StableHLO for JAX, ONNX for everything else.

    python -m cropjax.export --workdir runs/demo --size 128x256 --out model

writes `model.stablehlo` and `model.onnx`, weights inside: uint8 images [n,h,w,3] RGB of that size and any n -> float32
logits [n,h,w,classes]. Normalisation, padding and resizing are inside too. Every file is compared with the network
before it gets its name.
"""

import importlib.util
import logging
import math
import re
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from absl import flags
from jax import lax

from cropjax import commandline
from cropjax.compiled import Compiled
from cropjax.config import label_set
from cropjax.errors import UserError
from cropjax.host_memory import available_bytes
from cropjax.inference import make_forward
from cropjax.ops.plain import plain
from cropjax.restore import restore_run
from cropjax.sharding import make_mesh
from cropjax.step import weights_of
from cropjax.workdir import write_bytes

WEIGHTS_DTYPES = ("float32", "bfloat16", "int8")
OUTPUTS = ("logits", "ids")
OPSET = 21  # of ONNX: that of onnxruntime 1.18 and TensorRT 10
# The largest difference between the logits of a file and of the network with the same weights, of the largest logit.
BOUND = 1e-5


# ------------------------------------------------------------------------------------------------------------- weights


class Quantized(NamedTuple):
    """A kernel as `values` int8 [...,o] times `scale` float32 [o], one for each output channel."""

    values: jax.Array
    scale: jax.Array


def stored(weights, dtype):
    """`weights` with the kernels of convolutions and linear layers as a file of `dtype` holds them.

    What remains float32, biases, norms and statistics, is about a hundredth of a network.
    """

    def kernel(x):
        if dtype == "bfloat16":
            return x.astype(ml_dtypes.bfloat16)
        largest = np.abs(x).max(tuple(range(x.ndim - 1)))
        scale = np.where(largest, largest / 127, 1).astype(np.float32)
        return Quantized(np.rint(x / scale).astype(np.int8), scale)

    def leaf(path, x):
        return np.asarray(x) if dtype == "float32" or path[-1].key != "kernel" else kernel(np.asarray(x))

    return jax.tree.map_with_path(leaf, weights)


def restored(weights):
    """What `stored` gave, in float32 again."""

    def leaf(x):
        return x.values.astype(np.float32) * x.scale if isinstance(x, Quantized) else x.astype(np.float32)

    return jax.tree.map(leaf, weights, is_leaf=lambda x: isinstance(x, Quantized))


# --------------------------------------------------------------------------------------------------------------- files


def to_stablehlo(network, weights, size):
    """The bytes of a `jax.export` artefact for CPUs and CUDA GPUs.

    On a CPU the network takes the shortcuts of `cropjax.ops`; for a GPU it is there by definition as well, for cuDNN
    chooses better than what was chosen for a CPU.
    """

    @jax.jit
    def program(images):
        constants = jax.tree.map(jnp.asarray, weights)
        return lax.platform_dependent(constants, images, cpu=network, cuda=by_definition(network))

    exported = jax.export.export(program, platforms=("cpu", "cuda"))(image_form(size))
    return bytes(exported.serialize())


def run_stablehlo(content, images):
    return np.asarray(jax.export.deserialize(content).call(images))


def to_onnx(network, weights, size):
    """The bytes of an ONNX model, of the network by definition.

    The weights are its inputs while it is made, so that nothing that is computed of them is in the file, and then
    become constants.
    """
    for name in ("jax2onnx", "onnx_ir"):  # they tell what they could not import, and shapes that they do not know
        logging.getLogger(name).setLevel(logging.CRITICAL)
    import onnx
    from jax2onnx import to_onnx as convert

    leaves, tree = jax.tree.flatten(weights)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(weights)]

    def program(images, *leaves):
        return by_definition(network)(tree.unflatten(leaves), images)

    model = convert(
        program,
        [image_form(size), *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)],
        model_name="cropjax",
        opset=OPSET,
        input_names=["images", *names],
        output_names=["output"],
    )
    graph = model.graph
    del graph.input[1:], graph.value_info[:]
    graph.initializer.extend(onnx.numpy_helper.from_array(x, name) for x, name in zip(leaves, names, strict=True))
    _pool_rows_and_columns(graph)
    used = {name for node in graph.node for name in node.input}
    for unused in [constant for constant in graph.initializer if constant.name not in used]:
        graph.initializer.remove(unused)
    return model.SerializeToString()


def _pool_rows_and_columns(graph):
    """jax2onnx pools maps [1,1,n,h,w,c] over four axes, which no runtime can: pools [n,c,h,w] over two instead."""
    from onnx import helper

    writer = {name: node for node in graph.node for name in node.output}
    for pool in [node for node in graph.node if node.op_type == "MaxPool"]:
        second = writer[pool.input[0]]
        first = writer[second.input[0]]
        (last,) = (node for node in graph.node if pool.output[0] in node.input)
        given = {attribute.name: list(attribute.ints) for attribute in pool.attribute if attribute.ints}
        form = {"kernel_shape": given["kernel_shape"][1:3], "strides": given["strides"][1:3]}
        form["pads"] = given["pads"][1:3] + given["pads"][5:7]
        first.CopyFrom(helper.make_node("Transpose", first.input[:1], first.output, perm=(0, 3, 1, 2)))
        pool.CopyFrom(helper.make_node("MaxPool", first.output, pool.output, **form))
        last.CopyFrom(helper.make_node("Transpose", pool.output, last.output, perm=(0, 2, 3, 1)))
        graph.node.remove(second)


def run_onnx(content, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


def by_definition(network):
    def call(*args):
        with plain():
            return network(*args)

    return call


def image_form(size):
    (n,) = jax.export.symbolic_shape("n")
    return jax.ShapeDtypeStruct((n, *size, 3), np.uint8)


# --------------------------------------------------------------------------------------------------------- the command


FORMATS = {"stablehlo": (to_stablehlo, run_stablehlo), "onnx": (to_onnx, run_onnx)}


def export(
    config, workdir, *, out, size, formats=tuple(FORMATS), weights_dtype="float32", output="logits", checkpoint="best"
):  # fmt: skip
    """Writes a checkpoint of the run in `workdir` to `<out>.<format>` for each of `formats`, and prints what it found.

    `size` is the images' (height, width). The files compute in float32, whatever their weights are stored in.

    Raises:
        UserError: a file is there already, a package is missing, no such checkpoint, or a file that does not give what
            the network gives with the same weights; then none is written.
    """
    paths = {name: Path(f"{out}.{name}").expanduser() for name in formats}
    check_places(out, paths.values())
    check_room(size, 2 * math.prod(size) * (3 + 2 * 4 * label_set(config).num_classes))  # images, logits twice
    if "onnx" in formats:
        check_packages()
    mesh = make_mesh(data=-1, space=1)
    step, graph, state = restore_run(config, workdir, checkpoint, mesh)
    exact = jax.tree.map(np.asarray, weights_of(state))
    weights = stored(exact, weights_dtype)
    logits, ids = networks(graph, config, mesh, size)
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    program = Compiled(logits)
    check_room(size, program.bytes(weights, images))
    live = np.asarray(program(weights, images))
    print(f"{workdir} step {step}")
    if weights_dtype != "float32":
        moved = difference(np.asarray(program(exact, images)), live)
        print(f"weights in {weights_dtype}: logits move by up to {moved:.1e} of the largest")
    made = {}
    for name, path in paths.items():
        write, run = FORMATS[name]
        made[path] = write(ids if output == "ids" else logits, weights, size)
        off = check(path, run(made[path], images), live)
        print(f"{path}: {len(made[path]) / 1e6:.2f} MB, off the network by up to {off:.1e} of the largest logit")
    for path, content in made.items():
        write_bytes(path, content)


def networks(graph, config, mesh, size):
    """What computes full-size logits, and class ids uint8, of weights as `stored` and images of `size`, in float32."""
    config = config.copy_and_resolve_references()
    config.eval.dtype = "float32"
    forward = make_forward(graph, config, mesh)
    spare = [-side % config.eval.size_divisor for side in size]

    def logits(weights, images):
        if not any(spare):
            return forward(restored(weights), images)
        padded = jnp.pad(images, ((0, 0), (0, spare[0]), (0, spare[1]), (0, 0)))
        valid = jnp.broadcast_to(np.array(size), (images.shape[0], 2))
        return forward(restored(weights), padded, valid)[:, : size[0], : size[1]]

    def ids(weights, images):
        return jnp.argmax(logits(weights, images), -1).astype(jnp.uint8)

    return logits, ids


def check(path, found, live):
    """The `difference` of a file's results; UserError if that is more than rounding."""
    off = difference(live, found)
    if not off <= BOUND:
        raise UserError(
            f"{path} is not written: it is off the network by {off:.1e} of the largest logit, more than {BOUND}; leave "
            "it out with --formats, and report it"
        )
    return off


def difference(live, found):
    """How far what a file has `found` is from the network's `live` logits [n,h,w,k], of the largest of these.

    Of class ids [n,h,w] it is how far a class that was taken lies below the largest.
    """
    if found.ndim == live.ndim:
        off = np.abs(live - found)
    else:
        off = live.max(-1) - np.take_along_axis(live, found[..., None].astype(int), -1)[..., 0]
    return off.max() / np.abs(live).max()


def check_room(size, needed):
    if needed > (free := available_bytes()):
        raise UserError(
            f"--size={size[0]}x{size[1]}: the check of the files needs {needed / 2**30:.1f} GiB of memory or more, and "
            f"{free / 2**30:.1f} are free; give a smaller one"
        )


def check_places(out, paths):
    if str(out).endswith("/") or Path(out).expanduser().is_dir():
        raise UserError(f"--out={out} is a folder: name files in it without their ending, for example {out}/model")
    for path in paths:
        if path.exists():
            raise UserError(f"--out={out}: {path} exists already: remove it, or name another")
        if not path.parent.is_dir():
            raise UserError(f"--out={out}: there is no folder {path.parent}; make it, or name another")


def check_packages():
    for package in ("jax2onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"ONNX needs {package}: pip install 'cropjax[onnx]', or leave it out: --formats stablehlo")


def _command(config, workdir):
    jax.config.update("jax_platforms", "cpu")  # what the network computes depends on where it is traced
    given = flags.FLAGS
    if given.out is None or given.size is None:
        raise UserError("--out and --size are missing: name a file without its ending, and the images' HEIGHTxWIDTH")
    sides = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", given.size)
    if not sides:
        raise UserError(f"--size={given['size'].value}: give HEIGHTxWIDTH in pixels, for example 512x1024")
    if not given.formats or not set(given.formats) <= set(FORMATS):
        raise UserError(f"--formats={','.join(given.formats)}: give one or both of {','.join(FORMATS)}")
    export(
        config,
        workdir,
        out=given.out,
        size=tuple(map(int, sides.groups())),
        formats=given.formats,
        weights_dtype=given.weights_dtype,
        output=given.output,
        checkpoint=given.checkpoint,
    )


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "The files to write, without their endings.")
    flags.DEFINE_string("size", None, "Of the images: HEIGHTxWIDTH.")
    flags.DEFINE_list("formats", ",".join(FORMATS), "What to write: stablehlo, onnx or both.")
    flags.DEFINE_enum("weights_dtype", "float32", WEIGHTS_DTYPES, "What the kernels are stored as.")
    flags.DEFINE_enum("output", "logits", OUTPUTS, "What the files give: logits, or the classes' ids.")
    flags.DEFINE_string("checkpoint", "best", "Which one of the run: best, latest, or a step.")
    commandline.run_on_run(_command)
