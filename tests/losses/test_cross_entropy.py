"""Cross entropy and accuracy against NumPy, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import draw, slopes
from hypothesis import given, settings
from hypothesis import strategies as st

from cropjax.losses.accuracy import pixel_accuracy
from cropjax.losses.average import AVERAGES
from cropjax.losses.cross_entropy import BAND_BYTES, cross_entropy, resized_cross_entropy

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")

EPS = float(np.finfo(np.float32).eps)
BOTH_AVERAGES = pytest.mark.parametrize("average", AVERAGES)


def plain_terms(logits, labels):
    """Loss of every valid pixel, and its softmax minus its one-hot label (0 where ignored) [n,h,w,k]."""
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    valid = labels != 255
    hot = np.eye(logits.shape[-1])[np.where(valid, labels, 0)]
    return -np.log((p * hot).sum(-1))[valid], np.where(valid[..., None], p - hot, 0)


@BOTH_AVERAGES
@given(n=st.integers(1, 3), k=st.integers(2, 20), ignored=st.sampled_from([0.0, 0.3, 0.9]), seed=st.integers(0, 99))
@settings(max_examples=6)
def test_cross_entropy_and_its_gradient_are_their_definition(average, n, k, ignored, seed):
    logits, labels = draw(n, k=k, ignored=ignored, seed=seed)
    value, grad = jax.jit(jax.value_and_grad(lambda x: cross_entropy(x, labels, average=average)))(logits)
    terms, slope = plain_terms(logits, labels)
    count = (labels.size if average == "all" else terms.size) + EPS
    np.testing.assert_allclose(value, terms.sum() / count, rtol=1e-12)
    np.testing.assert_allclose(grad, slope / count, atol=1e-15)
    assert not np.any(grad[labels == 255])


def test_averages_differ_by_the_share_of_valid_pixels():
    logits, labels = draw()
    losses = {average: cross_entropy(logits, labels, average=average) for average in AVERAGES}
    assert losses["all"] / losses["valid"] == pytest.approx((labels != 255).mean())
    assert cross_entropy(logits, labels) == losses["all"]


@BOTH_AVERAGES
def test_nothing_valid_costs_nothing(average):
    logits, labels = draw(ignored=1.1)
    value, grad = jax.value_and_grad(lambda x: cross_entropy(x, labels, average=average))(logits)
    assert value == 0
    assert not np.any(grad)
    assert pixel_accuracy(logits, labels) == 100


@BOTH_AVERAGES
def test_a_pixel_of_weight_two_counts_as_two(average):
    """Loss and gradient of weighted classes are those of pixels that occur so often; an ignored one occurs once."""
    logits, labels = draw(1, 1, 40, k=4)
    weights = (1, 2, 0, 3)
    often = [weights[label] if label != 255 else 1 for label in labels[0, 0]]
    value, grad = jax.value_and_grad(lambda x: cross_entropy(x, labels, average=average, weights=weights))(logits)
    repeated = jnp.repeat(jnp.asarray(logits), np.array(often), 2), np.repeat(labels, often, 2)
    expected, expected_grad = jax.value_and_grad(lambda x: cross_entropy(x, repeated[1], average=average))(repeated[0])
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    of_pixel = np.repeat(np.arange(40), often)
    summed = np.zeros((40, 4))
    np.add.at(summed, of_pixel, np.asarray(expected_grad)[0, 0])
    np.testing.assert_allclose(grad[0, 0], summed, atol=1e-15)


@BOTH_AVERAGES
def test_equal_weights_are_none(average):
    logits, labels = draw()
    unweighted = cross_entropy(logits, labels, average=average)
    np.testing.assert_allclose(cross_entropy(logits, labels, average=average, weights=(1,) * 7), unweighted, rtol=1e-12)


@BOTH_AVERAGES
@pytest.mark.parametrize("weights", [(), (1, 2, 0.5)])
def test_smoothing_shares_probability_out_among_all_classes(average, weights):
    logits, labels = draw(1, 2, 4, k=3)

    def plain(logits):
        loss, count = 0, EPS
        for label, x in zip(labels.ravel(), logits.reshape(-1, 3), strict=True):
            if label == 255:
                count += average == "all"
                continue
            target = np.full(3, 0.2 / 3) + 0.8 * (np.arange(3) == label)
            weight = weights[label] if weights else 1
            loss -= weight * (target * np.log(np.exp(x) / np.exp(x).sum())).sum()
            count += weight
        return loss / count

    smooth = lambda x: cross_entropy(x, labels, average=average, weights=weights, smoothing=0.2)  # noqa: E731
    value, grad = jax.value_and_grad(smooth)(logits)
    np.testing.assert_allclose(value, plain(logits), rtol=1e-12)
    np.testing.assert_allclose(grad, slopes(plain, logits), atol=1e-8)


def test_far_logits_stay_finite():
    logits = np.zeros((1, 1, 2, 3), np.float32)
    logits[0, 0, 0, 0], logits[0, 0, 1, 1] = 1e4, -1e4
    labels = np.array([[[1, 1]]], np.uint8)
    value, grad = jax.value_and_grad(lambda x: cross_entropy(x, labels))(logits)
    np.testing.assert_allclose(value, 1e4, rtol=1e-4)
    assert np.isfinite(grad).all()


def test_bfloat16_logits_are_judged_in_float32():
    logits, labels = draw(k=19, h=33, w=33)
    narrow = jnp.asarray(logits, jnp.bfloat16)
    loss = cross_entropy(narrow, labels)
    assert loss.dtype == jnp.float32
    terms, _ = plain_terms(np.asarray(narrow, np.float64), labels)
    np.testing.assert_allclose(loss, terms.sum() / labels.size, rtol=1e-6)


@pytest.mark.parametrize("ignored", [0.0, 0.5])
def test_accuracy_counts_valid_pixels(ignored):
    logits, labels = draw(h=20, w=20, ignored=ignored)
    valid = labels != 255
    expected = 100 * (logits.argmax(-1) == labels)[valid].mean()
    np.testing.assert_allclose(pixel_accuracy(logits, labels), expected, rtol=1e-8)


def test_accuracy_is_100_where_every_pixel_is_right():
    _, labels = draw(ignored=0.5)
    perfect = np.eye(256)[labels][..., :7]
    assert pixel_accuracy(perfect, labels) == 100


@BOTH_AVERAGES
@given(
    small=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    size=st.tuples(st.integers(1, 17), st.integers(1, 9)),
    align_corners=st.booleans(),
    ignored=st.sampled_from([0.0, 0.3, 1.1]),
    rows=st.integers(1, 20),
    weights=st.sampled_from([(), (1, 2, 0.5, 0, 3, 1, 1)]),
    smoothing=st.sampled_from([0.0, 0.1]),
)
@settings(max_examples=8)
def test_bands_are_the_whole(average, small, size, align_corners, ignored, rows, weights, smoothing):
    """Loss, accuracy and gradient, whether the rows divide into bands or not."""
    logits = draw(2, *small)[0]
    labels = draw(2, *size, ignored=ignored)[1]
    both = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BAND_BYTES, "cpu", rows * 2 * size[1] * 7 * 8)
        for in_bands in (True, False):
            keywords = dict(average=average, weights=weights, smoothing=smoothing, in_bands=in_bands)
            function = partial(resized_cross_entropy, labels=labels, align_corners=align_corners, **keywords)
            both[in_bands] = jax.jit(jax.value_and_grad(function, has_aux=True))(logits)
    for a, b in zip(*map(jax.tree.leaves, both.values()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def test_bands_leave_nothing_of_full_size():
    """512 x 512 x 19 in float32 are 20 MB; at once, several arrays of that size live together."""

    def memory(in_bands):
        def loss(logits, labels):
            return resized_cross_entropy(logits, labels, align_corners=False, in_bands=in_bands)[0]

        forms = jax.ShapeDtypeStruct((1, 64, 64, 19), np.float32), jax.ShapeDtypeStruct((1, 512, 512), np.uint8)
        return jax.jit(jax.grad(loss)).lower(*forms).compile().memory_analysis().temp_size_in_bytes

    assert memory(True) < 40e6 < memory(False)
