"""The augmentation against plain definitions of its parts, and image and label kept together through all of it."""

import colorsys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropjax.data import transforms
from cropjax.data.labels import IGNORE
from cropjax.data.runs import Runs

PLAIN = {"ratio_range": (1.0, 1.0), "cat_max_ratio": 1.0, "flip": 0.0, "photometric": "off"}


def rgb(seed: int, h: int, w: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Half-pixel centres, clamped at the edges, float64: the definition."""

    def taps(old, new):
        position = (np.arange(new) + 0.5) * old / new - 0.5
        low = np.floor(position)
        return np.clip(low, 0, old - 1).astype(int), np.clip(low + 1, 0, old - 1).astype(int), position - low

    y0, y1, fy = taps(image.shape[0], size[0])
    x0, x1, fx = taps(image.shape[1], size[1])
    image, fy, fx = image.astype(float), fy[:, None, None], fx[None, :, None]
    rows = image[y0] * (1 - fy) + image[y1] * fy
    return rows[:, x0] * (1 - fx) + rows[:, x1] * fx


@given(
    h=st.integers(1, 40),
    w=st.integers(1, 40),
    new_h=st.integers(1, 80),
    new_w=st.integers(1, 80),
    seed=st.integers(0, 9),
)
def test_resize_is_bilinear_to_one_grey_level(h, w, new_h, new_w, seed):
    image = rgb(seed, h, w)
    resized = transforms.resize(image, (new_h, new_w), cv2.INTER_LINEAR)
    assert np.abs(resized - bilinear(image, (new_h, new_w))).max() <= 1


@given(h=st.integers(1, 3000), w=st.integers(1, 3000), a=st.integers(1, 3000), b=st.integers(1, 3000))
def test_rescaled_size_fits_the_scale_and_touches_it(h, w, a, b):
    new_h, new_w = transforms.rescaled_size((h, w), (a, b))
    long, short = max(new_h, new_w), min(new_h, new_w)
    assert long <= max(a, b)
    assert short <= min(a, b)
    assert long == max(a, b) or short == min(a, b)
    assert transforms.rescaled_size((w, h), (b, a)) == (new_w, new_h)


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((1024, 2048), (2048, 1024), (1024, 2048)),
        ((1024, 2048), (2049, 1025), (1025, 2049)),  # 1024.5 is rounded up
        ((1024, 2048), (2048, 512), (512, 1024)),
        ((360, 480), (2048, 1024), (1024, 1365)),
    ],
)
def test_rescaled_size_of_the_published_settings(size, scale, expected):
    assert transforms.rescaled_size(size, scale) == expected
    assert transforms.resize_keep_ratio(np.zeros((*size, 3), np.uint8), scale).shape == (*expected, 3)


def test_scale_is_truncated_and_spans_its_range():
    rng = np.random.default_rng(0)
    drawn = np.array([transforms.draw_scale((2049, 1025), (0.5, 2.0), rng) for _ in range(500)])
    assert drawn.min(0).tolist() >= [1024, 512]
    assert drawn.max(0).tolist() < [4098, 2050]
    assert np.ptp(drawn[:, 0]) > 2800
    assert transforms.draw_scale((2049, 1025), (0.5, 0.5), rng) == (1024, 512)


def counts(label: np.ndarray) -> np.ndarray:
    return np.bincount(label.ravel(), minlength=256)


def seeded(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@st.composite
def scaled_windows(draw):
    """An image's size, the size that it is scaled to, and a window of that."""
    old, new = (draw(st.tuples(st.integers(1, 90), st.integers(1, 90))) for _ in range(2))
    starts = [draw(st.integers(0, length - 1)) for length in new]
    stops = [draw(st.integers(start + 1, length)) for start, length in zip(starts, new, strict=True)]
    return old, new, tuple(map(slice, starts, stops))


class Readable:
    """An image that gives what it is asked for, and counts it."""

    def __init__(self, image):
        self.image, self.shape, self.read = image, image.shape, 0

    def __getitem__(self, window):
        part = self.image[window]
        self.read += part[..., 0].size
        return part


@settings(max_examples=300)
@given(scaled_windows(), st.integers(0, 9))
def test_a_window_of_a_scaled_image_equals_the_scaled_images_window(sizes, seed):
    """The naive order, all scaled and then cut, for images (to one grey level) and labels (to the pixel)."""
    old, new, window = sizes
    image = rgb(seed, *old)
    cut = transforms.resize(image, new, cv2.INTER_LINEAR)[window]
    readable = Readable(image)
    first = transforms.bilinear_window(readable, new, window)
    assert first.shape == cut.shape
    assert np.abs(first.astype(int) - cut).max() <= 1
    rows, cols = transforms.nearest_pixels(old, new, window)
    np.testing.assert_array_equal(
        image[rows][:, cols, 1], transforms.resize(image[..., 1], new, cv2.INTER_NEAREST)[window]
    )
    share = np.prod([(part.stop - part.start) * a / b + 2 for part, a, b in zip(window, old, new, strict=True)])
    assert readable.read <= share


@pytest.mark.parametrize("scale", [(2048, 1024), (2049, 1025)])
@pytest.mark.parametrize("crop_size", [(512, 512), (769, 769), (512, 1024)])
def test_crop_first_equals_the_naive_order_at_full_size(scale, crop_size):
    """Frames of Cityscapes' size: the same window for the same draws, to one grey level and to the pixel."""
    image = cv2.resize(rgb(0, 256, 512), (2048, 1024))
    label = (image[..., 0] // 86).astype(np.uint8)
    for seed in range(4):
        rng = seeded(seed)
        size = transforms.rescaled_size(label.shape, transforms.draw_scale(scale, (0.5, 2.0), rng))
        scaled = transforms.resize(label, size, cv2.INTER_NEAREST)
        for _ in range(11):
            starts = [int(rng.integers(max(n - crop, 0) + 1)) for n, crop in zip(size, crop_size, strict=True)]
            window = tuple(slice(a, min(a + crop, n)) for a, crop, n in zip(starts, crop_size, size, strict=True))
            if transforms.is_varied(counts(scaled[window]), 0.4):
                break
        naive = transforms.resize(image, size, cv2.INTER_LINEAR)[window]
        h, w = naive.shape[:2]
        record = {"image": image, "label": label}
        drawn = PLAIN | {"ratio_range": (0.5, 2.0), "cat_max_ratio": 0.4}
        first = transforms.augment(record, seeded(seed), scale=scale, crop_size=crop_size, **drawn)
        assert first["size"].tolist() == [h, w]
        assert np.abs(first["image"][:h, :w].astype(int) - naive).max() <= 1
        np.testing.assert_array_equal(first["label"][:h, :w], scaled[window])


@given(
    h=st.integers(1, 30), w=st.integers(1, 30), ch=st.integers(1, 30), cw=st.integers(1, 30), seed=st.integers(0, 99)
)
def test_a_crop_is_as_large_as_label_and_crop_size_allow(h, w, ch, cw, seed):
    (rows, cols), part = transforms.draw_crop(Runs.of(np.zeros((5, 5), np.uint8)), (h, w), (ch, cw), 0.75, seeded(seed))
    assert part.shape == (rows.stop - rows.start, cols.stop - cols.start)
    assert 0 <= rows.start < rows.stop <= h
    assert 0 <= cols.start < cols.stop <= w
    assert (rows.stop - rows.start, cols.stop - cols.start) == (min(h, ch), min(w, cw))


def test_crops_reach_every_position():
    rng = np.random.default_rng(0)
    label = Runs.of(np.zeros((7, 9), np.uint8))
    windows = [transforms.draw_crop(label, label.shape, (5, 6), 1.0, rng)[0] for _ in range(400)]
    starts = {tuple(part.start for part in window) for window in windows}
    assert starts == {(y, x) for y in range(3) for x in range(4)}


def test_is_varied():
    def is_varied(*values_and_counts):
        counts = np.zeros(256)
        for value, count in values_and_counts:
            counts[value] = count
        return transforms.is_varied(counts, 0.75)

    assert is_varied((0, 74), (1, 26))
    assert not is_varied((0, 75), (1, 25))  # the limit itself is too much
    assert not is_varied((3, 10))
    assert not is_varied((3, 10), (IGNORE, 90))  # ignored pixels are no class
    assert is_varied((3, 10), (4, 10), (IGNORE, 900))
    assert not is_varied((IGNORE, 9))


def test_a_crop_is_drawn_anew_ten_times_and_then_taken(monkeypatch):
    seen = []

    def refuse(counts, _):
        seen.append(counts.argmax())
        return False

    monkeypatch.setattr(transforms, "is_varied", refuse)
    positions = Runs.of(np.arange(200, dtype=np.uint8)[:, None])
    (rows, _), _ = transforms.draw_crop(positions, positions.shape, (1, 1), 0.75, seeded(0))
    rng = seeded(0)
    drawn = [(int(rng.integers(200)), int(rng.integers(1)))[0] for _ in range(11)]
    assert seen == drawn[:10]
    assert rows.start == drawn[10]


def test_a_varied_crop_is_preferred():
    label = np.zeros((8, 200), np.uint8)
    label[:, 100:110] = np.arange(10)
    label, rng = Runs.of(label), seeded(0)
    varied = [
        transforms.is_varied(counts(transforms.draw_crop(label, label.shape, (8, 20), ratio, rng)[1]), 0.75)
        for ratio in (0.75, 1.0)
        for _ in range(300)
    ]
    assert sum(varied[:300]) > 2 * sum(varied[300:]) > 0


@given(h=st.integers(1, 9), w=st.integers(1, 9), more_h=st.integers(0, 5), more_w=st.integers(0, 5))
def test_pad_fills_right_and_bottom(h, w, more_h, more_w):
    image = rgb(0, h, w)
    padded = transforms.pad(image, (h + more_h, w + more_w), 7)
    assert padded.shape == (h + more_h, w + more_w, 3)
    np.testing.assert_array_equal(padded[:h, :w], image)
    assert (padded[h:] == 7).all()
    assert (padded[:, w:] == 7).all()


# ---- photometric distortion -------------------------------------------------------------------------------


@given(alpha=st.floats(0.5, 1.5), beta=st.floats(-32, 32))
def test_convert_truncates(alpha, beta):
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    direct = np.clip(image.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(transforms.convert(image, alpha, beta), direct)


def test_convert_examples():
    levels = np.array([[0, 100, 101, 255]], np.uint8)
    assert transforms.convert(levels, 1.0, -0.5).tolist() == [[0, 99, 100, 254]]
    assert transforms.convert(levels, 1.5, 0.0).tolist() == [[0, 150, 151, 255]]


def test_hue_turns_the_colour_circle():
    red = np.array([[[200, 0, 0]]], np.uint8)
    assert transforms.adjust_hue(red, 60).tolist() == [[[0, 200, 0]]]
    assert transforms.adjust_hue(red, -60).tolist() == [[[0, 0, 200]]]
    assert transforms.adjust_hue(red, 180).tolist() == red.tolist()


def test_saturation_scales_towards_grey():
    colour = np.array([[[200, 120, 120]]], np.uint8)  # S = 102
    grey = np.array([[[90, 90, 90]]], np.uint8)
    assert transforms.adjust_saturation(colour, 0.5).tolist() == [[[200, 160, 160]]]
    assert transforms.adjust_saturation(colour, 1.5).tolist() == [[[200, 80, 80]]]
    assert transforms.adjust_saturation(grey, 1.5).tolist() == grey.tolist()


def test_saturation_and_hue_follow_hsv():
    """In 8 bits: a turn of the hue keeps value and saturation; S is scaled with H and V kept."""
    image = rgb(0, 8, 8)
    for changed in (transforms.adjust_hue(image, 17), transforms.adjust_saturation(image, 0.8)):
        for before, after in zip(image.reshape(-1, 3), changed.reshape(-1, 3), strict=True):
            assert abs(int(before.max()) - int(after.max())) <= 1
    for before, after in zip(image.reshape(-1, 3), transforms.adjust_hue(image, 17).reshape(-1, 3), strict=True):
        h0, s0, _ = colorsys.rgb_to_hsv(*(before / 255))
        h1, s1, v1 = colorsys.rgb_to_hsv(*(after / 255))
        assert abs(s0 - s1) < 0.03
        if s1 * v1 > 0.2:
            assert abs((h1 - h0 - 17 / 180 + 0.5) % 1 - 0.5) < 0.02


class Upstream:
    """PhotoMetricDistortion of a BGR image, written down once more from its description, in its order of draws."""

    def __init__(self, rng):
        self.coin = lambda: rng.integers(2)
        self.uniform, self.integers = rng.uniform, rng.integers

    @staticmethod
    def convert(image, alpha=1, beta=0):
        return np.clip(image.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)

    def contrast(self, bgr):
        return self.convert(bgr, alpha=self.uniform(0.5, 1.5)) if self.coin() else bgr

    def __call__(self, bgr):
        mode = self.coin()
        if self.coin():
            bgr = self.convert(bgr, beta=self.uniform(-32, 32))
        if mode == 1:
            bgr = self.contrast(bgr)
        if self.coin():
            hsv = cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV)
            hsv[..., 1] = self.convert(hsv[..., 1], alpha=self.uniform(0.5, 1.5))
            bgr = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        if self.coin():
            hsv = cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV)
            hsv[..., 0] = (hsv[..., 0].astype(int) + self.integers(-18, 18)) % 180
            bgr = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        if mode == 0:
            bgr = self.contrast(bgr)
        return bgr


@pytest.mark.parametrize("seed", range(40))
def test_distortion_of_rgb_equals_upstreams_of_bgr(seed):
    image = rgb(seed, 16, 64)  # no last columns, see `_in_hsv`
    bgr = np.ascontiguousarray(image[..., ::-1])
    distorted = transforms.distort(image, transforms.draw_distortion(seeded(seed)))
    np.testing.assert_array_equal(distorted, Upstream(seeded(seed))(bgr)[..., ::-1])


def test_distortion_leaves_its_input_alone():
    image = rgb(0, 4, 4)
    for seed in range(20):
        transforms.distort(image, transforms.draw_distortion(seeded(seed)))
    np.testing.assert_array_equal(image, rgb(0, 4, 4))


# ---- the whole ---------------------------------------------------------------------------------------------


def coded_record(h: int, w: int) -> dict:
    """The label is a function of the image's colour, constant on blocks that survive a resize."""
    label = (np.arange(h)[:, None] // 8 + np.arange(w)[None, :] // 8 * 3) % 5
    image = np.stack([label * 50, 255 - label * 50, label * 20], -1)
    return {"image": image.astype(np.uint8), "label": label.astype(np.uint8), "name": "coded"}


@settings(max_examples=60)
@given(
    h=st.integers(1, 70),
    w=st.integers(1, 70),
    ch=st.integers(1, 60),
    cw=st.integers(1, 60),
    seed=st.integers(0, 10**6),
    photometric=st.sampled_from(["off", "host"]),
)
def test_augment_gives_the_batch_contract_for_any_size(h, w, ch, cw, seed, photometric):
    record = coded_record(h, w)
    record["label"] *= 10
    out = transforms.augment(
        record,
        seeded(seed),
        scale=(64, 64),
        ratio_range=(0.5, 2.0),
        crop_size=(ch, cw),
        cat_max_ratio=0.75,
        flip=0.5,
        photometric=photometric,
    )
    assert out.keys() == {"image", "label", "size"}
    assert out["image"].shape == (ch, cw, 3)
    assert out["label"].shape == (ch, cw)
    assert (out["image"].dtype, out["label"].dtype, out["size"].dtype) == (np.uint8, np.uint8, np.int32)
    valid_h, valid_w = out["size"]
    assert set(np.unique(out["label"][:valid_h, :valid_w])) <= {0, 10, 20, 30, 40}  # no class between two classes
    for key, filling in (("image", 0), ("label", IGNORE)):
        assert (out[key][valid_h:] == filling).all()
        assert (out[key][:, valid_w:] == filling).all()


@settings(max_examples=60)
@given(h=st.integers(16, 70), w=st.integers(16, 70), seed=st.integers(0, 10**6))
def test_label_and_image_stay_aligned(h, w, seed):
    """Away from a block's edge, where bilinear mixes two colours, the image still spells the label."""
    crop = transforms.augment(
        coded_record(h, w),
        seeded(seed),
        scale=(3 * w, 3 * h),
        ratio_range=(0.5, 2.0),
        crop_size=(40, 50),
        cat_max_ratio=0.75,
        flip=0.5,
        photometric="off",
    )
    valid_h, valid_w = crop["size"]
    image, label = crop["image"][:valid_h, :valid_w], crop["label"][:valid_h, :valid_w]
    window = np.ones((9, 9))
    pure = (cv2.erode(label, window) == cv2.dilate(label, window))[4:-4, 4:-4]
    spelled, label = np.rint(image[4:-4, 4:-4, 0] / 50), label[4:-4, 4:-4]
    assert pure.any()
    np.testing.assert_array_equal(spelled[pure], label[pure])


def test_flip_mirrors_about_half_and_twice_is_the_identity():
    record = {"image": rgb(0, 6, 9), "label": rgb(1, 6, 9)[..., 0], "name": "x"}
    settings_ = {"scale": (9, 6), "crop_size": (6, 9)} | PLAIN | {"flip": 0.5}
    mirrored = 0
    for seed in range(200):
        out = transforms.augment(record, seeded(seed), **settings_)
        is_mirrored = not np.array_equal(out["label"], record["label"])
        mirrored += is_mirrored
        for key in ("image", "label"):
            expected = record[key][:, ::-1] if is_mirrored else record[key]
            np.testing.assert_array_equal(out[key], expected)
    assert 70 < mirrored < 130


def test_a_small_image_is_flipped_before_it_is_padded():
    record = {"image": rgb(0, 6, 9), "label": np.zeros((6, 9), np.uint8), "name": "x"}
    outs = [
        transforms.augment(record, seeded(seed), **({"scale": (9, 6), "crop_size": (8, 16)} | PLAIN | {"flip": 0.5}))
        for seed in range(10)
    ]
    for out in outs:
        assert out["size"].tolist() == [6, 9]
        assert (out["label"][:6, :9] == 0).all()
        assert (out["label"][6:] == IGNORE).all()
        assert (out["label"][:, 9:] == IGNORE).all()
    assert any(np.array_equal(out["image"][:6, :9], record["image"][:, ::-1]) for out in outs)


def test_augment_depends_on_the_generator_alone_and_keeps_the_record():
    record = coded_record(40, 50)
    kwargs = {"scale": (64, 48), "crop_size": (24, 32)} | PLAIN
    kwargs |= {"ratio_range": (0.5, 2.0), "cat_max_ratio": 0.75, "flip": 0.5, "photometric": "host"}
    first, again, other = (transforms.augment(record, seeded(s), **kwargs) for s in (1, 1, 2))
    np.testing.assert_array_equal(first["image"], again["image"])
    np.testing.assert_array_equal(first["label"], again["label"])
    assert not np.array_equal(first["image"], other["image"])
    np.testing.assert_array_equal(record["image"], coded_record(40, 50)["image"])
