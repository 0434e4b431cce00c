"""The predictor that only knows where it is, against loops."""

from unittest.mock import Mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cropjax.location_prior import count_classes, location_prior


def source(*labels):
    return [{"label": np.asarray(label, np.uint8)} for label in labels]


@given(h=st.integers(1, 12), w=st.integers(1, 12), grid=st.tuples(st.integers(1, 5), st.integers(1, 5)))
@settings(max_examples=25)
def test_counts_are_a_loop_over_pixels(h, w, grid):
    rows, columns = grid
    rng = np.random.default_rng([h, w])
    labels = rng.choice(np.array([0, 1, 2, 255], np.uint8), (2, h, w))
    expected = np.zeros((rows, columns, 3), int)
    for label in labels:
        for y in range(h):
            for x in range(w):
                if label[y, x] != 255:
                    expected[int(y / h * rows + 1e-9), int(x / w * columns + 1e-9), label[y, x]] += 1
    progress = Mock()
    got = count_classes(source(*labels), 3, count=2, grid=grid, progress=progress)
    np.testing.assert_array_equal(got, expected)
    assert [call.args[0] for call in progress.update.call_args_list] == [1, 2]


def test_a_fixed_layout_is_known_at_any_size():
    layout = np.array([[0, 0, 1], [2, 2, 1]])
    large = np.kron(layout, np.ones((5, 4), int))
    scores = location_prior(source(layout, layout), source(large), 3, count=2, grid=(2, 3), progress=Mock())
    np.testing.assert_array_equal(scores.confusion, np.diag([40, 40, 40]))
    assert scores.summary["miou"] == 1


def test_the_majority_of_training_decides_and_ignored_pixels_do_not_count():
    train = source([[0, 1]], [[0, 255]], [[1, 2]], [[1, 2]], [[0, 255]])
    test = source([[0, 2]], [[1, 1]], [[255, 255]])
    scores = location_prior(train, test, 3, count=5, grid=(1, 2), progress=Mock())
    np.testing.assert_array_equal(scores.confusion, [[1, 0, 0], [1, 0, 1], [0, 0, 1]])


def test_one_cell_predicts_the_commonest_class():
    scores = location_prior(source([[1, 1, 0]]), source([[0, 1], [1, 1]]), 2, count=1, grid=(1, 1), progress=Mock())
    np.testing.assert_array_equal(scores.confusion, [[0, 1], [0, 3]])


def test_only_the_first_records_of_training_count():
    train, test = source([[0]], [[1]], [[1]]), source([[0]])
    first, all_three = (location_prior(train, test, 2, count=n, grid=(1, 1), progress=Mock()) for n in (1, 3))
    assert (first.summary["aacc"], all_three.summary["aacc"]) == (1, 0)
