"""The training augmentation: mmsegmentation's pipeline on RGB uint8, the crop chosen before a pixel is touched.

RandomResize -> RandomCrop -> RandomFlip -> PhotoMetricDistortion -> pad (mmseg/datasets/transforms, mmcv's
processing.py, 1.2.2). Scale, window and flip are drawn first, and what is looked at to accept a window is the label
inside it alone; then the window is resampled out of the unscaled image. Labels are upstream's to the pixel, images to
one grey level. What is random is drawn in `augment`, `draw_scale`, `draw_crop` and `draw_distortion`; the rest are
pure functions of their arguments.
"""

import math

import cv2
import numpy as np

from cropjax.data.labels import IGNORE
from cropjax.data.runs import Runs

cv2.setNumThreads(1)  # several examples are made at a time, not the rows of one

PHOTOMETRIC = ("host", "device", "off")
Window = tuple[slice, slice]  # rows and columns


def augment(
    record: dict,
    rng: np.random.Generator,
    *,
    scale: tuple[int, int],
    ratio_range: tuple[float, float],
    crop_size: tuple[int, int],
    cat_max_ratio: float,
    flip: float,
    photometric: str,
) -> dict:
    """One training crop of a record, whose image need only know its `shape` and give `image[rows, columns]`, and whose
    label may be `Runs`.

    `scale` is (long, short) before the random ratio, `crop_size` (height, width). `flip` is the
    probability of a mirror image; `photometric` says where brightness, contrast, saturation and hue are distorted:
    on the "host", on the "device", or "off".

    Returns {"image": uint8 [ch, cw, 3], "label": uint8 [ch, cw], "size": int32 [2]}. A scaled image smaller than
    the crop is padded at the right and the bottom with image 0 and label 255; `size` is the rows and columns that
    are not padding. Upstream pads after normalising, so those pixels are the mean colour there: normalise with
    where(inside size, (x - mean) / std, 0). With `photometric` "device" also "distortion": float32 [5], what
    `draw_distortion` gives and `distort` would have been called with.
    """
    image, label = record["image"], record["label"]
    label = label if isinstance(label, Runs) else Runs.of(label)
    size = rescaled_size(label.shape, draw_scale(scale, ratio_range, rng))
    window, label = draw_crop(label, size, crop_size, cat_max_ratio, rng)
    image = bilinear_window(image, size, window)
    if rng.random() < flip:
        image, label = cv2.flip(image, 1), label[:, ::-1]
    example = {}
    if photometric != "off":
        distortion = draw_distortion(rng)
        if photometric == "host":
            image = distort(image, distortion)
        else:
            example["distortion"] = distortion
    return example | {
        "image": pad(image, crop_size, 0),
        "label": pad(label, crop_size, IGNORE),
        "size": np.array(label.shape, np.int32),
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


def bilinear_window(image, size: tuple[int, int], window: Window) -> np.ndarray:
    """`resize(image, size, cv2.INTER_LINEAR)[window]` to one grey level, from the pixels beneath the window alone."""
    (rows, row_step), (cols, col_step) = (
        (slice(*_beneath(part, old / new, old)), old / new)
        for part, old, new in zip(window, image.shape, size, strict=False)
    )
    (top, bottom), (left, right) = ((part.start, part.stop) for part in window)
    to_image = np.array(
        [
            [col_step, 0, (left + 0.5) * col_step - 0.5 - cols.start],
            [0, row_step, (top + 0.5) * row_step - 0.5 - rows.start],
        ]
    )
    four = cv2.warpAffine(
        cv2.cvtColor(image[rows, cols], cv2.COLOR_RGB2RGBA),  # three channels take 2.5 times as long
        to_image,
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
        hint=cv2.ALGO_HINT_ACCURATE,
    )
    return cv2.cvtColor(four, cv2.COLOR_RGBA2RGB)


def _beneath(part: slice, step: float, length: int) -> tuple[int, int]:
    """First and end of the `length` pixels that bilinear interpolation of `part` reads."""
    first, last = (part.start + 0.5) * step - 0.5, (part.stop - 0.5) * step - 0.5
    return max(math.floor(first), 0), min(math.floor(last) + 2, length)


def nearest_pixels(old: tuple[int, int], size: tuple[int, int], window: Window) -> tuple[np.ndarray, np.ndarray]:
    """The rows and columns of a label of size `old` that are in `resize(label, size, cv2.INTER_NEAREST)[window]`."""
    return tuple(
        np.minimum(np.floor(np.arange(part.start, part.stop) * (1 / (new / old))).astype(int), old - 1)
        for part, old, new in zip(window, old, size, strict=True)
    )


def draw_crop(
    label: Runs,
    size: tuple[int, int],
    crop_size: tuple[int, int],
    cat_max_ratio: float,
    rng: np.random.Generator,
) -> tuple[Window, np.ndarray]:
    """A window of the label scaled to `size`, not beyond its edges, that no single class fills; and its label.

    The window is uniform; it is drawn anew, up to ten times, until it has two classes or more and the largest
    covers less than `cat_max_ratio` of the labelled pixels. The tenth redraw is taken as it is. A ratio of 1 or
    more accepts the first.
    """
    redraws = 10 if cat_max_ratio < 1 else 0
    while True:
        window = _draw_window(size, crop_size, rng)
        pixels = nearest_pixels(label.shape, size, window)
        if not redraws or is_varied(label.counts(*pixels), cat_max_ratio):
            return window, label.take(*pixels)
        redraws -= 1


def _draw_window(size: tuple[int, int], crop_size: tuple[int, int], rng: np.random.Generator) -> Window:
    def draw(length: int, crop: int) -> slice:
        start = int(rng.integers(max(length - crop, 0) + 1))
        return slice(start, min(start + crop, length))

    return draw(size[0], crop_size[0]), draw(size[1], crop_size[1])


def is_varied(counts: np.ndarray, cat_max_ratio: float) -> bool:
    """Of pixels by class [256]: whether two classes or more are there and the largest has less than `cat_max_ratio`.

    Of the labelled pixels, that is: `IGNORE` is no class.
    """
    counts = np.delete(counts, IGNORE)
    return np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < cat_max_ratio


def pad(pixels: np.ndarray, size: tuple[int, int], value: int) -> np.ndarray:
    """`pixels` filled up at the right and the bottom to (h, w) = `size`; contiguous."""
    h, w = pixels.shape[:2]
    if (h, w) == tuple(size):
        return np.ascontiguousarray(pixels)
    padded = np.full((*size, *pixels.shape[2:]), value, pixels.dtype)
    padded[:h, :w] = pixels
    return padded


def draw_distortion(rng: np.random.Generator) -> np.ndarray:
    """float32 [5]: contrast first (0 or 1), brightness, contrast, saturation, hue; nan for what is left out.

    PhotoMetricDistortion's ranges, each of the four with probability 1/2.
    """
    contrast_first = _coin(rng)
    brightness = rng.uniform(-32, 32) if _coin(rng) else math.nan
    contrast = _draw_contrast(rng) if contrast_first else None
    saturation = rng.uniform(0.5, 1.5) if _coin(rng) else math.nan
    hue = int(rng.integers(-18, 18)) if _coin(rng) else math.nan  # 18 itself never comes, as upstream
    contrast = contrast if contrast_first else _draw_contrast(rng)
    return np.array([contrast_first, brightness, contrast, saturation, hue], np.float32)


def _draw_contrast(rng: np.random.Generator) -> float:
    return rng.uniform(0.5, 1.5) if _coin(rng) else math.nan


def _coin(rng: np.random.Generator) -> bool:
    return bool(rng.integers(2))


def distort(image: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    """PhotoMetricDistortion with the numbers of `draw_distortion`; contrast comes second or last."""
    contrast_first, brightness, contrast, saturation, hue = distortion.tolist()
    changes = [(adjust_saturation, saturation), (adjust_hue, hue)]
    changes.insert(0 if contrast_first else 2, (adjust_contrast, contrast))
    for change, by in [(adjust_brightness, brightness), *changes]:
        if not math.isnan(by):
            image = change(image, by)
    return image


def adjust_brightness(image: np.ndarray, beta: float) -> np.ndarray:
    return convert(image, 1.0, beta)


def adjust_contrast(image: np.ndarray, alpha: float) -> np.ndarray:
    return convert(image, alpha, 0.0)


def convert(image: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """alpha * image + beta in float32, clipped to 0..255, the fraction cut off (not rounded)."""
    # 256 values once instead of a million: the result is the same to the bit.
    table = np.arange(256, dtype=np.float32) * np.float32(alpha) + np.float32(beta)
    return cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8))


def adjust_saturation(image: np.ndarray, alpha: float) -> np.ndarray:
    """`convert(S, alpha, 0)` in OpenCV's 8-bit HSV."""
    return _in_hsv(image, 1, convert(np.arange(256, dtype=np.uint8), alpha, 0.0))


def adjust_hue(image: np.ndarray, delta: float) -> np.ndarray:
    """Hue turned by `delta` of 180 in OpenCV's 8-bit HSV, whose H is 0..179."""
    return _in_hsv(image, 0, ((np.arange(256) + int(delta)) % 180).astype(np.uint8))


def _in_hsv(image: np.ndarray, channel: int, table: np.ndarray) -> np.ndarray:
    """`image` with one of H, S and V changed as the uint8 [256] `table` says.

    OpenCV's vector code cuts off what the code for the last few pixels of a row rounds, and how many those are depends
    on the processor. So the pixels come in rows that are all vector; upstream's last columns may differ by a level.
    """
    pixels = image.reshape(-1, 3)
    rows = pad(pixels[None], (1, -(-len(pixels) // 1024) * 1024), 0).reshape(-1, 1024, 3)
    hsv = cv2.cvtColor(rows, cv2.COLOR_RGB2HSV)
    cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, channel), table), hsv, channel)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).reshape(-1, 3)[: len(pixels)].reshape(image.shape)
