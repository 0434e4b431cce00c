"""The confusion matrix against a loop over pixels, and what the scores make of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropjax.metrics import Scores, confusion_matrix


def draw(k, shape=(2, 5, 6), seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, shape).astype(np.uint8)
    labels[rng.random(shape) < 0.2] = 255
    return rng.integers(0, k, shape).astype(np.uint8), labels


def loop(predictions, labels, k):
    matrix = np.zeros((k, k), int)
    for p, t in zip(predictions.ravel(), labels.ravel(), strict=True):
        if t != 255:
            matrix[t, p] += 1
    return matrix


@given(k=st.integers(1, 19), n=st.integers(1, 3), h=st.integers(1, 9), w=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=10)
def test_confusion_is_a_count_of_pixels(k, n, h, w, seed):
    predictions, labels = draw(k, (n, h, w), seed)
    matrix = confusion_matrix(predictions, labels, k)
    assert matrix.dtype == np.int32
    np.testing.assert_array_equal(matrix, loop(predictions, labels, k))


def test_a_padded_batch_changes_nothing():
    predictions, labels = draw(4)
    padding = np.zeros_like(predictions), np.full_like(labels, 255)
    padded = [np.concatenate(pair) for pair in zip((predictions, labels), padding, strict=True)]
    np.testing.assert_array_equal(confusion_matrix(*padded, 4), confusion_matrix(predictions, labels, 4))


def test_scores_are_intersection_over_union_and_recall():
    predictions, labels = draw(5, (3, 20, 20))
    scores = Scores.of(loop(predictions, labels, 5))
    valid = labels != 255
    for c in range(5):
        predicted, labelled = (predictions == c) & valid, labels == c
        both = (predicted & labelled).sum()
        assert scores.iou[c] == pytest.approx(both / (predicted | labelled).sum())
        assert scores.accuracy[c] == pytest.approx(both / labelled.sum())
    assert scores.summary == {
        "miou": pytest.approx(scores.iou.mean()),
        "macc": pytest.approx(scores.accuracy.mean()),
        "aacc": pytest.approx((predictions == labels)[valid].mean()),
    }


def test_absent_classes_are_nan_and_left_out():
    # Class 1 is predicted and never labelled; class 2 neither.
    scores = Scores.of([[6, 2, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(scores.iou, [0.75, 0, np.nan])
    np.testing.assert_array_equal(scores.accuracy, [0.75, np.nan, np.nan])
    assert scores.summary == {"miou": 0.375, "macc": 0.75, "aacc": 0.75}


def test_nothing_labelled_is_nan():
    assert all(np.isnan(value) for value in Scores.of(np.zeros((3, 3))).summary.values())


def test_counts_past_int32_add_up():
    scores = Scores.of(np.array([[3 * 2**40, 2**40], [0, 2**40]]))
    np.testing.assert_allclose(scores.iou, [0.75, 0.5])
    assert scores.summary["aacc"] == pytest.approx(0.8)


def test_table_is_in_percent():
    table = Scores.of([[6, 2, 0], [0, 2, 0], [0, 0, 0]]).table(("road", "car", "sidewalk"))
    assert table.splitlines() == [
        "class       IoU    Acc  pixels",
        "road      75.00  75.00  80.00%",
        "car       50.00 100.00  20.00%",
        "sidewalk    nan    nan   0.00%",
        "mIoU 62.50   mAcc 87.50   aAcc 80.00",
    ]


def test_table_with_boundary_iou():
    table = Scores.of([[6, 2, 0], [0, 2, 0], [0, 0, 0]]).table(
        ("road", "car", "sidewalk"), np.array([0.5, 0.25, np.nan])
    )
    assert table.splitlines() == [
        "class       IoU    Acc   BIoU  pixels",
        "road      75.00  75.00  50.00  80.00%",
        "car       50.00 100.00  25.00  20.00%",
        "sidewalk    nan    nan    nan   0.00%",
        "mIoU 62.50   mAcc 87.50   mBIoU 37.50   aAcc 80.00",
    ]


def test_table_of_nothing():
    assert Scores.of(np.zeros((1, 1))).table(("road",)).endswith("mIoU nan   mAcc nan   aAcc nan")
