"""SegFormer with weights of Hugging Face's form equals transformers' own; how, tests/fixtures.py says."""

import jax
import numpy as np
import pytest
from fixtures import load, nchw, nhwc, relative
from reference import rule

from cropjax.config import build_model, defaults
from cropjax.convert import load_torch_state, torch_state
from cropjax.huggingface import hub_name, to_hub
from cropjax.step import merge_model, split_model

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")

ARRAYS, META = load("huggingface_segformer")
SEGMENTATION = "SegformerForSemanticSegmentation"


@pytest.mark.parametrize("kind", [SEGMENTATION, "SegformerForImageClassification", "SegformerModel"])
def test_names_of_version_5_and_of_the_hub(kind):
    """A model without a head lacks `segformer.` in front, which `hub_name` puts there."""
    hub = [name if name.startswith(("segformer.", "decode_head.", "classifier.")) else f"segformer.{name}"
           for name in ARRAYS[f"{kind}/hub_keys"]]  # fmt: skip
    assert [hub_name(name) for name in ARRAYS[f"{kind}/keys"]] == hub


def network(width):
    """The structure of our network at one of the fixture's widths, and the state dict and our weights, as drawn."""
    case = META["cases"][width]
    config = defaults("segformer")
    sizes = case["config"]
    config.model.backbone.update(widths=tuple(sizes["hidden_sizes"]), depths=tuple(sizes["depths"]), norm_eps=1e-5)
    config.model.head.update(channels=sizes["decoder_hidden_size"], style="huggingface")
    graph, weights = split_model(build_model(config))
    keys = [str(key) for key in ARRAYS[f"{SEGMENTATION}/keys"]]
    shapes = dict(zip(keys, case["shapes"], strict=True))
    state_dict = {k: rule.draw(k, tuple(shape)) for k, shape in shapes.items() if not k.endswith("num_batches_tracked")}
    return graph, state_dict, load_torch_state(weights, state_dict)


@pytest.mark.parametrize("width", ["tiny", "b0"])
def test_activations(width):
    graph, _, weights = network(width)
    assert sum(leaf.size for leaf in jax.tree.leaves(weights["params"])) == META["cases"][width]["parameters"]

    @jax.jit
    def forward(weights, image):
        output = merge_model(graph, weights)(image)
        return [*output.maps, output.logits]

    def compared(weights, image):
        found = zip(META["eval"], forward(weights, image), strict=True)
        ours = np.stack([rule.summary(name, nchw(value), META["values"]["eval"]) for name, value in found])
        return relative(ours, ARRAYS[f"{width}/eval"])

    image = nhwc(rule.draw(*META["inputs"]["eval"]))
    assert compared(weights, image) < 1e-5
    assert compared(jax.tree.map(lambda x: np.asarray(x, np.float64), weights), image.astype(float)) < 1e-12


def test_export_is_what_was_read():
    _, state_dict, weights = network("tiny")
    exported = to_hub(torch_state(weights))
    for key, value in state_dict.items():
        np.testing.assert_array_equal(exported.pop(hub_name(key)), value, err_msg=key)
    assert [key.rpartition(".")[2] for key in exported] == ["num_batches_tracked"]
