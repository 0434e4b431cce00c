"""The class tables."""

import numpy as np
import pytest

from cropjax.data import labels


@pytest.mark.parametrize(("label_set", "count"), [(labels.CITYSCAPES, 19), (labels.CAMVID, 11)])
def test_one_name_and_one_colour_a_class(label_set, count):
    assert label_set.num_classes == len(set(label_set.names)) == len(set(label_set.palette)) == count
    palette = np.asarray(label_set.palette)
    assert palette.shape == (count, 3)
    assert palette.min() >= 0
    assert palette.max() <= 255


def test_cityscapes_ids_map_in_order_onto_the_train_ids():
    table = labels.CITYSCAPES_TRAIN_ID
    evaluated = np.flatnonzero(table != labels.IGNORE)
    assert table.dtype == np.uint8
    assert table.shape == (256,)
    np.testing.assert_array_equal(table[evaluated], np.arange(19))
    np.testing.assert_array_equal(evaluated, [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33])


def test_the_table_is_read_only():
    with pytest.raises(ValueError, match="read-only"):
        labels.CITYSCAPES_TRAIN_ID[0] = 0
