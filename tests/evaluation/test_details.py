"""Boundary IoU, distances and segments against their plain definitions: a loop over classes, or over pixels."""

from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cropjax.evaluation.details import BORDER_DISTANCES, BOUNDARY, CLASS_DISTANCES, SEGMENT_SIZES, Details

K = 4


def draw(h, w, cell=1, ignored=0.2, classes=K, seed=0):
    """Predicted ids, and a label of blocks of `cell` pixels, of which a share is ignored."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, classes, (h, w)).astype(np.uint8)
    blocks[rng.random((h, w)) < ignored] = 255
    label = blocks.repeat(cell, 0).repeat(cell, 1)[:h, :w]
    wrong = rng.random((h, w)) < 0.3
    ids = np.where(wrong | (label == 255), rng.integers(0, classes, (h, w)), label)
    return ids.astype(np.uint8), np.ascontiguousarray(label)


maps = st.builds(
    draw,
    h=st.integers(1, 12),
    w=st.integers(1, 12),
    cell=st.integers(1, 4),
    ignored=st.sampled_from([0, 0.2, 0.8, 1]),
    classes=st.integers(1, K),
    seed=st.integers(0, 99),
)
# A row and a column, and images large enough for a boundary region of more than one pixel.
larger = [draw(1, 200, 7), draw(150, 1, 40), draw(60, 80, 11), draw(90, 130, 90, 0.0), draw(40, 90, 8, 1.0)]


def on_maps(test):
    for pair in larger:
        test = example(pair)(test)
    return settings(max_examples=60)(given(maps)(test))


def eroded(mask, times):
    """Erosions by a square of 3 x 3, outside of the image nothing being of the mask."""
    for _ in range(times):
        around = np.pad(mask, 1)
        h, w = mask.shape
        mask = np.all([around[y : y + h, x : x + w] for y in range(3) for x in range(3)], axis=0)
    return mask


@on_maps
def test_boundary_iou_is_that_of_masks_less_their_eroded_selves(pair):
    ids, label = pair
    d = max(1, round(BOUNDARY * np.sqrt(np.square(label.shape).sum())))
    iou = []
    for c in range(K):
        regions = [mask & ~eroded(mask, d) for mask in (label == c, (ids == c) & (label != 255))]
        union = np.logical_or(*regions).sum()
        iou.append(np.logical_and(*regions).sum() / union if union else np.nan)
    details = Details.of(ids, label, K)
    np.testing.assert_array_equal(details.boundary_iou, iou)
    if np.isfinite(iou).any():
        assert details.mean_boundary_iou == pytest.approx(np.nanmean(iou))
    else:
        assert np.isnan(details.mean_boundary_iou)


def bins(values, begins):
    """The bin of each value, by its definition: the last that begins at or before it."""
    return [max(i for i, begin in enumerate(begins) if begin <= value) for value in values]


def neighbours(label, y, x):
    h, w = label.shape
    near = ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
    return [label[v, u] for v, u in near if 0 <= v < h and 0 <= u < w]


@on_maps
def test_distance_to_a_class_boundary_is_that_to_the_nearest_pixel_that_touches_one(pair):
    ids, label = pair
    touching = [at for at in np.ndindex(label.shape) if any(n != label[at] for n in neighbours(label, *at))]
    labelled = np.argwhere(label != 255)
    if touching and len(labelled):
        squares = np.square(labelled[:, None] - np.array(touching)).sum(-1).min(1)
    else:
        squares = np.full(len(labelled), np.inf)
    expected = np.zeros((2, len(CLASS_DISTANCES)), int)
    for (y, x), at in zip(labelled, bins(np.sqrt(squares), CLASS_DISTANCES), strict=True):
        expected[:, at] += ids[y, x] == label[y, x], 1
    np.testing.assert_array_equal(Details.of(ids, label, K).class_distance, expected)


@on_maps
def test_distance_to_the_image_border_counts_the_pixels_between(pair):
    ids, label = pair
    h, w = label.shape
    expected = np.zeros((2, len(BORDER_DISTANCES)), int)
    for y, x in np.argwhere(label != 255):
        [at] = bins([min(y, x, h - 1 - y, w - 1 - x)], BORDER_DISTANCES)
        expected[:, at] += ids[y, x] == label[y, x], 1
    np.testing.assert_array_equal(Details.of(ids, label, K).border_distance, expected)


def flooded(label):
    """Connected segments, diagonals included: [(class, [places])]."""
    left = {tuple(at) for at in np.argwhere(label != 255).tolist()}
    while left:
        frontier, segment = [left.pop()], []
        while frontier:
            y, x = at = frontier.pop()
            segment.append(at)
            near = {(y + v, x + u) for v in (-1, 0, 1) for u in (-1, 0, 1)} & left
            near = {place for place in near if label[place] == label[at]}
            left -= near
            frontier += near
        yield label[segment[0]], segment


@on_maps
def test_segments_are_what_a_flood_reaches(pair):
    ids, label = pair
    expected = np.zeros((3, K, len(SEGMENT_SIZES)), int)
    for c, segment in flooded(label):
        [at] = bins([len(segment)], SEGMENT_SIZES)
        expected[:, c, at] += sum(ids[place] == c for place in segment), len(segment), 1
    np.testing.assert_array_equal(Details.of(ids, label, K).segments, expected)


@on_maps
def test_a_perfect_prediction_is_right_everywhere(pair):
    ids, label = pair
    details = Details.of(np.where(label == 255, ids, label), label, K)  # whatever it says where the label is ignored
    for shares, present in (
        (details.boundary_iou, np.isin(range(K), label)),
        (details.accuracy_by_class_distance, details.class_distance[1] > 0),
        (details.accuracy_by_border_distance, details.border_distance[1] > 0),
        (details.recall_by_size, details.segments[2].sum(0) > 0),
    ):
        np.testing.assert_array_equal(shares, np.where(present, 1, np.nan))


@on_maps
def test_every_labelled_pixel_is_counted_once_by_each(pair):
    ids, label = pair
    details = Details.of(ids, label, K)
    right, labelled = ((ids == label) & (label != 255)).sum(), (label != 255).sum()
    for counts in (details.class_distance, details.border_distance, details.segments[:2].sum(1)):
        assert counts.sum(1).tolist() == [right, labelled]
    assert {counts.dtype for counts in vars(details).values()} == {np.dtype(np.int64)}


def test_nothing_labelled_adds_nothing():
    ids, label = draw(9, 7, ignored=1.0)
    for name, counts in vars(Details.of(ids, label, K)).items():
        assert not counts.any(), name
        assert counts.shape == vars(Details.none(K))[name].shape


def test_an_image_of_one_class_has_no_class_boundary():
    label = np.zeros((20, 50), np.uint8)
    details = Details.of(label, label, K)
    assert details.class_distance[1].tolist() == [0] * 8 + [1000]
    assert details.boundary[0].tolist() == [2 * 50 + 2 * 18, 0, 0, 0]  # the image's border, one pixel wide


def test_distances_reach_as_far_as_their_last_bin():
    label = np.zeros((1, 300), np.uint8)
    label[:, 280:] = 1
    details = Details.of(label, label, 2)
    assert details.class_distance[1].tolist() == [2, 2, 4, 8, 16, 16 + 4, 32, 64, 280 - 128]
    large = np.zeros((1100, 1200), np.uint8)
    assert Details.of(large, large, 1).border_distance[1, -1] == (1100 - 2 * 512) * (1200 - 2 * 512)


def test_a_part_of_the_split_adds_up_with_the_rest():
    images = [draw(5 + i, 20 - i, 3, seed=i) for i in range(6)]
    with ThreadPoolExecutor(3) as pool:
        each = list(pool.map(lambda pair: Details.of(*pair, K), images))
    whole = reduce(add, each, Details.none(K))
    parts = [reduce(add, part) for part in (each[:2], each[2:])]
    summed = {name: vars(parts[0])[name] + vars(parts[1])[name] for name in vars(whole)}
    for name, counts in vars(Details(**summed)).items():
        np.testing.assert_array_equal(counts, vars(whole)[name], name)
        np.testing.assert_array_equal(counts, sum(vars(Details.of(*pair, K))[name] for pair in images), name)


def test_boundaries_of_the_split_are_summed_before_they_are_divided():
    square, dot = np.zeros((2, 9, 9), np.uint8)
    square[:, :4], dot[4, 4] = 1, 1
    nothing = np.zeros_like(dot)
    details = Details.of(square, square, 2) + Details.of(nothing, dot, 2)
    region = 9 * 4 - 7 * 2
    assert details.boundary_iou[1] == region / (region + 1)  # the mean of the images' would be 1/2


def test_a_class_that_is_only_predicted_has_boundary_iou_0():
    label = np.zeros((6, 6), np.uint8)
    ids = label.copy()
    ids[2:4, 2:4] = 1
    np.testing.assert_array_equal(Details.of(ids, label, 3).boundary_iou[1:], [0, np.nan])


def test_counts_past_int32_add_up():
    label = np.zeros((4, 4), np.uint8)
    one = Details.of(label, label, 1)
    many = one.map(lambda counts: counts * 2**40)
    assert (many + one).segments[1].sum() == 16 * (2**40 + 1)
