"""The noise scale of gradients that are drawn, and of networks."""

import jax
import numpy as np
import pytest
from tiny import tiny_config

from cropjax.config import build_model, defaults
from cropjax.instruments.gradient_noise import (
    BATCHES,
    NoiseScale,
    Scales,
    narrow_twin,
    noise_scale,
    section,
    small_gradient,
    steps,
)
from cropjax.instruments.subject import Budget, Subject, drawn_weights, normalized
from cropjax.step import split_model


def estimated(gradients, images=2):
    """Of gradients [groups,batches,p] of small batches."""
    sums = gradients.sum(1)
    return noise_scale(np.square(gradients).sum(-1), sums @ sums.T, images)


def test_the_estimates_are_without_bias():
    """Gradients G + noise of covariance Sigma / 2, the mean of two images: means over many estimates."""
    rng = np.random.default_rng(0)
    gradient, deviation = rng.normal(size=40), rng.uniform(0.5, 2, 40)
    signal, noise = np.square(gradient).sum(), np.square(deviation).sum()
    found = []
    for _ in range(1500):
        drawn = gradient + rng.normal(size=(4, 3, 40)) * deviation / np.sqrt(2)
        one = estimated(drawn)
        found.append((one.signal, one.noise))
    mean, error = np.mean(found, 0), np.std(found, 0) / np.sqrt(len(found))
    assert abs(mean[0] - signal) < 4 * error[0] < 0.05 * signal
    assert abs(mean[1] - noise) < 4 * error[1] < 0.05 * noise


def test_the_error_is_that_of_the_estimate():
    rng = np.random.default_rng(1)
    gradient = rng.normal(size=100)
    found = [estimated(gradient + rng.normal(size=(4, 8, 100))) for _ in range(200)]
    spread = np.std([one.scale for one in found])
    assert np.sqrt(np.mean([one.error**2 for one in found])) == pytest.approx(spread, rel=0.25)


def test_equal_gradients_have_no_noise():
    found = estimated(np.ones((4, 2, 5)))
    assert (found.scale, found.error, found.noise) == (0, 0, 0)
    assert found.signal == pytest.approx(5)


def test_pure_noise_has_no_scale():
    rng = np.random.default_rng(2)
    drawn = rng.normal(size=(4, 2, 200))
    drawn -= drawn.mean((0, 1))
    found = estimated(drawn)
    assert found.signal < 0
    assert found.scale == np.inf


def test_linear_regression():
    """Loss (w x - y)^2 / 2 of Gaussian x and y: G = w - E[xy], and single gradients x (w x - y) of known variance."""
    rng = np.random.default_rng(3)
    p, deviation = 30, 0.7
    w = rng.normal(size=p)  # y is noise: E[xy] = 0, so that G = w
    found = []
    for _ in range(400):
        x, y = rng.normal(size=(4, 6, 2, p)), deviation * rng.normal(size=(4, 6, 2, 1))
        one = estimated((x * ((x * w).sum(-1, keepdims=True) - y)).mean(2))
        found.append((one.signal, one.noise))
    mean, error = np.mean(found, 0), np.std(found, 0) / np.sqrt(len(found))
    # Cov(x x^T w) = |w|^2 I + w w^T by Isserlis, of trace (p + 1) |w|^2; that of x y is deviation^2 I.
    signal = np.square(w).sum()
    noise = (p + 1) * signal + p * deviation**2
    assert abs(mean[0] - signal) < 4 * error[0] < 0.3 * signal
    assert abs(mean[1] - noise) < 4 * error[1] < 0.05 * noise


@pytest.mark.usefixtures("quick_compile")
def test_the_gradient_is_of_the_trainers_loss():
    """Class weights count, every part is there, and another index draws another dropout."""
    config = tiny_config("pspnet")
    graph, weights = split_model(build_model(config))
    rng = np.random.default_rng(4)
    batch = {
        "image": rng.integers(0, 256, (2, 33, 33, 3), np.uint8),
        "label": rng.integers(0, 19, (2, 33, 33), np.uint8),
        "size": np.full((2, 2), 33, np.int32),
    }
    gradient = small_gradient(config, graph)
    found, other = (gradient(weights, batch, index) for index in (0, 1))
    assert set(found) == set(weights["params"]) == {"backbone", "head", "auxiliary"}
    assert not np.allclose(found["head"], other["head"])
    weighted = config.copy_and_resolve_references()
    weighted.loss.class_weights = tuple(np.linspace(0.1, 2, 19).tolist())
    weighed = small_gradient(weighted, graph)(weights, batch, 0)
    assert not np.allclose(found["head"], weighed["head"], rtol=0.05)


def test_crops_are_compared_for_equal_weights():
    """Under a full budget drawn and trained weights stand in turn."""
    scales = {("drawn", 33): 10.0, ("trained", 33): 100.0, ("drawn", 66): 20.0, ("trained", 66): 50.0}
    results = [
        Scales((side, side), 2, name, False, 8, (NoiseScale("all", scale, 0.1, 1.0, scale),))
        for (name, side), scale in scales.items()
    ]
    config = tiny_config()
    words = section(Subject("tiny", config, None, {}, ((33, 33), (66, 66)), (64, 128)), results).words
    drawn, trained = words.split("\n\n")[-2:]
    for paragraph, said in (
        (drawn, ("Drawn", "factor of 2.00", "grow by 4.00", "less noisy")),
        (trained, ("Trained", "factor of 0.50", "is noisier")),
    ):
        assert all(phrase in paragraph for phrase in said)


@pytest.mark.parametrize("name", ["pspnet", "deeplabv3plus", "segformer", "segnext"])
def test_the_twin_has_the_same_layers(name):
    config = defaults(name)
    twin = narrow_twin(config)
    ours, theirs = (split_model(build_model(c))[1]["params"] for c in (twin, config))
    ours, theirs = jax.tree.leaves(ours), jax.tree.leaves(theirs)
    count = sum(x.size for x in ours), sum(x.size for x in theirs)
    assert len(ours) == len(theirs)
    assert count[0] < count[1] / 10


def test_the_twin_of_a_narrow_network_can_be_built():
    """SegNeXt's stem halves its width, and its head has whole groups of 32."""
    build_model(narrow_twin(tiny_config("segnext")))
    config = defaults("segnext")
    config.model.head.channels = 384
    assert narrow_twin(config).model.head.channels == 32


@pytest.mark.parametrize(
    ("name", "budget"),
    [
        ("pspnet", Budget("quick", 3, 1, 2)),
        pytest.param("segformer", Budget("full", 3, 1, 2), marks=pytest.mark.slow),
        pytest.param("deeplabv3plus", Budget("full", 3, 1, 2), marks=pytest.mark.slow),
        pytest.param("segnext", Budget("quick", 3, 1, 2), marks=pytest.mark.slow),
    ],
)
def test_steps_and_section(name, budget):
    config = tiny_config(name)
    images = normalized(np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8))
    graph, weights = drawn_weights(config, images)
    subject = Subject("tiny", config, graph, {"trained": weights}, ((33, 33),), (64, 128), budget)
    results = [step.measure() for step in steps(subject)]
    assert [one.images for one in results] == list(BATCHES)
    assert all(one.narrow == (budget.name == "quick") for one in results)
    assert len({one.images * one.batches for one in results}) == 1
    for one in results:
        whole, *parts = one.parts
        assert whole.signal == pytest.approx(sum(part.signal for part in parts), rel=1e-4)
        assert whole.noise == pytest.approx(sum(part.noise for part in parts), rel=1e-4)
        assert whole.noise > 0
    report = section(subject, results)
    parts = {part.part for part in results[0].parts}
    assert parts == {"all", "backbone", "head"} | ({"auxiliary"} if config.loss.auxiliary_weight else set())
    assert len(report.tables[0].rows) == len(results) * len(parts)
    assert ("twin" in report.words) == (budget.name == "quick")
