"""The Lovasz-softmax loss against sets of pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import draw, slopes
from hypothesis import given, settings
from hypothesis import strategies as st

from cropjax.losses.lovasz import lovasz_softmax

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")


def jaccard_loss(foreground, wrong):
    """1 - IoU of a class with the pixels `foreground` if those of `wrong` are, sets of indices."""
    predicted = foreground ^ wrong
    return 1 - len(foreground & predicted) / len(foreground | predicted)


def plain_lovasz(logits, labels, weights=()):
    """Equation 8 of the paper: the errors in falling order, each times what the set of those before it grows by."""
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p, labels = (p / p.sum(-1, keepdims=True))[labels != 255], labels[labels != 255]
    losses = []
    for c in np.unique(labels):
        foreground = set(np.flatnonzero(labels == c))
        errors, loss, wrong = np.abs((labels == c) - p[:, c]), 0, set()
        for i in np.argsort(-errors):
            loss += errors[i] * (jaccard_loss(foreground, wrong | {i}) - jaccard_loss(foreground, wrong))
            wrong.add(i)
        losses.append((weights[c] if weights else 1) * loss)
    return np.mean(losses) if losses else 0


@given(
    k=st.integers(2, 5),
    ignored=st.sampled_from([0.0, 0.4, 0.9]),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=8)
def test_it_and_its_gradient_are_their_definition(k, ignored, weighted, seed):
    logits, labels = draw(2, 3, 3, k=k, ignored=ignored, seed=seed)
    weights = tuple(range(1, k + 1)) if weighted else ()
    value, grad = jax.value_and_grad(lambda x: lovasz_softmax(x, labels, weights=weights))(logits)
    np.testing.assert_allclose(value, plain_lovasz(logits, labels, weights), rtol=1e-12)
    np.testing.assert_allclose(grad, slopes(lambda x: plain_lovasz(x, labels, weights), logits), atol=1e-8)
    assert not np.any(grad[labels == 255])


@given(ignored=st.sampled_from([0.0, 0.4]), absent=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=8)
def test_of_hard_predictions_it_is_one_minus_iou(ignored, absent, seed):
    """The mean over the classes that are there, whether predicted or not."""
    _, labels = draw(2, 5, 6, k=4, ignored=ignored, seed=seed)
    if absent:
        labels[labels == 3] = 2
    predicted = np.random.default_rng(seed + 100).integers(0, 4, labels.shape)
    valid, ious = labels != 255, []
    for c in np.unique(labels[valid]):
        both, either = (labels == c) & (predicted == c) & valid, ((labels == c) | (predicted == c)) & valid
        ious.append(both.sum() / either.sum())
    np.testing.assert_allclose(lovasz_softmax(1e3 * np.eye(4)[predicted], labels), 1 - np.mean(ious), rtol=1e-12)


def test_what_is_right_costs_nothing():
    _, labels = draw()
    assert lovasz_softmax(1e3 * np.eye(256)[labels][..., :7], labels) == 0


def test_nothing_valid_costs_nothing():
    logits, labels = draw(ignored=1.1)
    value, grad = jax.value_and_grad(lambda x: lovasz_softmax(x, labels))(logits)
    assert value == 0
    assert not np.any(grad)


def test_float32_keeps_the_slopes_of_many_pixels():
    """The differences of 1 - IoU from pixel to pixel, computed as such, would be a hundred times as far off."""
    logits, labels = draw(1, 300, 300, k=3)
    grads = [jax.grad(lambda x: lovasz_softmax(x, labels))(logits.astype(dtype)) for dtype in (np.float32, np.float64)]
    assert grads[0].dtype == np.float32
    assert np.linalg.norm(grads[0] - grads[1]) < 1e-5 * np.linalg.norm(grads[1])


def test_bfloat16_logits_are_judged_in_float32():
    logits, labels = draw()
    assert lovasz_softmax(jnp.asarray(logits, jnp.bfloat16), labels).dtype == jnp.float32
