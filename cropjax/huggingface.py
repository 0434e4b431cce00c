"""SegFormer's state dict as Hugging Face spells it, and as mmsegmentation does.

Queries, keys and values have a matrix each there and one for all three here; the 1x1 convolutions of the feed-forward
network and of the head are linear layers there. Names are the hub's, which transformers 4 gives to its modules;
transformers 5 has others (transformers/conversion_mapping.py) and reads the hub's too.
"""

import re

import numpy as np

# (mmsegmentation's module, the hub's); {i} is a stage, {j} a block.
MODULES = [
    ("backbone.layers.{i}.0.projection", "segformer.encoder.patch_embeddings.{i}.proj"),
    ("backbone.layers.{i}.0.norm", "segformer.encoder.patch_embeddings.{i}.layer_norm"),
    ("backbone.layers.{i}.1.{j}.norm1", "segformer.encoder.block.{i}.{j}.layer_norm_1"),
    ("backbone.layers.{i}.1.{j}.attn.attn", "segformer.encoder.block.{i}.{j}.attention.self"),
    ("backbone.layers.{i}.1.{j}.attn.attn.out_proj", "segformer.encoder.block.{i}.{j}.attention.output.dense"),
    ("backbone.layers.{i}.1.{j}.attn.sr", "segformer.encoder.block.{i}.{j}.attention.self.sr"),
    ("backbone.layers.{i}.1.{j}.attn.norm", "segformer.encoder.block.{i}.{j}.attention.self.layer_norm"),
    ("backbone.layers.{i}.1.{j}.norm2", "segformer.encoder.block.{i}.{j}.layer_norm_2"),
    ("backbone.layers.{i}.1.{j}.ffn.layers.0", "segformer.encoder.block.{i}.{j}.mlp.dense1"),
    ("backbone.layers.{i}.1.{j}.ffn.layers.1", "segformer.encoder.block.{i}.{j}.mlp.dwconv.dwconv"),
    ("backbone.layers.{i}.1.{j}.ffn.layers.4", "segformer.encoder.block.{i}.{j}.mlp.dense2"),
    ("backbone.layers.{i}.2", "segformer.encoder.layer_norm.{i}"),
    ("decode_head.convs.{i}.conv", "decode_head.linear_c.{i}.proj"),
    ("decode_head.fusion_conv.conv", "decode_head.linear_fuse"),
    ("decode_head.fusion_conv.bn", "decode_head.batch_norm"),
    ("decode_head.conv_seg", "decode_head.classifier"),
]
LINEAR = re.compile(r"\.(mlp\.dense[12]|linear_c\.\d+\.proj)\.weight$")
PROJECTIONS = ("query", "key", "value")  # in the order in which torch's in_proj holds them

# Substitutions from the names of transformers 5, and from those without `segformer.` in front, to the hub's.
OTHER_NAMES = [
    (r"^(segformer\.)?stages\.(\d+)\.patch_embeddings\.", r"segformer.encoder.patch_embeddings.\2."),
    (r"^(segformer\.)?stages\.(\d+)\.blocks\.", r"segformer.encoder.block.\2."),
    (r"^(segformer\.)?stages\.(\d+)\.layer_norm\.", r"segformer.encoder.layer_norm.\2."),
    (r"^encoder\.", "segformer.encoder."),
    (r"\.layernorm_before\.", ".layer_norm_1."),
    (r"\.layernorm_after\.", ".layer_norm_2."),
    (r"\.attention\.q_proj\.", ".attention.self.query."),
    (r"\.attention\.k_proj\.", ".attention.self.key."),
    (r"\.attention\.v_proj\.", ".attention.self.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.attention\.sequence_reduction\.sequence_reduction\.", ".attention.self.sr."),
    (r"\.attention\.sequence_reduction\.layer_norm\.", ".attention.self.layer_norm."),
    (r"\.mlp\.fc([12])\.", r".mlp.dense\1."),
    (r"^decode_head\.linear_projections\.", "decode_head.linear_c."),
]


def is_huggingface(state_dict):
    """Whether these are keys of one of Hugging Face's SegFormers, of any version, with a head or without."""
    return any(re.match(r"(segformer\.)?(encoder|stages\.\d+)\.patch_embeddings\.", key) for key in state_dict)


def hub_name(key):
    """The hub's name of what transformers 5 calls `key`, or a model without a head; the hub's own stay."""
    for pattern, name in OTHER_NAMES:
        key = re.sub(pattern, name, key)
    return key


def to_hub(state_dict):
    """mmsegmentation's names and shapes to the hub's; what the hub has no name for keeps its own."""
    found = {}
    for key, value in state_dict.items():
        name = _translate(key, _TO_HUB)
        if ".in_proj_" in name:
            for projection, third in zip(PROJECTIONS, np.split(value, 3), strict=True):
                found[name.replace("in_proj_", f"{projection}.")] = third
        else:
            found[name] = value[:, :, 0, 0] if LINEAR.search(name) else value
    return found


def from_hub(state_dict):
    """The inverse of `to_hub`, for the names and shapes that it gives."""
    found = {}
    for key, value in state_dict.items():
        head, query, leaf = key.rpartition(".query.")
        if query:
            value = np.concatenate([state_dict[f"{head}.{projection}.{leaf}"] for projection in PROJECTIONS])
            found[_translate(f"{head}.in_proj_{leaf}", _FROM_HUB)] = value
        elif ".attention.self.key." not in key and ".attention.self.value." not in key:
            found[_translate(key, _FROM_HUB)] = value[:, :, None, None] if LINEAR.search(key) else value
    return found


def _patterns(pairs):
    numbered = {"i": r"(?P<i>\d+)", "j": r"(?P<j>\d+)"}
    return [(re.compile(name.replace(".", r"\.").format(**numbered)), other) for name, other in pairs]


_TO_HUB = _patterns(MODULES)
_FROM_HUB = _patterns((hub, upstream) for upstream, hub in MODULES)


def _translate(key, patterns):
    module, _, leaf = key.rpartition(".")
    for pattern, name in patterns:
        if match := pattern.fullmatch(module):
            return f"{name.format(**match.groupdict())}.{leaf}"
    return key
