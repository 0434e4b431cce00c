"""The class tables."""

from pathlib import Path

import numpy as np
import pytest

from cropjax.data import labels

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.mark.parametrize(("label_set", "count"), [(labels.CITYSCAPES, 19), (labels.CAMVID, 11), (labels.COMMA10K, 5)])
def test_one_name_and_one_colour_a_class(label_set, count):
    assert label_set.num_classes == len(set(label_set.names)) == len(set(label_set.palette)) == count
    palette = np.asarray(label_set.palette)
    assert palette.shape == (count, 3)
    assert palette.min() >= 0
    assert palette.max() <= 255


@pytest.mark.parametrize("count", [2, 21, labels.MOST_CLASSES])
def test_classes_of_ones_own_have_colours_that_differ_and_are_not_black(count):
    own = labels.own_labels([f"class {i}" for i in range(count)])
    assert own.num_classes == count
    assert len({*own.palette, (0, 0, 0)}) == count + 1
    assert {value for colour in own.palette for value in colour} <= set(range(256))


def test_the_drawn_colours_are_those_of_pascal_voc():
    own = labels.own_labels([str(i) for i in range(20)])
    expected = ((128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128), (128, 128, 128))
    assert own.palette[:7] == expected  # aeroplane to car
    assert own.palette[14] == (192, 128, 128)  # person
    assert own.palette[19] == (0, 64, 128)  # television


def test_classes_of_ones_own_keep_their_colours():
    assert labels.own_labels(("a", "b"), ([0, 0, 0], [255, 255, 255])).palette == ((0, 0, 0), (255, 255, 255))


def test_cityscapes_ids_map_in_order_onto_the_train_ids():
    table = labels.CITYSCAPES_TRAIN_ID
    evaluated = np.flatnonzero(table != labels.IGNORE)
    assert table.dtype == np.uint8
    assert table.shape == (256,)
    np.testing.assert_array_equal(table[evaluated], np.arange(19))
    np.testing.assert_array_equal(evaluated, [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33])
    np.testing.assert_array_equal(labels.CITYSCAPES_LABEL_ID, evaluated)


def test_the_official_tool_agrees_on_every_label():
    """cityscapesScripts' own table: train ids, names, colours; what it ignores in evaluation we ignore."""
    table = np.load(REFERENCE / "cityscapes_labels.npz")
    assert len(table["id"]) == 35
    for label_id, train_id, color, ignored, name in zip(
        *(table[key] for key in ("id", "train_id", "color", "ignored", "name")), strict=True
    ):
        assert ignored == (train_id in (-1, 255))
        if ignored:
            assert label_id == -1 or labels.CITYSCAPES_TRAIN_ID[label_id] == labels.IGNORE  # -1: licence plates
        else:
            assert labels.CITYSCAPES_TRAIN_ID[label_id] == train_id
            assert labels.CITYSCAPES.names[train_id] == name
            assert labels.CITYSCAPES.palette[train_id] == tuple(color)
    assert (~table["ignored"]).sum() == 19


def test_the_table_is_read_only():
    with pytest.raises(ValueError, match="read-only"):
        labels.CITYSCAPES_TRAIN_ID[0] = 0
