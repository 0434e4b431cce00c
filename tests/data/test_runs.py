"""A label as runs against the label itself."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from cropjax.data.runs import Runs

LABELS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.sampled_from([0, 1, 18, 255]))


def some(data, length: int) -> np.ndarray:
    """Positions that ascend, some left out, some repeated."""
    return np.array(sorted(data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=30))))


@given(LABELS, st.data())
def test_pixels_and_counts_are_the_labels(label, data):
    runs = Runs.of(label)
    np.testing.assert_array_equal(runs[:, :], label)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(runs))[2:9, 1:], label[2:9, 1:])
    rows, columns = some(data, label.shape[0]), some(data, label.shape[1])
    pixels = label[rows][:, columns]
    taken = runs.take(rows, columns)
    assert taken.dtype == np.uint8
    np.testing.assert_array_equal(taken, pixels)
    np.testing.assert_array_equal(runs.counts(rows, columns), np.bincount(pixels.ravel(), minlength=256))


@given(LABELS)
def test_no_run_goes_on_in_the_next(label):
    runs = Runs.of(label)
    assert len(runs.values) == label.shape[0] + np.count_nonzero(np.diff(label.astype(int), axis=1))
    assert runs.per_row.sum() == len(runs.values)


@pytest.mark.parametrize(
    ("per_row", "starts", "values"),
    [
        ([2], [0, 1], [0, 0]),  # a row too few
        ([1, 2], [0, 0], [0, 0]),  # a run too few
        ([1, 1], [0, 0], [0]),  # a value too few
        ([0, 2], [0, 1], [0, 0]),  # an empty row
        ([1, 1], [0, 1], [0, 0]),  # a row that does not begin at its edge
        ([2, 1], [0, 3, 0], [0, 1, 0]),  # a run beyond the edge
        ([3, 1], [0, 2, 1, 0], [0, 1, 0, 0]),  # backwards
    ],
)
def test_what_is_no_label_is_refused(per_row, starts, values):
    with pytest.raises(ValueError, match="runs do not"):
        Runs((2, 3), np.array(per_row), np.array(starts), np.array(values, np.uint8))
