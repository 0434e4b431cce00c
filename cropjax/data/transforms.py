"""The training augmentation: mmsegmentation's pipeline, to the grey level, on RGB uint8.

RandomResize -> RandomCrop -> RandomFlip -> PhotoMetricDistortion -> pad (mmseg/datasets/transforms, mmcv's
processing.py, 1.2.2). What is random is drawn in `augment`, `draw_scale`, `draw_crop` and `distort`; the rest are
pure functions of their arguments.
"""

import cv2
import numpy as np

from cropjax.data.labels import IGNORE


def augment(
    record: dict,
    rng: np.random.Generator,
    *,
    scale: tuple[int, int],
    ratio_range: tuple[float, float],
    crop_size: tuple[int, int],
    cat_max_ratio: float,
    flip: float,
    photometric: bool,
) -> dict:
    """One training crop of a record.

    `scale` is (long, short) before the random ratio, `crop_size` (height, width). `flip` is the
    probability of a mirror image; `photometric` distorts brightness, contrast, saturation and hue.

    Returns {"image": uint8 [ch, cw, 3], "label": uint8 [ch, cw], "size": int32 [2]}. A scaled image smaller than
    the crop is padded at the right and the bottom with image 0 and label 255; `size` is the rows and columns that
    are not padding. Upstream pads after normalising, so those pixels are the mean colour there: normalise with
    where(inside size, (x - mean) / std, 0).
    """
    size = rescaled_size(record["label"].shape, draw_scale(scale, ratio_range, rng))
    image = resize(record["image"], size, cv2.INTER_LINEAR)
    label = resize(record["label"], size, cv2.INTER_NEAREST)
    window = draw_crop(label, crop_size, cat_max_ratio, rng)
    image, label = image[window], label[window]
    if rng.random() < flip:
        image, label = image[:, ::-1], label[:, ::-1]
    image = np.ascontiguousarray(image)  # OpenCV takes no negative strides
    if photometric:
        image = distort(image, rng)
    h, w = label.shape
    return {
        "image": pad(image, crop_size, 0),
        "label": pad(label, crop_size, IGNORE),
        "size": np.array([h, w], np.int32),
    }


def draw_scale(scale: tuple[int, int], ratio_range: tuple[float, float], rng: np.random.Generator) -> tuple[int, int]:
    """The (long, short) scale times a ratio uniform in `ratio_range`, truncated to integers."""
    ratio = rng.uniform(*ratio_range)
    return int(scale[0] * ratio), int(scale[1] * ratio)


def rescaled_size(size: tuple[int, int], scale: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of an image of `size` fitted into `scale`, its aspect kept: the long edge into the larger number.

    Never less than one pixel, where upstream would fail on a very thin image.
    """
    h, w = size
    factor = min(max(scale) / max(h, w), min(scale) / min(h, w))
    return max(int(h * factor + 0.5), 1), max(int(w * factor + 0.5), 1)


def resize(pixels: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """`pixels` at (h, w) = `size`, half-pixel centres, no antialiasing: OpenCV's, whose rounding upstream has."""
    h, w = size
    return cv2.resize(pixels, (w, h), interpolation=interpolation)


def resize_keep_ratio(image: np.ndarray, scale: tuple[int, int]) -> np.ndarray:
    """The image fitted into (long, short) = `scale`, bilinear: the test pipeline's resize."""
    return resize(image, rescaled_size(image.shape[:2], scale), cv2.INTER_LINEAR)


def draw_crop(
    label: np.ndarray, crop_size: tuple[int, int], cat_max_ratio: float, rng: np.random.Generator
) -> tuple[slice, slice]:
    """Rows and columns of a crop, not beyond the label's edges, that no single class fills.

    The window is uniform; it is drawn anew, up to ten times, until it has two classes or more and the largest
    covers less than `cat_max_ratio` of the labelled pixels. The tenth redraw is taken as it is. A ratio of 1 or
    more accepts the first.
    """
    window = _draw_window(label.shape, crop_size, rng)
    if cat_max_ratio < 1:
        for _ in range(10):
            if is_varied(label[window], cat_max_ratio):
                break
            window = _draw_window(label.shape, crop_size, rng)
    return window


def _draw_window(size: tuple[int, int], crop_size: tuple[int, int], rng: np.random.Generator) -> tuple[slice, slice]:
    def draw(length: int, crop: int) -> slice:
        start = int(rng.integers(max(length - crop, 0) + 1))
        return slice(start, min(start + crop, length))

    return draw(size[0], crop_size[0]), draw(size[1], crop_size[1])


def is_varied(label: np.ndarray, cat_max_ratio: float) -> bool:
    """Whether there are two classes or more and the largest has less than `cat_max_ratio` of the labelled pixels."""
    counts = np.bincount(label.ravel(), minlength=256)
    counts[IGNORE] = 0
    return np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < cat_max_ratio


def pad(pixels: np.ndarray, size: tuple[int, int], value: int) -> np.ndarray:
    """`pixels` filled up at the right and the bottom to (h, w) = `size`; contiguous, and always a copy."""
    h, w = pixels.shape[:2]
    padded = np.full((*size, *pixels.shape[2:]), value, pixels.dtype)
    padded[:h, :w] = pixels
    return padded


def distort(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """PhotoMetricDistortion with upstream's ranges: each of the four with probability 1/2, contrast 2nd or last."""
    contrast_first = _coin(rng)
    if _coin(rng):
        image = convert(image, alpha=1.0, beta=rng.uniform(-32, 32))
    if contrast_first:
        image = _distort_contrast(image, rng)
    if _coin(rng):
        image = adjust_saturation(image, rng.uniform(0.5, 1.5))
    if _coin(rng):
        image = adjust_hue(image, int(rng.integers(-18, 18)))  # 18 itself never comes, as upstream
    if not contrast_first:
        image = _distort_contrast(image, rng)
    return image


def _distort_contrast(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return convert(image, alpha=rng.uniform(0.5, 1.5), beta=0.0) if _coin(rng) else image


def _coin(rng: np.random.Generator) -> bool:
    return bool(rng.integers(2))


def convert(image: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """alpha * image + beta in float32, clipped to 0..255, the fraction cut off (not rounded)."""
    # 256 values once instead of a million: the result is the same to the bit.
    table = np.arange(256, dtype=np.float32) * np.float32(alpha) + np.float32(beta)
    return cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8))


def adjust_saturation(image: np.ndarray, alpha: float) -> np.ndarray:
    """`convert(S, alpha, 0)` in OpenCV's 8-bit HSV."""
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    return cv2.cvtColor(cv2.merge([hue, convert(saturation, alpha, 0.0), value]), cv2.COLOR_HSV2RGB)


def adjust_hue(image: np.ndarray, delta: int) -> np.ndarray:
    """Hue turned by `delta` of 180 in OpenCV's 8-bit HSV, whose H is 0..179."""
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    turned = ((np.arange(256) + delta) % 180).astype(np.uint8)
    return cv2.cvtColor(cv2.merge([cv2.LUT(hue, turned), saturation, value]), cv2.COLOR_HSV2RGB)
