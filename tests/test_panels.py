import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cropjax.data.labels import CAMVID, CITYSCAPES, IGNORE
from cropjax.panels import BACKGROUND, GAP, contact_sheet, panel

COLOURS = np.array(CAMVID.palette, np.uint8)


def test_image_label_and_prediction_stand_side_by_side():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    label = np.array([[0, 1, 2], [3, 4, 5]], np.uint8)
    prediction = np.array([[5, 4, 3], [2, 1, 0]], np.int32)
    picture = panel(image, label, prediction, CAMVID)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[:, :3], image)
    np.testing.assert_array_equal(picture[:, 3 + GAP : 6 + GAP], COLOURS[label])
    np.testing.assert_array_equal(picture[:, 6 + 2 * GAP :], COLOURS[prediction])
    assert (picture[:, 3 : 3 + GAP] == BACKGROUND).all()
    assert (picture[:, 6 + GAP : 6 + 2 * GAP] == BACKGROUND).all()


def test_ignored_pixels_are_black_and_dim_the_prediction():
    image = np.zeros((1, 2, 3), np.uint8)
    picture = panel(image, np.array([[IGNORE, 1]], np.uint8), np.array([[1, 1]], np.uint8), CAMVID)
    label, prediction = picture[0, 2 + GAP : 4 + GAP], picture[0, 4 + 2 * GAP :]
    assert label[0].tolist() == [0, 0, 0]
    assert label[1].tolist() == prediction[1].tolist() == COLOURS[1].tolist()
    assert 0 < prediction[0].max() < COLOURS[1].max()


def test_an_id_outside_the_classes_is_named():
    image, ids = np.zeros((1, 1, 3), np.uint8), np.array([[11]], np.uint8)
    panel(image, ids, ids, CITYSCAPES)
    with pytest.raises(ValueError, match=r"\[11\] are neither one of the 11 classes nor 255"):
        panel(image, ids, ids, CAMVID)


def test_different_sizes_are_refused():
    with pytest.raises(ValueError, match="same pixels"):
        panel(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), CAMVID)


@given(sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4))
def test_a_contact_sheet_holds_every_panel_once(sizes):
    panels = [np.full((h, w, 3), 200 + i, np.uint8) for i, (h, w) in enumerate(sizes)]
    sheet = contact_sheet(panels)
    assert sheet.shape == (sum(h for h, _ in sizes) + GAP * (len(sizes) - 1), max(w for _, w in sizes), 3)
    for i, (h, w) in enumerate(sizes):
        assert (sheet == 200 + i).all(-1).sum() == h * w
