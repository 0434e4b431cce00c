"""Class frequencies and what is made of them, against their papers' definitions in small."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cropjax.data.frequencies import class_pixels, class_weights, repeats
from cropjax.data.labels import IGNORE, LabelSet
from cropjax.errors import UserError

# Three records: class 0 everywhere, class 1 in two of them, class 2 in one, class 3 in none.
PIXELS = np.array([[90, 10, 0, 0], [50, 0, 50, 0], [100, 100, 0, 0]])


class Drawn:
    labels = LabelSet(names=tuple("abcd"), palette=((0, 0, 0),) * 4)

    def __len__(self):
        return 3

    def __getitem__(self, index):
        label = np.repeat(np.arange(4), PIXELS[index]).astype(np.uint8)
        return {"image": None, "label": np.append(label, np.full(7, IGNORE, np.uint8))[None], "name": str(index)}


class WithLabels(Drawn):
    def label(self, index):
        return super().__getitem__(index)["label"]

    def __getitem__(self, index):
        raise AssertionError("no image need be read")


class WithPixels(WithLabels):
    def pixels(self, index):
        return PIXELS[index]

    def label(self, index):
        raise AssertionError("no label need be read")


@pytest.mark.parametrize("source", [Drawn, WithLabels, WithPixels])
def test_class_pixels(source):
    np.testing.assert_array_equal(class_pixels(source()), PIXELS)


def test_a_label_that_cannot_be_read_is_counted_as_nothing_if_it_is_to_be_skipped():
    class Broken(WithLabels):
        def label(self, index):
            if index == 1:
                raise UserError("1.png: truncated")
            return super().label(index)

    with pytest.raises(UserError, match="truncated"):
        class_pixels(Broken())
    np.testing.assert_array_equal(class_pixels(Broken(), on_error="skip"), PIXELS * [[1], [0], [1]])


def test_weights_by_logarithm():
    share = PIXELS.sum(0) / 400
    expected = [*(1 / np.log(1.02 + share[:3])), 1]
    assert class_weights(PIXELS, "log") == pytest.approx(expected)


def test_weights_by_median_frequency():
    """A class's pixels over all labelled pixels of the records that it is in."""
    frequency = np.array([240 / 400, 110 / 300, 50 / 100])
    assert class_weights(PIXELS, "median") == pytest.approx([*(0.5 / frequency), 1])


def test_no_balance_is_no_weights():
    assert class_weights(PIXELS, "none") == ()


def test_rare_classes_come_again():
    pixels = np.zeros((100, 2), int)
    pixels[:, 0] = 1
    pixels[:4, 1] = 5  # in 4 % of the records: sqrt(0.25 / 0.04) = 2.5 times
    drawn = np.array([repeats(pixels, 0.25, seed) for seed in range(200)])
    assert set(drawn[:, :4].ravel()) == {2, 3}
    assert drawn[:, :4].mean() == pytest.approx(2.5, abs=0.06)
    assert (drawn[:, 4:] == 1).all()
    np.testing.assert_array_equal(repeats(pixels, 0.25, 3), drawn[3])


@given(threshold=st.floats(0, 1), seed=st.integers(0, 99))
def test_every_record_comes_at_least_once(threshold, seed):
    assert repeats(PIXELS, threshold, seed).min() >= 1
    assert (repeats(PIXELS, 0, seed) == 1).all()
