"""Scenes drawn by us: the protocol, the same bits everywhere, any size, labels that fit, classes worth learning."""

import hashlib
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropjax.data import street_drawing as drawing
from cropjax.data.labels import CITYSCAPES, IGNORE
from cropjax.data.street_drawing import Canvas, figure
from cropjax.data.streets import SPLITS, Streets, make_street
from cropjax.errors import UserError


def digest(record):
    return hashlib.sha256(record["image"].tobytes() + record["label"].tobytes()).hexdigest()


def blank(size=(96, 192)):
    camera = make_street(np.random.default_rng(0)).camera
    canvas = Canvas(size, camera, haze=np.full(3, 200.0), sun=np.ones(3))
    canvas.label[:] = IGNORE
    return canvas


@pytest.fixture(scope="module")
def labels():
    """Label maps of 100 training scenes and 30 validation scenes."""
    return [
        np.stack([Streets(split, count, (64, 128))[i]["label"] for i in range(count)])
        for split, count in (("train", 100), ("val", 30))
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(32, 200), st.integers(32, 400), st.integers(0, 10**6))
def test_any_size(height, width, index):
    record = Streets("train", 10**6 + 1, (height, width))[index]
    assert record["image"].shape == (height, width, 3)
    assert record["label"].shape == (height, width)
    assert record["image"].dtype == record["label"].dtype == np.uint8
    assert set(np.unique(record["label"])) <= {*range(CITYSCAPES.num_classes), IGNORE}
    assert record["image"].std() > 2  # something is drawn


@pytest.mark.parametrize("size", [(32, 2048), (1024, 32), (1024, 2048)])
def test_the_largest_and_most_slender_sizes(size):
    record = Streets("test", 1, size)[0]
    assert record["image"].shape == (*size, 3)
    assert len(np.unique(record["label"])) > 1


@settings(max_examples=12, deadline=None)
@given(st.integers(24, 80), st.integers(16, 80), st.integers(0, 1000))
def test_a_narrower_picture_is_the_middle_of_the_wide_one(half_height, half_width, index):
    height, width = 2 * half_height, min(2 * max(16, half_width), 4 * half_height)
    wide = Streets("train", 1001, (height, 2 * height))[index]["label"]
    narrow = Streets("train", 1001, (height, width))[index]["label"]
    left = (2 * height - width) // 2
    # OpenCV clips polygons at the border before it rounds, hence a pixel here and there.
    assert (narrow == wide[:, left : left + width]).mean() > 0.98


def test_two_sizes_show_the_same_scene():
    small, large = Streets("val", 8, (120, 240)), Streets("val", 8, (360, 720))
    for i in range(8):
        a, b = small[i], large[i]
        shrunk = cv2.resize(b["image"], (240, 120), interpolation=cv2.INTER_AREA).astype(float)
        assert (a["label"] == b["label"][1::3, 1::3]).mean() > 0.95
        assert np.abs(a["image"] - shrunk).mean() < 12  # grain is finer in the larger picture


def test_the_same_bits_on_every_thread_and_process():
    source = pickle.loads(pickle.dumps(Streets("train", 12, (96, 192), seed=3)))
    expected = [digest(source[i]) for i in range(12)]
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(3)
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda i: digest(source[i]), reversed(range(12)))) == expected[::-1]
    finally:
        cv2.setNumThreads(threads)
    script = (
        "import cv2, hashlib; cv2.setNumThreads(1); from cropjax.data.streets import Streets\n"
        "r = Streets('train', 12, (96, 192), seed=3)[7]\n"
        "print(hashlib.sha256(r['image'].tobytes() + r['label'].tobytes()).hexdigest())"
    )
    elsewhere = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == expected[7]


def test_index_split_and_seed_each_make_another_scene():
    scenes = [Streets(split, 3, (32, 64), seed)[i] for split in SPLITS for seed in (0, 1) for i in range(3)]
    assert len({digest(scene) for scene in scenes}) == len(scenes)
    assert len({scene["name"] for scene in scenes}) == 9  # names tell split and index
    assert digest(Streets("val", 3, (32, 64))[2]) == digest(Streets("val", 1000, (32, 64))[2])


def test_sequence_protocol():
    source = Streets("val", 3, (32, 64))
    assert len(source) == len(list(source)) == 3
    assert digest(source[np.int64(1)]) == digest(source[1])
    assert source.labels is CITYSCAPES
    for index in (3, -1):
        with pytest.raises(IndexError):
            source[index]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-1.5, 1.5), st.floats(-0.5, 1.5)), min_size=3, max_size=8))
def test_image_and_label_change_at_the_same_pixels(points):
    canvas = blank()
    canvas.flat(np.array(points), np.array([10, 20, 30]), drawing.CAR)
    np.testing.assert_array_equal((canvas.image != 0).any(-1), canvas.label == drawing.CAR)


def test_a_rider_is_drawn_like_a_person():
    person, rider = blank(), blank()
    for canvas, label in ((person, drawing.PERSON), (rider, drawing.RIDER)):
        figure(canvas, np.random.default_rng(1), 0, 0, 6, label)
    np.testing.assert_array_equal(person.image, rider.image)
    assert (person.label == drawing.PERSON).sum() == (rider.label == drawing.RIDER).sum() > 50


def test_riders_have_a_two_wheeler_at_their_feet(labels):
    train, _ = labels
    near = [cv2.dilate((label == drawing.RIDER).astype(np.uint8), np.ones((7, 7))) for label in train]
    wheels = (train == drawing.MOTORCYCLE) | (train == drawing.BICYCLE)
    large = [i for i in range(len(train)) if (train[i] == drawing.RIDER).sum() > 20]
    assert len(large) > 20
    assert np.mean([(wheels[i] & (near[i] > 0)).any() for i in large]) > 0.9


def test_things_shrink_with_distance():
    heights = []
    for z in (10, 20, 40):
        canvas = blank((400, 800))
        figure(canvas, np.random.default_rng(2), 0, 0, z, drawing.PERSON)
        heights.append((canvas.label == drawing.PERSON).any(1).sum())
    np.testing.assert_allclose(np.array(heights) / heights[1], [2, 1, 0.5], rtol=0.1)


def test_every_class_is_common_and_the_road_is_no_giveaway(labels):
    train, val = labels
    seen = np.array([(train == c).any((1, 2)).mean() for c in range(CITYSCAPES.num_classes)])
    assert seen.min() > 0.2, dict(zip(CITYSCAPES.names, seen.round(2), strict=True))
    # Predict each position's most frequent class: position alone must say little.
    prior = np.stack([(train == c).sum(0) for c in range(CITYSCAPES.num_classes)]).argmax(0)
    both = np.array([((val == c) & (prior == c)).sum() for c in range(CITYSCAPES.num_classes)])
    either = np.array([((val == c) | ((prior == c) & (val != IGNORE))).sum() for c in range(CITYSCAPES.num_classes)])
    assert (both / either.clip(1)).mean() < 0.15


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"split": "valid"}, "split 'valid'"),
        ({"count": 0}, r"data\.streets.*train_count"),
        ({"size": (31, 64)}, r"data\.streets\.size"),
        ({"size": (64, 2049)}, r"data\.streets\.size"),
        ({"size": (1025, 64)}, r"data\.streets\.size"),
        ({"size": (64, 64, 3)}, r"data\.streets\.size"),
        ({"seed": -1}, r"data\.streets\.seed = -1"),
    ],
)
def test_a_wrong_field_is_named(change, field):
    with pytest.raises(UserError, match=field):
        Streets(**{"split": "train", "count": 2, "size": (64, 128), **change})
