"""Fields of real networks against the support of their gradients, and chains against the formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config

from cropjax.config import build_model
from cropjax.errors import UserError
from cropjax.instruments.gridding import coverage
from cropjax.instruments.reach import trace
from cropjax.instruments.receptive_field import Fields, receptive_fields, section, steps
from cropjax.instruments.subject import Subject
from cropjax.models import resnet
from cropjax.ops.conv import conv
from cropjax.ops.plain import plain
from cropjax.step import merge_model, split_model

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")


def network(depth, output_stride, head="deeplabv3plus"):
    config = tiny_config(head)
    config.model.backbone.update(depth=depth, width=2, output_stride=output_stride)
    config.model.head.channels = 2
    config.model.norm.eps = 0.0
    if head == "deeplabv3plus":
        config.model.head.update(dilations=(1, 2, 3, 5), skip_channels=2)
    graph, weights = split_model(build_model(config))
    positive = jax.tree.map(lambda x: np.ones(x.shape) / max(x[..., 0].size, 1), weights["params"])
    return graph, weights | {"params": positive}


def branches(graph, weights, images):
    """Every map of the network that no pooling over the image comes before."""
    model = merge_model(graph, weights)
    maps = model.backbone(images, False)
    found = {f"stage {i + 1}": x for i, x in enumerate(maps)}
    for i, branch in enumerate(getattr(model.head, "branches", [])):
        found[f"branch {i}"] = branch(maps[-1], False)
    if hasattr(model.head, "skip"):
        found["skip"] = model.head.skip(maps[0], False)
    found["auxiliary"] = model.auxiliary(maps, False, None)
    return found


def mean_pool(x):
    """In place of the maximum, whose gradient goes to one of the pixels that it looks at."""
    window = (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, *window) / 9


def place(count):
    return sorted({0, 1, count // 2, count - 1})


@pytest.mark.parametrize(
    ("depth", "output_stride", "size"),
    [
        (50, 8, (65, 64)),
        *((18, 16, size) for size in ((65, 64), (97, 65), (48, 81))),
        *(pytest.param(50, 8, size, marks=pytest.mark.slow) for size in ((97, 65), (48, 81))),
    ],
)
def test_fields_of_every_branch_are_the_support_of_the_gradient(depth, output_stride, size, monkeypatch):
    graph, weights = network(depth, output_stride)

    def function(weights, images):
        return list(branches(graph, weights, images).values())

    traced = trace(function, weights, size).maps
    monkeypatch.setattr(resnet, "max_pool", mean_pool)
    image = jnp.ones((1, *size, 3))

    def summed(image):
        with plain():
            return [x[0].sum(-1) for x in function(weights, image)]

    shapes, pull = jax.vjp(jax.jit(summed), image)
    assert len(traced) == len(shapes) == 4 + 4 + 1 + 1
    pull = jax.jit(jax.vmap(pull))
    for k, (rows, columns) in enumerate(traced):
        h, w = shapes[k].shape
        assert (len(rows), len(columns)) == (h, w)
        chosen = [(y, x) for y in place(h) for x in place(w)]
        seeds = [np.zeros((len(chosen), *x.shape)) for x in shapes]
        for i, (y, x) in enumerate(chosen):
            seeds[k][i, y, x] = 1
        (gradients,) = pull(seeds)
        for (y, x), gradient in zip(chosen, gradients, strict=True):
            found = np.asarray(gradient[0]).any(-1)
            np.testing.assert_array_equal(found, np.multiply.outer(rows[y], columns[x]))
            box = found[np.ix_(found.any(1), found.any(0))]  # has all rows and columns that are looked at
            inside = np.ptp(np.flatnonzero(found.any(1))) + 1, np.ptp(np.flatnonzero(found.any(0))) + 1
            assert found.sum() / np.prod(inside) == pytest.approx(coverage(rows, columns)[y, x])
            assert box.all()


def test_the_field_is_the_size_of_the_support_away_from_the_border():
    graph, weights = network(18, 16)
    fields, layers = receptive_fields(lambda w, x: branches(graph, w, x), weights)
    assert [field.name for field in fields][:2] == ["stage 1", "stage 2"]
    for field in fields:
        side = 2 * field.size[0] + 64
        rows, _ = trace(lambda w, x, name=field.name: branches(graph, w, x)[name], weights, (side, 33)).maps
        middle = round((side / 2 - field.offset[0]) / field.jump[0])
        seen = np.flatnonzero(rows[middle])
        assert np.ptp(seen) + 1 == field.size[0]
        assert seen.mean() == field.offset[0] + middle * field.jump[0]
    assert all(
        layer.size[0] <= fields[-3].size[0] or "head" in layer.name or "auxiliary" in layer.name for layer in layers
    )


@pytest.mark.parametrize("kernels", [(3, 3, 3), (7, 3, 5, 1), (3, 5)])
def test_a_chain_has_the_field_of_the_formula(kernels):
    strides, dilations = (2, 1, 2, 1)[: len(kernels)], (1, 3, 2, 1)[: len(kernels)]
    weights = [np.ones((k, k, 1, 1)) for k in kernels]

    def chain(weights, x):
        for kernel, stride, dilation in zip(weights, strides, dilations, strict=True):
            x = conv(x, kernel, stride=stride, dilation=dilation, padding=dilation * (len(kernel) // 2))
        return {"end": x}

    ((end,), _) = receptive_fields(chain, weights, channels=1)
    size = jump = 1
    for kernel, stride, dilation in zip(kernels, strides, dilations, strict=True):
        size, jump = size + dilation * (kernel - 1) * jump, jump * stride
    assert (end.size, end.jump, end.offset) == ((size, size), (jump, jump), (0, 0))


def test_a_pooled_branch_sees_the_whole_image():
    graph, weights = network(18, 16, "pspnet")
    (logits,), layers = receptive_fields(lambda w, x: {"logits": merge_model(graph, w)(x).logits}, weights)
    assert logits.size == (None, None)
    assert logits.jump == (16, 16)
    pools = [layer.size for layer in layers if "pools" in layer.name]
    assert pools == [(None, None)] * 4  # a cell is no field: it grows with the image


def test_branches_of_different_jumps_are_an_error():
    def function(weights, x):
        near, far = conv(x, weights, stride=2, padding=1), conv(x, weights, stride=4, padding=1)
        return {"joined": far + near[:, : far.shape[1], : far.shape[2]]}

    with pytest.raises(UserError, match=r"joined: .* branches of different jumps: resize them"):
        receptive_fields(function, np.ones((3, 3, 1, 1)), channels=1)


@pytest.mark.parametrize(
    "name",
    ["pspnet", pytest.param("segformer", marks=pytest.mark.slow), pytest.param("segnext", marks=pytest.mark.slow)],
)
def test_section(name):
    config = tiny_config(name)
    graph, weights = split_model(build_model(config))
    subject = Subject("tiny", config, graph, {"drawn": weights}, ((33, 33), (49, 65)), (64, 128))
    (step,) = steps(subject)
    fields = step.measure()
    assert isinstance(fields, Fields)
    found = section(subject, [fields])
    assert [row[0] for row in found.tables[0].rows] == [f"stage {i}" for i in (1, 2, 3, 4)] + ["logits"]
    whole = [field.name for field in fields.maps if None in field.size]
    assert f"At {', '.join(whole)} the field has no size of its own" in found.words
    assert "logits" in whole
    assert len(found.tables[1].rows) == len(fields.layers)
