"""The focal loss against a loop over pixels and classes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawn import draw, slopes
from hypothesis import given, settings
from hypothesis import strategies as st

from cropjax.losses.focal import focal

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")


def plain_focal(logits, labels, gamma, alpha, weights):
    found = np.zeros(labels.shape)
    k = logits.shape[-1]
    for place in np.argwhere(labels != 255):
        for c, logit in enumerate(logits[tuple(place)]):
            is_label = labels[tuple(place)] == c
            p = 1 / (1 + np.exp(-logit if is_label else logit))
            share = alpha if is_label else 1 - alpha
            found[tuple(place)] -= (weights[c] if weights else 1) * share * (1 - p) ** gamma * np.log(p) / k
    return found


@given(
    gamma=st.sampled_from([0.0, 0.5, 2.0]),
    alpha=st.sampled_from([0.25, 0.5, 1.0]),
    weights=st.sampled_from([(), (1, 2, 0.5)]),
    ignored=st.sampled_from([0.0, 0.3, 1.1]),
)
@settings(max_examples=8)
def test_it_and_its_gradient_are_their_definition(gamma, alpha, weights, ignored):
    logits, labels = draw(1, 2, 4, k=3, ignored=ignored)
    keywords = dict(gamma=gamma, alpha=alpha, weights=weights)
    np.testing.assert_allclose(focal(logits, labels, **keywords), plain_focal(logits, labels, **keywords), atol=1e-14)
    grad = jax.grad(lambda x: focal(x, labels, **keywords).sum())(logits)
    expected = slopes(lambda x: plain_focal(x, labels, **keywords).sum(), logits)
    np.testing.assert_allclose(grad, expected, atol=1e-8)
    assert not np.any(grad[labels == 255])


def test_it_is_that_of_optax():
    logits, labels = draw(ignored=0.0)
    theirs = optax.losses.sigmoid_focal_loss(logits, np.eye(7)[labels], alpha=0.25, gamma=2.0).mean(-1)
    np.testing.assert_allclose(focal(logits, labels, alpha=0.25), theirs, rtol=1e-10)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_far_logits_have_a_gradient(gamma):
    logits = np.array([[[[1e4, -1e4, 0]]]], np.float32)
    for label in (0, 1):
        labels = np.full((1, 1, 1), label, np.uint8)
        value, grad = jax.value_and_grad(lambda x, labels=labels: focal(x, labels, gamma=gamma).sum())(logits)
        assert np.isfinite(value)
        assert np.isfinite(grad).all()
        assert (grad[0, 0, 0, 1] < 0) == (label == 1)


def test_bfloat16_logits_are_judged_in_float32():
    logits, labels = draw()
    assert focal(jnp.asarray(logits, jnp.bfloat16), labels).dtype == jnp.float32
