"""Weights between cropjax and torch: published files in, runs and published files out. Strict in both directions.

    python -m cropjax.convert --config FILE --workdir RUN --out net.safetensors [--checkpoint best|latest|STEP]
    python -m cropjax.convert --config FILE --weights published.pth --out net.safetensors
    python -m cropjax.convert --mmseg_config THEIRS.py --out configs/mine.py

The first writes a trained run, the second what it read: the network of the config, or its backbone alone where the
file has no more. Names and shapes are mmsegmentation's; with `model.head.style = "huggingface"` they are the Hugging
Face hub's. The third reads one of mmsegmentation's configs, which is not run, and writes ours; see `mmseg`. A file that
is there already is never overwritten.
"""

import json
import os
import re
import sys
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy
from absl import flags
from flax import nnx

from cropjax import commandline, huggingface
from cropjax.config import build_model
from cropjax.errors import UserError
from cropjax.mmseg.mapping import map_config
from cropjax.mmseg.reading import read_config
from cropjax.mmseg.writing import report, write_config
from cropjax.names import PARTS, from_upstream, to_upstream, upstream_name
from cropjax.provenance import command
from cropjax.restore import restore_run
from cropjax.sharding import make_mesh
from cropjax.step import split_model, weights_of
from cropjax.weights import read_weights

# What files hold besides the network: BatchNorm's counters, the classifier of an ImageNet network, and the bases that
# a SegNeXt head with rand_init False keeps; ours are drawn from a key.
IGNORED = re.compile(r"num_batches_tracked$|^(fc|head|classifier)\.|^decode_head\.hamburger\.ham\.bases$")
CLASSIFIER = re.compile(r"^(decode_head|auxiliary_head)\.(conv_seg|classifier)\.")


# ------------------------------------------------------------------------------------------------------------------ in


def load_torch_state(model, state_dict, *, source="the state dict", parts=tuple(PARTS), classifier=True):
    """Fills a network from a torch state dict, every parameter from one key and every key into one parameter.

    It takes mmsegmentation's segmentors and backbones, torchvision's ResNets, the backbones of MSCAN's authors, and
    Hugging Face's SegFormers of transformers 4 and 5, with a segmentation head, ImageNet's or none.

    Args:
        model: an nnx module, which is filled in place; or weights {"params", "batch_stats"}, which stay as they are.
        state_dict: torch key -> array, for example of `read_weights`.
        source: what messages call the state dict.
        parts: what of the network must be filled; what is left out keeps its values and may be absent or present.
        classifier: whether the last layers of the heads are filled too, which know the number of classes.

    Returns:
        The filled weights, pure dicts of NumPy arrays.

    Raises:
        UserError: a parameter that the state dict lacks, a key that the network lacks, another shape, or a value that
            no trained network has: not finite in float32, or a negative variance.
    """
    weights = split_model(model)[1] if isinstance(model, nnx.Module) else model
    state_dict = _plain_names(state_dict, source)
    spell, read = _spelling(state_dict)
    found = {key: np.asarray(value) for key, value in _of(state_dict, parts, classifier).items()}
    wanted = spell(_of(upstream_state(weights), parts, classifier))  # what the file would be, were it this network's
    _check_parts(found, wanted, source)
    if huggingface.is_huggingface(state_dict) and any(key.startswith("decode_head.convs.") for key in wanted):
        raise UserError(
            f"{source} has the head of Hugging Face's SegFormer: set model.head.style = 'huggingface' and "
            "model.backbone.norm_eps = 1e-5, or leave 'head' out of init_parts"
        )
    _check_same(found, wanted, source)
    _check_values(found, source)
    values = read(found)

    def fill(keys, leaf):
        path = _path(keys)
        key = upstream_name(path)
        return from_upstream(path, values[key], leaf.ndim).astype(leaf.dtype) if key in values else leaf

    filled = jax.tree_util.tree_map_with_path(fill, weights)
    if isinstance(model, nnx.Module):
        nnx.update(model, filled["params"], filled["batch_stats"])
    return filled


def parts_of(state_dict):
    """The parts of a network that a torch state dict holds, in the order of `PARTS`."""
    found = {_part(key) for key in _plain_names(state_dict, "the state dict")}
    return tuple(part for part in PARTS if part in found)


def _plain_names(state_dict, source):
    """Without what is ignored, and with the names of one version where a network's versions differ in names alone."""
    rename = huggingface.hub_name if huggingface.is_huggingface(state_dict) else _mmseg_name
    renamed = {rename(key): value for key, value in state_dict.items() if not IGNORED.search(key)}
    if len(renamed) < sum(not IGNORED.search(key) for key in state_dict):
        raise UserError(f"{source} has the same parameter under two names; save one model.state_dict() alone")
    return renamed


def _mmseg_name(key):
    """MSCAN's authors have a module around the depthwise convolution of each feed-forward network."""
    return key.replace(".mlp.dwconv.dwconv.", ".mlp.dwconv.")


def _spelling(state_dict):
    """Two functions from state dict to state dict: mmsegmentation's segmentor to what this one is, and back."""
    if huggingface.is_huggingface(state_dict):
        return huggingface.to_hub, huggingface.from_hub
    if any(key.startswith("backbone.") for key in state_dict):
        return dict, dict
    return (
        lambda segmentor: {key.removeprefix("backbone."): value for key, value in segmentor.items()},
        lambda backbone: {f"backbone.{key}": value for key, value in backbone.items()},
    )


def _part(key):
    """The part that a key belongs to; backbones go by many names, heads by one."""
    return next((part for part, upstream in PARTS.items() if key.startswith(f"{upstream}.")), "backbone")


def _of(state_dict, parts, classifier):
    """What of a state dict belongs to `parts`, with the classifiers of the heads or without."""
    return {
        key: value
        for key, value in state_dict.items()
        if _part(key) in parts and (classifier or not CLASSIFIER.match(key))
    }


def _check_parts(found, wanted, source):
    for part, name in {"backbone": "backbone", "head": "head", "auxiliary": "auxiliary head"}.items():
        there, here = (any(_part(key) == part for key in keys) for keys in (found, wanted))
        if here and not there:
            raise UserError(f"{source} has no {name}: leave {part!r} out of init_parts")
        if there and not here:
            raise UserError(
                f"{source} has a part that the network lacks, its {name}: leave {part!r} out of init_parts"
                + (", or set loss.auxiliary_weight" if part == "auxiliary" else "")
            )


def _check_same(found, wanted, source):
    def described(value):
        return f"{'' if value.dtype.kind == 'f' else f'{value.dtype} '}{list(value.shape)}"

    lacking = [key for key in wanted if key not in found]
    unknown = [key for key in found if key not in wanted]
    unlike = [key for key in wanted if key in found and described(found[key]) != described(wanted[key])]
    if not lacking and not unknown and unlike and all(map(CLASSIFIER.match, unlike)):
        theirs, ours = (values[unlike[0]].shape[0] for values in (found, wanted))
        if theirs != ours and all(found[key].shape[1:] == wanted[key].shape[1:] for key in unlike):
            raise UserError(
                f"{source} has {theirs} classes, the network {ours}: --config.init_classifier=False keeps the "
                "classifier as drawn, init_parts without the head leaves all of it out"
            )
    for what, names in (
        ("lacks", lacking),
        ("has keys unknown to the network:", list(map(_shown, unknown))),
        ("differs in", [f"{_shown(key)} {described(found[key])}, wanted {described(wanted[key])}" for key in unlike]),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UserError(f"{source} {what} {', '.join(names[:3])}{more}; is config.model the same network?")


def _check_values(found, source):
    for key, value in found.items():
        with np.errstate(over="ignore"):
            finite = np.isfinite(value.astype(np.float32)).all()
        if not finite:
            raise UserError(f"{source} has nan or infinite values in {_shown(key)}: take a checkpoint from before that")
        if key.endswith("running_var") and (value < 0).any():
            raise UserError(f"{source} has negative values in {_shown(key)}, a variance: download or convert it again")


def _shown(key):
    """A key of a file as part of a line, whatever it is made of."""
    return repr(key)[1:-1][:100]


# ----------------------------------------------------------------------------------------------------------------- out


def torch_state(weights, steps=0):
    """`weights` {"params", "batch_stats"} as mmsegmentation's state dict: key -> NumPy array in torch's layout.

    `steps` is what BatchNorm's counters say; torch counts batches in them and uses the number for nothing by default.
    For SegFormers with Hugging Face's head `huggingface.to_hub` gives that state dict the hub's names.
    """
    state_dict = upstream_state(weights)
    norms = [key.removesuffix("running_mean") for key in state_dict if key.endswith(".running_mean")]
    return state_dict | {f"{norm}num_batches_tracked": np.array(steps, np.int64) for norm in norms}


def upstream_state(weights):
    """Parameters and statistics by mmsegmentation's keys, in torch's layout."""
    leaves = ((_path(keys), np.asarray(leaf)) for keys, leaf in jax.tree_util.tree_leaves_with_path(weights))
    return {upstream_name(path): to_upstream(path, leaf) for path, leaf in leaves}


def _path(keys):
    return jax.tree_util.keystr(keys[1:], simple=True, separator=".")


def write_safetensors(path, state_dict, metadata):
    """Writes a new file, all or nothing; `metadata` are strings for its header, where torch's format is noted too."""
    arrays = {key: np.array(value, order="C") for key, value in state_dict.items()}
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_bytes(safetensors.numpy.save(arrays, metadata={"format": "pt"} | metadata))
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): name another --out") from error
    finally:
        temporary.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------------------- the command


def convert(config, workdir, *, out, weights=None, checkpoint="best"):
    """Writes the weight file `weights`, or a checkpoint of the run in `workdir`, to the `.safetensors` file `out`."""
    out = _new_file(out, ".safetensors")
    state_dict = published(config, weights) if weights else trained(config, workdir, checkpoint)
    if config.model.head.get("style") == "huggingface":
        state_dict = huggingface.to_hub(state_dict)
    write_safetensors(out, state_dict, {"config": json.dumps(config.to_dict()), "command": command()})
    print(f"{out}: {len(state_dict)} tensors of {', '.join(parts_of(state_dict))}")


def convert_config(theirs, out):
    """Writes mmsegmentation's config `theirs` as one of ours, the `.py` file `out`, and prints what became of it."""
    theirs, out = Path(theirs), _new_file(out, ".py")
    mapped = map_config(read_config(theirs), theirs)
    write_config(mapped, theirs, out)
    print(*report(mapped), f"{out}: written and valid, {len(mapped.left)} settings not mapped", sep="\n")


def _new_file(out, suffix):
    out = Path(out)
    if out.suffix != suffix:
        raise UserError(f"--out={out}: give a name that ends in {suffix}")
    if out.exists():
        raise UserError(f"--out={out} exists already: remove it, or name another")
    if not out.parent.is_dir():
        raise UserError(f"--out={out}: there is no folder {out.parent}; make it, or name another")
    return out


def published(config, path):
    """The state dict of what the file has of the configured network; what was not read is not in it."""
    state_dict = read_weights(path)
    parts, classifier = parts_of(state_dict), config.init_classifier
    weights = split_model(build_model(config))[1]
    filled = load_torch_state(weights, state_dict, source=str(path), parts=parts, classifier=classifier)
    return _of(torch_state(filled), parts, classifier)


def trained(config, workdir, which):
    """The state dict of a checkpoint of the run in `workdir`: "best", "latest" or a step, as text."""
    step, _, state = restore_run(config, workdir, which, make_mesh(data=-1, space=1))
    return torch_state(weights_of(state), step)


def _command(config, workdir):
    given = flags.FLAGS
    if given.out is None:
        raise UserError("--out is missing: name the .safetensors file to write")
    if given.weights and (commandline.WORKDIR.value or given["checkpoint"].present):
        raise UserError("--weights reads a file: leave out --workdir and --checkpoint, which name a run")
    convert(config, workdir, out=given.out, weights=given.weights, checkpoint=given.checkpoint)


def _command_for_configs():
    given = flags.FLAGS
    if given.out is None:
        raise UserError("--out is missing: name the config file to write, for example --out configs/mine.py")
    if given.weights or given["checkpoint"].present:
        raise UserError("--mmseg_config reads a config: leave out --weights and --checkpoint")
    convert_config(given.mmseg_config, given.out)


if __name__ == "__main__":
    flags.DEFINE_string("weights", None, "The weight file to convert; without it, a checkpoint of the run.")
    flags.DEFINE_string("checkpoint", "best", "Which one of the run: best, latest, or a step.")
    flags.DEFINE_string("mmseg_config", None, "A config of mmsegmentation to convert, instead of weights.")
    flags.DEFINE_string("out", None, "The file to write: .safetensors, or .py for a config.")
    if any(word.lstrip("-").partition("=")[0] == "mmseg_config" for word in sys.argv[1:]):
        commandline.run_without_config(_command_for_configs)
    else:
        commandline.run(_command)
