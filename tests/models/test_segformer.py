"""SegFormer's head against its definition, in both styles; in float64."""

from functools import partial

import jax
import numpy as np
import pytest

from cropjax.models.layers import BatchNorm
from cropjax.models.segformer import SegformerHead
from cropjax.ops.resize import resize_bilinear
from cropjax.step import merge_model, split_model

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")

CHANNELS = (2, 3, 4, 5)
EPS = 0.1
MAPS = [
    np.random.default_rng(c).standard_normal((2, *size, c))
    for c, size in zip(CHANNELS, [(9, 12), (5, 6), (3, 3), (2, 2)], strict=True)
]


def build(**args):
    head = SegformerHead(
        CHANNELS, 7, rng=np.random.default_rng(0), norm=partial(BatchNorm, eps=EPS), align_corners=False, channels=6,
        **args,
    )  # fmt: skip
    graph, weights = split_model(head)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: p if p.any() else rng.standard_normal(p.shape), weights["params"])
    return merge_model(graph, weights | {"params": params})


def normed(x, layer):
    """At test, with the statistics that a BatchNorm starts with."""
    return np.maximum(x / np.sqrt(1 + EPS) * layer.norm.scale[...] + layer.norm.bias[...], 0)


@pytest.mark.parametrize("style", ["mmseg", "huggingface"])
def test_head_is_its_definition(style):
    head = build(style=style)
    projected = []
    for layer, x in zip(head.projections, MAPS, strict=True):
        y = x @ layer.conv.kernel[0, 0]
        y = normed(y, layer) if style == "mmseg" else y + layer.conv.bias[...]
        projected.append(resize_bilinear(y, (9, 12), align_corners=False))
    if style == "huggingface":
        projected.reverse()
    fused = normed(np.concatenate(projected, -1) @ head.fuse.conv.kernel[0, 0], head.fuse)
    expected = fused @ head.classifier.conv.kernel[0, 0] + head.classifier.conv.bias[...]
    got = jax.jit(lambda maps: head(maps, False, None))(MAPS)
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_styles_differ_in_the_projections_alone():
    ours, hub = build(style="mmseg"), build(style="huggingface")
    assert all(layer.norm is not None and layer.conv.bias is None for layer in ours.projections)
    assert all(layer.norm is None and layer.conv.bias is not None and not layer.relu for layer in hub.projections)
    for part in ("fuse", "classifier"):
        shapes = [jax.tree.map(np.shape, split_model(getattr(head, part))[1]) for head in (ours, hub)]
        assert shapes[0] == shapes[1]
