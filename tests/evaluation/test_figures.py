"""The pictures of an evaluation: they are looked at by people; here is what can be counted in them."""

import cv2
import numpy as np
import pytest
from matplotlib import colormaps

from cropjax.data.labels import CAMVID, CITYSCAPES, COMMA10K
from cropjax.evaluation.details import Details
from cropjax.evaluation.figures import EMPTY, save_confusion, save_details
from cropjax.pages.figure import COLOURS


def count(path, colour):
    """Pixels of a colour, a name of Matplotlib's or (r, g, b) in 0...255."""
    if isinstance(colour, str):
        colour = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    return int((image == np.array(colour)).all(-1).sum())


@pytest.mark.parametrize("labels", [COMMA10K, CAMVID, CITYSCAPES], ids=lambda labels: str(labels.num_classes))
def test_the_diagonal_of_a_perfect_confusion_matrix_is_dark_and_an_absent_class_grey(tmp_path, labels):
    k = labels.num_classes
    full = tuple(round(255 * x) for x in colormaps["Blues"](1.0)[:3])
    path = tmp_path / "confusion.png"
    save_confusion(path, np.eye(k, dtype=int) * 7, labels.names, "perfect")
    cell = count(path, full) / k
    assert cell > (0.28 * 150) ** 2 * 0.6  # the rest is its number
    assert count(path, EMPTY) < 200  # the edges of letters
    save_confusion(path, np.diag([0] + [7] * (k - 1)), labels.names, "without the first class")
    assert count(path, EMPTY) > 0.9 * k * cell
    assert count(path, full) == pytest.approx((k - 1) * cell, rel=0.1)


def test_many_classes_fit_on_a_picture(tmp_path):
    path = tmp_path / "confusion.png"
    save_confusion(path, np.ones((150, 150), int), [f"class {i}" for i in range(150)], "150 classes")
    h, w, _ = cv2.imread(str(path)).shape
    assert max(h, w) < 2500


def test_details_have_a_line_for_each_mode(tmp_path):
    label = np.zeros((64, 96), np.uint8)
    label[20:40, 30:70] = 1
    modes = {mode: Details.of(np.roll(label, shift, 1), label, 2) for mode, shift in (("whole", 2), ("slide", 5))}
    path = tmp_path / "details.png"
    save_details(path, modes, "two modes")
    assert [count(path, colour) > 300 for colour in COLOURS[:3]] == [True, True, False]
    assert cv2.imread(str(path)).shape[1] > 1500


def test_details_of_nothing_can_be_drawn(tmp_path):
    save_details(tmp_path / "details.png", {"whole": Details.none(3)}, "nothing")
    assert count(tmp_path / "details.png", COLOURS[0]) < 300  # the legend's
