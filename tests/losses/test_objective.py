"""The sum of losses that a config asks for."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import draw
from tiny import tiny_config

from cropjax.config import build_model, build_objective, build_optimizer, defaults, example_form
from cropjax.losses.accuracy import pixel_accuracy
from cropjax.losses.cross_entropy import cross_entropy, pixel_cross_entropy, resized_cross_entropy
from cropjax.losses.dice import dice
from cropjax.losses.focal import focal
from cropjax.losses.lovasz import lovasz_softmax
from cropjax.losses.objective import OF_PIXELS, OF_REGIONS, Objective
from cropjax.losses.ohem import hard_pixels
from cropjax.ops.resize import resize_bilinear
from cropjax.sharding import batch_form, make_mesh
from cropjax.step import abstract_state, create_state, make_train_step, run_key, segmentation_loss, split_model
from cropjax.validation import validate

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")

WEIGHTS = (1, 2, 0.5, 0, 3, 1, 1)


def both(function, logits, labels):
    """Loss, accuracy and gradient."""
    return jax.tree.leaves(jax.jit(jax.value_and_grad(lambda x: function(x, labels), has_aux=True))(logits))


def small(dtype=np.float64):
    """Logits at a stride, and labels."""
    return draw(h=3, w=4)[0].astype(dtype), draw(h=9, w=13)[1]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [(), WEIGHTS])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_alone_is_that_in_bands_to_the_bit(dtype, weights, smoothing):
    logits, labels = small(dtype)
    keywords = dict(align_corners=False, average="valid")
    objective = Objective(class_weights=weights, label_smoothing=smoothing, **keywords)
    plain = partial(resized_cross_entropy, weights=weights, smoothing=smoothing, **keywords)
    for a, b in zip(both(objective, logits, labels), both(plain, logits, labels), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_default_of_a_config_is_plain_cross_entropy_to_the_bit():
    logits, labels = small(np.float32)
    plain, objective = partial(resized_cross_entropy, align_corners=False), build_objective(defaults("pspnet"))
    for a, b in zip(both(objective, logits, labels), both(plain, logits, labels), strict=True):
        np.testing.assert_array_equal(a, b)


def test_rows_that_are_split_are_not_cut_into_bands():
    logits, labels = small()
    in_bands, at_once = (Objective(False, label_smoothing=0.1, in_bands=choice) for choice in (True, False))
    assert "scan" in str(jax.make_jaxpr(in_bands)(logits, labels))
    assert "scan" not in str(jax.make_jaxpr(at_once)(logits, labels))
    for a, b in zip(both(in_bands, logits, labels), both(at_once, logits, labels), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("average", ["all", "valid"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_a_weighted_sum_of_losses_at_full_size(average, align_corners):
    logits, labels = small()
    objective = Objective(
        align_corners,
        average=average,
        class_weights=WEIGHTS,
        terms=dict(cross_entropy=1.0, focal=2.0, dice=3.0, lovasz=4.0),
        label_smoothing=0.1,
        focal=dict(gamma=1.5, alpha=0.25),
        dice=dict(activation="softmax"),
    )

    def expected(logits, labels):
        full = resize_bilinear(logits, labels.shape[1:], align_corners=align_corners)
        count = labels.size if average == "all" else (labels != 255).sum()
        entropy = cross_entropy(full, labels, average=average, weights=WEIGHTS, smoothing=0.1)
        of_focal = focal(full, labels, gamma=1.5, alpha=0.25, weights=WEIGHTS).sum() / count
        regions = 3 * dice(full, labels, activation="softmax") + 4 * lovasz_softmax(full, labels, weights=WEIGHTS)
        return entropy + 2 * of_focal + regions, pixel_accuracy(full, labels)

    for a, b in zip(both(objective, logits, labels), both(expected, logits, labels), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)  # the divisor's 1.2e-7


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_hard_pixels_are_divided_by_all(threshold):
    logits, labels = draw()
    ohem = dict(min_kept=4, threshold=threshold)
    loss, accuracy = Objective(False, ohem=ohem)(logits, labels)
    losses = pixel_cross_entropy(logits, labels)
    chosen = hard_pixels(logits, labels, losses, **ohem)
    np.testing.assert_allclose(loss, losses[chosen].sum() / labels.size, rtol=1e-6)
    assert 0 < loss < cross_entropy(logits, labels)
    assert accuracy == pixel_accuracy(logits, labels)


def test_hard_pixels_are_those_of_the_sum_of_losses():
    """Other losses than of pixels see all."""
    logits, labels = draw()
    terms = dict(cross_entropy=0.1, focal=5.0, dice=2.0)
    loss, _ = Objective(False, terms=terms, ohem=dict(min_kept=4, threshold=0.0))(logits, labels)
    losses = 0.1 * pixel_cross_entropy(logits, labels) + 5 * focal(logits, labels)
    kept = np.sort(losses, axis=None)[-8:].sum() / labels.size
    np.testing.assert_allclose(loss, kept + 2 * dice(logits, labels), rtol=1e-6)


def test_nothing_valid_costs_nothing():
    logits, labels = draw(ignored=1.1)
    terms = dict.fromkeys(OF_PIXELS + OF_REGIONS, 1.0)
    for ohem in (dict(min_kept=0, threshold=0.0), dict(min_kept=4, threshold=0.0), dict(min_kept=4, threshold=0.5)):
        loss, accuracy, grad = both(Objective(False, terms=terms, ohem=ohem), logits, labels)
        assert loss == 0
        assert accuracy == 100
        assert not np.any(grad)


LOSSES = {
    "focal": {"terms": dict(cross_entropy=0.0, focal=20.0)},
    "dice": {"terms": dict(dice=3.0)},
    "softmax dice": {"terms": dict(cross_entropy=0.0, dice=1.0), "dice": dict(activation="softmax")},
    "lovasz": {"terms": dict(lovasz=1.0), "class_weights": (1.0,) * 18 + (2.0,)},
    "ohem": {"ohem": dict(min_kept=100, threshold=0.7)},
    "smoothing": {"label_smoothing": 0.1, "average": "valid"},
    "everything": {
        "terms": dict(focal=1.0, dice=1.0, lovasz=1.0),
        "ohem": dict(min_kept=100, threshold=0.0),
        "label_smoothing": 0.1,
        "class_weights": (1.0,) * 18 + (2.0,),
    },
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_config_trains_with(name):
    """Its step takes both heads' losses from it; that of everything is run."""
    config = tiny_config()
    config.loss.update(LOSSES[name])
    validate(config)
    mesh = make_mesh(data=1, space=-1)
    graph, weights = split_model(build_model(config))
    direction, schedule = build_optimizer(config)
    step = make_train_step(graph, direction, schedule, config, mesh)
    template = abstract_state(weights, direction, mesh)
    batch = batch_form(4, mesh, **example_form(config))
    jaxpr = str(step.trace(template, batch, run_key(0, mesh)).jaxpr)
    assert ("sort[" in jaxpr) == (name in ("lovasz", "ohem", "everything"))
    if name == "everything":
        rng = np.random.default_rng(0)
        draws = {key: rng.integers(0, 19, form.shape).astype(form.dtype) for key, form in batch.items()}
        draws["size"][:] = config.data.crop_size
        _, report = step(create_state(weights, direction, mesh), draws, run_key(0, mesh))
        report = report.compute()
        assert 0 < report["loss_decode"] < report["loss"] < 50
        np.testing.assert_allclose(report["loss"], report["loss_decode"] + report["loss_auxiliary"], rtol=1e-6)


def test_both_heads_have_the_objective():
    class Model:
        def __call__(self, images, train, key):
            return type("Output", (), {"logits": images[..., :7], "auxiliary": images[..., 7:]})

    logits, labels = draw(k=14)[0], draw()[1]
    objective = Objective(False, terms=dict(focal=1.0, dice=1.0))
    total, parts = segmentation_loss(Model(), logits, labels, key=None, objective=objective, auxiliary_weight=0.4)
    decode, auxiliary = objective(logits[..., :7], labels)[0], 0.4 * objective(logits[..., 7:], labels)[0]
    assert parts["loss_decode"] == decode
    assert parts["loss_auxiliary"] == auxiliary
    assert total == decode + auxiliary


def test_bfloat16_logits_are_judged_in_float32():
    logits, labels = small()
    terms = dict.fromkeys(OF_PIXELS + OF_REGIONS, 1.0)
    assert Objective(False, terms=terms)(jnp.asarray(logits, jnp.bfloat16), labels)[0].dtype == jnp.float32
