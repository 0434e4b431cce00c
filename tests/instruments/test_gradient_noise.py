"""The noise scale of gradients that are drawn, and of networks."""

import jax
import numpy as np
import pytest
from tiny import tiny_config

from cropjax.config import build_model, defaults
from cropjax.instruments.gradient_noise import narrow_twin, noise_scale, section, steps
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


@pytest.mark.parametrize("name", ["pspnet", "deeplabv3plus", "segformer", "segnext"])
def test_the_twin_has_the_same_layers(name):
    config = defaults(name)
    twin = narrow_twin(config)
    ours, theirs = (split_model(build_model(c))[1]["params"] for c in (twin, config))
    ours, theirs = jax.tree.leaves(ours), jax.tree.leaves(theirs)
    count = sum(x.size for x in ours), sum(x.size for x in theirs)
    assert len(ours) == len(theirs)
    assert count[0] < count[1] / 10


@pytest.mark.parametrize(
    ("name", "budget"), [("pspnet", Budget("quick", 3, 1, 2)), ("segformer", Budget("full", 3, 1, 2))]
)
def test_steps_and_section(name, budget):
    config = tiny_config(name)
    images = normalized(np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8))
    graph, weights = drawn_weights(config, images)
    subject = Subject("tiny", config, graph, {"trained": weights}, ((33, 33), (48, 48)), (64, 128), budget)
    results = [step.measure() for step in steps(subject)]
    assert [one.narrow for one in results] == [budget.name == "quick"] * 2
    for one in results:
        whole, *parts = one.parts
        assert whole.signal == pytest.approx(sum(part.signal for part in parts), rel=1e-4)
        assert whole.noise == pytest.approx(sum(part.noise for part in parts), rel=1e-4)
        assert whole.noise > 0
    report = section(subject, results)
    assert len(report.tables[0].rows) == 6
    assert ("twin" in report.words) == (budget.name == "quick")
