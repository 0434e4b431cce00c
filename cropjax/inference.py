"""From images of any size to full-size logits: the whole image at once, or a window that slides over it.

Matches `mmseg/models/segmentors/encoder_decoder.py`. All functions run inside `jit`.
"""

import math
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cropjax.config import label_set
from cropjax.data.transforms import rescaled_size, resize_keep_ratio
from cropjax.errors import UserError
from cropjax.ops.normalize import normalize
from cropjax.ops.resize import resize_bilinear
from cropjax.sharding import rows_split_over, split_rows
from cropjax.step import merge_model


def window_starts(size, window, stride):
    """First positions of the windows along one axis, int array; the last window is shifted back inside."""
    count = max(size - window + stride - 1, 0) // stride + 1
    return np.minimum(np.arange(count) * stride, max(size - window, 0))


def slide(forward, images, *, window, stride):
    """Logits [n,h,w,k] of normalised `images` [n,h,w,3], summed over windows and divided by how many saw the pixel.

    `forward` gives logits at its input's size. An image smaller than the `window` (height, width) is seen in one window
    of its own size.
    """
    n, h, w, _ = images.shape
    rows, columns = min(window[0], h), min(window[1], w)
    starts = np.stack(
        np.meshgrid(window_starts(h, window[0], stride[0]), window_starts(w, window[1], stride[1]), indexing="ij"),
        -1,
    ).reshape(-1, 2)
    seen = np.zeros((1, h, w, 1))
    for y, x in starts:
        seen[:, y : y + rows, x : x + columns] += 1
    if len(starts) == 1:
        return forward(images)

    def add(total, start):
        y, x = start
        logits = forward(lax.dynamic_slice(images, (0, y, x, 0), (n, rows, columns, 3)))
        corner = (0, y, x, 0)
        patch = lax.dynamic_slice(total, corner, logits.shape)
        return lax.dynamic_update_slice(total, patch + logits, corner), None

    logits = jax.eval_shape(forward, images)
    total, _ = lax.scan(add, jnp.zeros(logits.shape, logits.dtype), jnp.asarray(starts))
    return total / jnp.asarray(seen, total.dtype)


class Inference:
    """A network on images of any size [n,h,w,3], uint8 RGB, rescaled to `data.scale` as in evaluation."""

    def __init__(self, graph, config, mesh):
        self._scale = tuple(config.data.scale)
        self._classes = label_set(config).num_classes
        logits = make_logits(graph, config, mesh)
        self._ids = jax.jit(make_predict(graph, config, mesh), static_argnums=(2, 3))
        self._probabilities = jax.jit(lambda *args: jax.nn.softmax(logits(*args), -1), static_argnums=(2, 3))

    def ids(self, weights, images, mode):
        """Classes uint8 [n,h,w]."""
        return self._ids(weights, self._at_scale(images), images.shape[1:3], mode)

    def probabilities(self, weights, images, mode):
        """float32 [n,h,w,k]."""
        return self._probabilities(weights, self._at_scale(images), images.shape[1:3], mode)

    def needed_bytes(self, size, mode):
        """What the device needs, roughly, for one image of `size` (height, width)."""
        pixels = math.prod(size) + math.prod(rescaled_size(size, self._scale))
        return 8 * self._classes * pixels

    def check_memory(self, size, mode):
        """UserError if an image of `size` needs more memory than there is."""
        memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
        memory = memory or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if self.needed_bytes(size, mode) > memory:
            raise UserError(
                f"{size[0]}x{size[1]} pixels need about {self.needed_bytes(size, mode) >> 20} MiB of the "
                f"{memory >> 20} MiB there are: cut it into parts"
            )

    def _at_scale(self, images):
        return np.stack([resize_keep_ratio(image, self._scale) for image in np.asarray(images)])


def make_predict(graph, config, mesh):
    """`predict(weights, images, size, mode)` -> class ids uint8 [n,*size] of uint8 `images` [n,h,w,3].

    Those of the largest of `make_logits`.
    """
    logits = make_logits(graph, config, mesh)

    def predict(weights, images, size, mode):
        return jnp.argmax(logits(weights, images, size, mode), -1).astype(jnp.uint8)

    return predict


def make_logits(graph, config, mesh):
    """`logits(weights, images, size, mode)` -> [n,*size,k] of uint8 `images` [n,h,w,3].

    The network sees the image padded with zeros, at the right and the bottom, to multiples of `eval.size_divisor`.
    The logits of `mode`, "whole" or "slide", are cut back and resized to `size` (height, width). `size` and `mode` must
    be static where this is jitted.
    """
    align_corners = config.model.align_corners

    def full_size(weights, images, size, mode):
        model = merge_model(graph, weights)

        def forward(x):
            with rows_split_over(mesh):
                logits = model(split_rows(x)).logits
            logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
            return resize_bilinear(logits, x.shape[1:3], align_corners=align_corners)

        _, h, w, _ = images.shape
        x = normalize(images, dtype=jnp.dtype(config.eval.dtype))
        x = jnp.pad(x, ((0, 0), (0, -h % config.eval.size_divisor), (0, -w % config.eval.size_divisor), (0, 0)))
        if mode == "slide":
            logits = slide(forward, x, window=tuple(config.eval.window), stride=tuple(config.eval.stride))
        else:
            logits = forward(x)
        return resize_bilinear(logits[:, :h, :w], size, align_corners=align_corners)

    return full_size
