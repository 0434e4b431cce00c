"""Weights between cropjax and upstream's state dicts: names by one table, strict in both directions."""

import re

import jax
import numpy as np

from cropjax.errors import UserError

# Substitutions, applied in this order, that turn a path of ours into mmsegmentation's key.
NAMES = [
    (r"^backbone\.stem\.(\d)\.conv\.", lambda m: f"backbone.stem.{3 * int(m[1])}."),
    (r"^backbone\.stem\.(\d)\.norm\.", lambda m: f"backbone.stem.{3 * int(m[1]) + 1}."),
    (r"^backbone\.stages\.(\d)\.", lambda m: f"backbone.layer{int(m[1]) + 1}."),
    (r"^(backbone.*)\.downsample\.conv\.", r"\1.downsample.0."),
    (r"^(backbone.*)\.downsample\.norm\.", r"\1.downsample.1."),
    (r"^(backbone.*)\.conv(\d)\.conv\.", r"\1.conv\2."),
    (r"^(backbone.*)\.conv(\d)\.norm\.", r"\1.bn\2."),
    (r"^auxiliary\.", "auxiliary_head."),
    (r"^head\.", "decode_head."),
    (r"\.classifier\.conv\.", ".conv_seg."),
    (r"\.image_pool\.", ".image_pool.1."),
    (r"\.pools\.(\d)\.", r".psp_modules.\1.1."),
    (r"\.branches\.", ".aspp_modules."),
    (r"\.skip\.", ".c1_bottleneck."),
    (r"\.refine\.", ".sep_bottleneck."),
    (r"\.depthwise\.", ".depthwise_conv.conv."),
    (r"\.depthwise_norm\.", ".depthwise_conv.bn."),
    (r"\.pointwise\.", ".pointwise_conv."),
    (r"^(decode_head.*|auxiliary_head.*)\.norm\.", r"\1.bn."),
    (r"\.(kernel|scale)$", ".weight"),
    (r"\.mean$", ".running_mean"),
    (r"\.var$", ".running_var"),
]

PARTS = {"backbone": "backbone", "head": "decode_head", "auxiliary": "auxiliary_head"}


def upstream_name(path):
    """mmsegmentation's key of the parameter or statistic at `path`, dotted: `head.skip.conv.kernel` and so on."""
    for pattern, replacement in NAMES:
        path = re.sub(pattern, replacement, path)
    return path


def to_upstream(path, value):
    """Our layout to torch's: dense [kh,kw,i,o] -> [o,i,kh,kw], depthwise [kh,kw,c] -> [c,1,kh,kw]."""
    if not path.endswith(".kernel"):
        return value
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.transpose(2, 0, 1)[:, None]


def from_upstream(path, value):
    """The inverse of `to_upstream`."""
    if not path.endswith(".kernel") or value.ndim != 4:
        return value
    depthwise = path.endswith(".depthwise.kernel") and value.shape[1] == 1
    return value[:, 0].transpose(1, 2, 0) if depthwise else value.transpose(2, 3, 1, 0)


def load_torch_state(weights, state_dict, *, source="the weights", parts=("backbone", "head", "auxiliary")):
    """Fills `weights` from `state_dict`, upstream's names and layout, and returns the filled copy.

    Args:
        weights: {"params": ..., "batch_stats": ...}, pure dicts of arrays (only shapes and types are used).
        state_dict: torch key -> array. A file with a backbone alone has keys without the `backbone.` in front.
        source: what messages call the state dict.
        parts: what of the network must be filled; what is left out keeps its values and may be absent or present.

    Raises:
        UserError: a parameter that the state dict lacks, a key that the network lacks, or another shape.
    """
    # Counters of BatchNorm and the classifier of the ImageNet network have no place in a segmentor.
    state_dict = {k: v for k, v in state_dict.items() if not k.endswith("num_batches_tracked")}
    if not any(key.startswith("backbone.") for key in state_dict):
        state_dict = {f"backbone.{k}": v for k, v in state_dict.items() if not k.startswith("fc.")}
    left_out = tuple(f"{upstream}." for ours, upstream in PARTS.items() if ours not in parts)
    state_dict = {k: v for k, v in state_dict.items() if not k.startswith(left_out)}
    unused, missing, unlike = set(state_dict), [], []

    def fill(keys, leaf):
        path = jax.tree_util.keystr(keys[1:], simple=True, separator=".")
        key = upstream_name(path)
        if path.split(".")[0] not in parts:
            return leaf
        if key not in state_dict:
            missing.append(key)
            return leaf
        unused.discard(key)
        value = from_upstream(path, np.asarray(state_dict[key]))
        if value.shape != leaf.shape:
            unlike.append(f"{key} {list(np.shape(state_dict[key]))}, wanted {list(to_upstream(path, leaf).shape)}")
            return leaf
        return value.astype(leaf.dtype)

    filled = jax.tree_util.tree_map_with_path(fill, weights)
    for what, names in (
        ("lacks", missing),
        ("has keys unknown to the network:", sorted(unused)),
        ("differs in", unlike),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UserError(
                f"init_from: {source} {what} {', '.join(names[:3])}{more}; is config.model the same network?"
            )
    return filled
