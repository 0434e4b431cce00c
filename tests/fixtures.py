"""What upstream computed, in tests/reference, and our networks with the same weights.

Weights and inputs are drawn by a rule from name and shape, so a fixture holds results only; third_party says how they
are made.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from reference import rule

from cropjax.config import build_model, defaults
from cropjax.convert import load_torch_state
from cropjax.names import to_upstream, upstream_name
from cropjax.step import split_model

REFERENCE = Path(__file__).parent / "reference"


def load(name):
    """The arrays and the `meta` of tests/reference/<name>.npz."""
    arrays = np.load(REFERENCE / f"{name}.npz")
    meta = json.loads(str(arrays["meta"]))
    np.testing.assert_array_equal(rule.draw(meta["rule"]["name"], (4,)), np.float32(meta["rule"]["values"]))
    return arrays, meta


def nhwc(x):
    return jnp.asarray(x).transpose(0, 2, 3, 1)


def nchw(x):
    return np.asarray(x).transpose(0, 3, 1, 2)


def by_upstream_name(tree):
    """Our tree of parameters or statistics as {upstream's key: array in torch's layout}."""
    found = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = jax.tree_util.keystr(keys, simple=True, separator=".")
        found[upstream_name(path)] = to_upstream(path, np.asarray(leaf))
    return found


def relative(ours, theirs):
    """Largest absolute difference of two summaries over the array's largest absolute value, which comes last.

    A largest value below 1e-8 counts as that: a bias in front of a norm has no gradient, and rounding gives it 1e-18.
    """
    return np.max(np.abs(ours - theirs)[..., :-2] / np.maximum(theirs[..., -1:], 1e-8))


def config_of(model):
    """Our config of the network that upstream's `model` dict describes, without dropout or DropPath."""
    backbone, head = model["backbone"], model["decode_head"]
    match head["type"]:
        case "PSPHead" | "DepthwiseSeparableASPPHead":
            config = defaults("pspnet" if head["type"] == "PSPHead" else "deeplabv3plus")
            config.model.backbone.update(depth=backbone["depth"], width=backbone.get("base_channels", 64))
            config.model.auxiliary.update(channels=model["auxiliary_head"]["channels"], dropout=0.0)
            if "c1_channels" in head:
                config.model.head.skip_channels = head["c1_channels"]
        case "SegformerHead":
            config = defaults("segformer")
            config.model.backbone.update(widths=tuple(head["in_channels"]), depths=tuple(backbone["num_layers"]))
            config.model.backbone.drop_path = 0.0
        case "LightHamHead":
            config = defaults("segnext")
            config.model.backbone.update(widths=tuple(backbone["embed_dims"]), depths=tuple(backbone["depths"]))
            config.model.backbone.drop_path = 0.0
    config.model.align_corners = head["align_corners"]
    config.model.head.update(channels=head["channels"], dropout=0.0)
    return config


class Case:
    """A fixture of a network, and our network with the same weights."""

    def __init__(self, name, align):
        self.arrays, self.meta = load(name)
        self.part = f"ac{align}"
        self.config = config_of(self.meta["cases"][self.part]["model"])
        self.graph, weights = split_model(build_model(self.config))
        names = {**by_upstream_name(weights["params"]), **by_upstream_name(weights["batch_stats"])}
        self.weights = load_torch_state(weights, {key: rule.draw(key, value.shape) for key, value in names.items()})

    def __getitem__(self, key):
        return self.arrays[f"{self.part}/{key}"]

    def image(self, kind):
        return nhwc(rule.draw(*self.meta["inputs"][kind]))

    def bases(self, key, images, channels, rank):
        """In place of `draw_bases`: the bases that upstream's network was given."""
        return jnp.broadcast_to(rule.draw(*self.meta["bases"]), (images, channels, rank))

    def summaries(self, tree, names, count):
        found = by_upstream_name(tree)
        assert sorted(found) == sorted(names)
        return np.stack([rule.summary(name, found[name], count) for name in names])
