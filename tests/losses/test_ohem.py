"""Hard pixels against a sort of the valid ones."""

import jax
import numpy as np
import pytest
from drawn import draw
from hypothesis import given, settings
from hypothesis import strategies as st

from cropjax.losses.cross_entropy import pixel_cross_entropy
from cropjax.losses.ohem import hard_pixels

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")


def hard(logits, labels, **keywords):
    losses = pixel_cross_entropy(logits, labels)
    return np.asarray(hard_pixels(logits, labels, losses, **keywords)), np.asarray(losses)


@given(
    min_kept=st.integers(1, 25),
    ignored=st.sampled_from([0.0, 0.3, 0.9, 1.1]),
    threshold=st.sampled_from([1e-9, 0.2, 0.7, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=20)
def test_below_a_threshold_and_at_least_so_many(min_kept, ignored, threshold, seed):
    """As upstream sorts: all below the larger of the threshold and the probability of the first that is left out."""
    logits, labels = draw(ignored=ignored, seed=seed)
    found, losses = hard(logits, labels, min_kept=min_kept, threshold=threshold)
    valid = labels != 255
    probability = np.exp(-losses)
    ranked = sorted(probability[valid])
    bound = max(ranked[min(2 * min_kept, len(ranked) - 1)], threshold) if ranked else threshold
    np.testing.assert_array_equal(found, valid & (probability < bound - 1e-12))
    if len(ranked) > 2 * min_kept:
        assert found.sum() >= 2 * min_kept


@given(min_kept=st.integers(1, 25), ignored=st.sampled_from([0.0, 0.3, 0.9, 1.1]), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_without_a_threshold_so_many_of_the_largest_losses(min_kept, ignored, seed):
    logits, labels = draw(ignored=ignored, seed=seed)
    found, losses = hard(logits, labels, min_kept=min_kept, threshold=0.0)
    valid = labels != 255
    ranked = sorted(losses[valid], reverse=True)
    assert found.sum() == min(2 * min_kept, valid.sum())
    assert not found[~valid].any()
    np.testing.assert_array_equal(sorted(losses[found], reverse=True), ranked[: 2 * min_kept])


@pytest.mark.parametrize("threshold", [0.0, 0.7])
def test_more_than_there_are_is_all(threshold):
    logits, labels = draw(2, 3, 4, k=3, ignored=0.3)
    losses = np.ones(labels.shape)
    most, more = (
        hard_pixels(logits, labels, losses, min_kept=kept, threshold=threshold) for kept in (labels[0].size, 10**9)
    )
    np.testing.assert_array_equal(more, most)


def test_the_batch_is_ranked_together():
    logits, labels = draw(ignored=0.0)
    logits[1] = 100 * np.eye(7)[labels[1]]  # right, and sure of it
    for threshold in (0.0, 1e-9):
        found, _ = hard(logits, labels, min_kept=5, threshold=threshold)
        assert found.sum() == 10
        assert not found[1].any()


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_what_is_hard_has_no_gradient(threshold):
    logits, labels = draw()

    def count(logits):
        losses = pixel_cross_entropy(logits, labels)
        return (hard_pixels(logits, labels, losses, min_kept=3, threshold=threshold) * losses).sum()

    chosen, losses = hard(logits, labels, min_kept=3, threshold=threshold)
    expected = jax.grad(lambda x: (chosen * pixel_cross_entropy(x, labels)).sum())(logits)
    np.testing.assert_array_equal(jax.grad(count)(logits), expected)
    assert chosen.any()
