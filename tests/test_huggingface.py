"""Hugging Face's SegFormers: names, packed projections and linear layers, there and back.

The key lists follow the modules of transformers 4 and 5 (models/segformer/modeling_segformer.py), written out by rule.
"""

import jax
import numpy as np
import pytest

from cropjax.config import build_model, defaults
from cropjax.convert import load_torch_state, torch_state
from cropjax.errors import UserError
from cropjax.huggingface import from_hub, is_huggingface, to_hub
from cropjax.step import split_model

WIDTHS, DEPTHS, CHANNELS, CLASSES = (2, 4, 10, 16), (2, 1, 1, 2), 6, 19
REDUCTIONS, KERNELS = (8, 4, 2, 1), (7, 3, 3, 3)

# What the hub and transformers 4 call the modules of stage i, block j; transformers 5 below.
HUB = {
    "embed": "segformer.encoder.patch_embeddings.{i}.proj",
    "embed_norm": "segformer.encoder.patch_embeddings.{i}.layer_norm",
    "norm1": "segformer.encoder.block.{i}.{j}.layer_norm_1",
    "query": "segformer.encoder.block.{i}.{j}.attention.self.query",
    "key": "segformer.encoder.block.{i}.{j}.attention.self.key",
    "value": "segformer.encoder.block.{i}.{j}.attention.self.value",
    "out": "segformer.encoder.block.{i}.{j}.attention.output.dense",
    "reduce": "segformer.encoder.block.{i}.{j}.attention.self.sr",
    "reduce_norm": "segformer.encoder.block.{i}.{j}.attention.self.layer_norm",
    "norm2": "segformer.encoder.block.{i}.{j}.layer_norm_2",
    "expand": "segformer.encoder.block.{i}.{j}.mlp.dense1",
    "depthwise": "segformer.encoder.block.{i}.{j}.mlp.dwconv.dwconv",
    "project": "segformer.encoder.block.{i}.{j}.mlp.dense2",
    "norm": "segformer.encoder.layer_norm.{i}",
    "projection": "decode_head.linear_c.{i}.proj",
}
VERSION_5 = {
    "embed": "segformer.stages.{i}.patch_embeddings.proj",
    "embed_norm": "segformer.stages.{i}.patch_embeddings.layer_norm",
    "norm1": "segformer.stages.{i}.blocks.{j}.layernorm_before",
    "query": "segformer.stages.{i}.blocks.{j}.attention.q_proj",
    "key": "segformer.stages.{i}.blocks.{j}.attention.k_proj",
    "value": "segformer.stages.{i}.blocks.{j}.attention.v_proj",
    "out": "segformer.stages.{i}.blocks.{j}.attention.o_proj",
    "reduce": "segformer.stages.{i}.blocks.{j}.attention.sequence_reduction.sequence_reduction",
    "reduce_norm": "segformer.stages.{i}.blocks.{j}.attention.sequence_reduction.layer_norm",
    "norm2": "segformer.stages.{i}.blocks.{j}.layernorm_after",
    "expand": "segformer.stages.{i}.blocks.{j}.mlp.fc1",
    "depthwise": "segformer.stages.{i}.blocks.{j}.mlp.dwconv.dwconv",
    "project": "segformer.stages.{i}.blocks.{j}.mlp.fc2",
    "norm": "segformer.stages.{i}.layer_norm",
    "projection": "decode_head.linear_projections.{i}.proj",
}


def shapes(names):
    """key -> shape of SegformerForSemanticSegmentation, its modules called as `names` says."""
    found = {}

    def module(name, *shape, bias=True, i=None, j=None):
        key = names.get(name, name).format(i=i, j=j)
        found[f"{key}.weight"] = shape
        if bias:
            found[f"{key}.bias"] = shape[:1]

    for i, (c, depth, r, k) in enumerate(zip(WIDTHS, DEPTHS, REDUCTIONS, KERNELS, strict=True)):
        module("embed", c, WIDTHS[i - 1] if i else 3, k, k, i=i)
        module("embed_norm", c, i=i)
        for j in range(depth):
            for name in ("norm1", "norm2", *(["reduce_norm"] if r > 1 else [])):
                module(name, c, i=i, j=j)
            for name in ("query", "key", "value", "out"):
                module(name, c, c, i=i, j=j)
            if r > 1:
                module("reduce", c, c, r, r, i=i, j=j)
            module("expand", 4 * c, c, i=i, j=j)
            module("depthwise", 4 * c, 1, 3, 3, i=i, j=j)
            module("project", c, 4 * c, i=i, j=j)
        module("norm", c, i=i)
        module("projection", CHANNELS, c, i=i)
    module("decode_head.linear_fuse", CHANNELS, 4 * CHANNELS, 1, 1, bias=False)
    module("decode_head.batch_norm", CHANNELS)
    found["decode_head.batch_norm.running_mean"] = found["decode_head.batch_norm.running_var"] = (CHANNELS,)
    found["decode_head.batch_norm.num_batches_tracked"] = ()
    module("decode_head.classifier", CLASSES, CHANNELS, 1, 1)
    return found


def drawn(names, seed=0):
    """A file with these names; the same tensors, whatever the names."""
    rng = np.random.default_rng(seed)
    return {key: rng.random(shape).astype(np.float32) for key, shape in shapes(names).items()}


def network(style="huggingface"):
    config = defaults("segformer")
    config.model.backbone.update(widths=WIDTHS, depths=DEPTHS)
    config.model.head.update(channels=CHANNELS, style=style)
    return split_model(build_model(config))[1]


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


def test_export_has_the_hubs_names_and_shapes():
    exported = to_hub(torch_state(network(), steps=7))
    assert {key: value.shape for key, value in exported.items()} == shapes(HUB)
    assert exported["decode_head.batch_norm.num_batches_tracked"] == 7


def test_there_and_back_is_the_identity():
    state_dict = drawn(HUB)
    assert_same(to_hub(from_hub(state_dict)), state_dict)
    filled = load_torch_state(network(), state_dict)
    state_dict["decode_head.batch_norm.num_batches_tracked"] = 0
    assert_same(to_hub(torch_state(filled)), state_dict)


def test_what_goes_where():
    state_dict = drawn(HUB)
    filled = load_torch_state(network(), state_dict)["params"]
    block = filled["backbone"]["stages"][2]["blocks"][0]
    hub = "segformer.encoder.block.2.0."
    for third, name in enumerate(("query", "key", "value")):
        columns = slice(10 * third, 10 * third + 10)
        in_proj = block["attention"]["in_proj"]
        np.testing.assert_array_equal(in_proj["kernel"][:, columns].T, state_dict[f"{hub}attention.self.{name}.weight"])
        np.testing.assert_array_equal(in_proj["bias"][columns], state_dict[f"{hub}attention.self.{name}.bias"])
    np.testing.assert_array_equal(block["ffn"]["expand"]["kernel"][0, 0].T, state_dict[f"{hub}mlp.dense1.weight"])
    projection = filled["head"]["projections"][1]["conv"]["kernel"]
    np.testing.assert_array_equal(projection[0, 0].T, state_dict["decode_head.linear_c.1.proj.weight"])


@pytest.mark.parametrize("names", [HUB, VERSION_5], ids=["hub", "version 5"])
def test_every_kind_of_file(names):
    """Both versions' names, the head or none, `segformer.` in front or not, an ImageNet classifier."""
    expected = load_torch_state(network(), drawn(HUB))
    whole = drawn(names)
    assert is_huggingface(whole)
    jax.tree.map(np.testing.assert_array_equal, load_torch_state(network(), whole), expected)
    encoder = {key: value for key, value in whole.items() if key.startswith("segformer.")}
    bare = {key.removeprefix("segformer."): value for key, value in encoder.items()}
    classification = encoder | {"classifier.weight": np.zeros((1000, 16)), "classifier.bias": np.zeros(1000)}
    for state_dict in (encoder, bare, classification):
        assert is_huggingface(state_dict)
        for style in ("huggingface", "mmseg"):  # the backbone is the same
            filled = load_torch_state(network(style), state_dict, parts=("backbone",))
            jax.tree.map(np.testing.assert_array_equal, filled["params"]["backbone"], expected["params"]["backbone"])


def test_the_head_alone():
    start, state_dict = network(), drawn(HUB)
    filled = load_torch_state(start, state_dict, parts=("head",))["params"]
    jax.tree.map(np.testing.assert_array_equal, filled["backbone"], start["params"]["backbone"])
    fused = state_dict["decode_head.linear_fuse.weight"]
    np.testing.assert_array_equal(filled["head"]["fuse"]["conv"]["kernel"][0, 0].T, fused[:, :, 0, 0])


def refusal(state_dict, style="huggingface"):
    with pytest.raises(UserError, match=r"^file\.pth ") as error:
        load_torch_state(network(style), state_dict, source="file.pth")
    return str(error.value)


def test_messages_have_the_hubs_names():
    state_dict = drawn(VERSION_5)
    key = state_dict.pop("segformer.stages.1.blocks.0.attention.k_proj.bias")
    assert "lacks segformer.encoder.block.1.0.attention.self.key.bias;" in refusal(state_dict)
    state_dict |= {"segformer.stages.1.blocks.0.attention.k_proj.bias": key[:2]}
    assert "segformer.encoder.block.1.0.attention.self.key.bias [2], wanted [4]" in refusal(state_dict)
    more = drawn(HUB) | {"segformer.encoder.block.0.2.layer_norm_1.bias": np.zeros(2)}
    assert "unknown to the network: segformer.encoder.block.0.2.layer_norm_1.bias;" in refusal(more)


def test_other_classes():
    state_dict = drawn(HUB) | {
        "decode_head.classifier.weight": np.zeros((150, CHANNELS, 1, 1), np.float32),
        "decode_head.classifier.bias": np.zeros(150, np.float32),
    }
    assert "has 150 classes, the network 19: --config.init_classifier=False" in refusal(state_dict)
    start = network()
    filled = load_torch_state(start, state_dict, classifier=False)
    kept, given = filled["params"]["head"]["classifier"], start["params"]["head"]["classifier"]
    jax.tree.map(np.testing.assert_array_equal, kept, given)


def test_another_style_of_head():
    assert "set model.head.style = 'huggingface'" in refusal(drawn(HUB), "mmseg")
    assert "lacks decode_head.convs.0.conv.bias" in refusal(torch_state(network("mmseg")))


def test_two_names_for_one_parameter():
    assert "two names" in refusal(drawn(HUB) | drawn(VERSION_5))
