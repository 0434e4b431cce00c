"""How windows are laid over an image, and how what they say is put together. Sizes are (height, width)."""

from dataclasses import dataclass, field

import numpy as np
from jax import lax

BLENDINGS = ("flat", "gaussian")
SIGMA = 1 / 8  # of a Gaussian window, in parts of its side: nnU-Net's (Isensee et al. 2021)


def window_starts(size, window, stride):
    """First positions of the windows along one axis, int array; the last window is shifted back inside."""
    count = max(size - window + stride - 1, 0) // stride + 1
    return np.minimum(np.arange(count) * stride, max(size - window, 0))


def window_weights(side, blending):
    """How much each row (or column) of a window counts, float64 [side]: all the same, or less towards the border."""
    if blending == "flat":
        return np.ones(side)
    return np.exp(-(((np.arange(side) - (side - 1) / 2) / (SIGMA * side)) ** 2) / 2)


@dataclass
class Windows:
    """The windows over an image of `size`: those of one `window`, `stride` apart, or smaller ones in a smaller image.

    `starts` int32 [m,2] are their first rows and columns, as `slide_inference` of mmsegmentation's
    `models/segmentors/encoder_decoder.py` has them. A logit counts by the weight of its row times that of its column,
    `weights`; `seen` is what all windows count together at each row, and at each column, of the image.
    """

    size: tuple
    window: tuple
    stride: tuple
    blending: str = "flat"
    starts: np.ndarray = field(init=False)
    weights: tuple = field(init=False)
    seen: tuple = field(init=False)

    def __post_init__(self):
        axes = [window_starts(*axis) for axis in zip(self.size, self.window, self.stride, strict=True)]
        self.window = tuple(map(min, self.window, self.size))
        self.starts = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2).astype(np.int32)
        self.weights = tuple(window_weights(side, self.blending) for side in self.window)
        self.seen = tuple(np.zeros(side) for side in self.size)
        for seen, starts, weights in zip(self.seen, axes, self.weights, strict=True):
            for start in starts:
                seen[start : start + len(weights)] += weights

    def groups(self, count):
        """(starts int32 [count,2], how many of them there are): the last group is filled up with its last window."""
        for first in range(0, len(self.starts), count):
            group = self.starts[first : first + count]
            yield np.concatenate([group, np.repeat(group[-1:], count - len(group), 0)]), len(group)


def add_windows(total, logits, starts, count, rows, columns):
    """`total` [n,h,w,k], and added to it the first `count` of the windows' logits [n,b,h',w',k] at `starts` int [b,2].

    A logit counts by its weight in `rows` [h'] times that in `columns` [w']. Runs inside `jit`.
    """
    n, _, h, w, k = logits.shape
    weights, zero = (rows[:, None] * columns)[..., None], np.zeros((), starts.dtype)

    def add(i, total):
        corner = (zero, starts[i, 0], starts[i, 1], zero)
        patch = lax.dynamic_slice(total, corner, (n, h, w, k))
        return lax.dynamic_update_slice(total, patch + weights * logits[:, i], corner)

    return lax.fori_loop(0, count, add, total)
