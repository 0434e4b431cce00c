"""From images of any size to a class for every pixel, in one of four modes.

    whole                   the network sees the image at once
    slide                   it sees windows of `eval.window`, `eval.stride` apart, and what they say is blended
    whole_tta, slide_tta    either at each of `eval.tta_scales`, with `eval.tta_flip` mirrored too; softmax averaged

Matches mmsegmentation's `models/segmentors/encoder_decoder.py` and `seg_tta.py`. Little depends on an image's size: a
sum of windows, a resize. The network is compiled once for all images that are as large as a window; smaller ones it
sees in windows of their own size, as upstream has it.
"""

import math
from collections import Counter

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from cropjax.compiled import Compiled
from cropjax.config import label_set
from cropjax.data.transforms import rescaled_size, resize
from cropjax.errors import UserError
from cropjax.host_memory import available_bytes
from cropjax.ops.normalize import normalize
from cropjax.ops.resize import resize_bilinear
from cropjax.sharding import batch_form, place_batch, rows_split_over, split_batch, split_rows
from cropjax.step import merge_model
from cropjax.windows import Windows, add_windows

MODES = ("whole", "slide", "whole_tta", "slide_tta")


def make_forward(graph, config, mesh):
    """`forward(weights, images, valid=None)` -> logits [n,h,w,k] of uint8 images [n,h,w,3], float32 or better.

    Past its `valid` rows and columns, int [n,2], an image is the mean colour: 0 where the network sees it.
    """

    def forward(weights, images, valid=None):
        images = normalize(images, valid, jnp.dtype(config.eval.dtype))
        with rows_split_over(mesh):
            logits = merge_model(graph, weights)(split_rows(images)).logits
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        return resize_bilinear(logits, images.shape[1:3], align_corners=config.model.align_corners)

    return forward


class Inference:
    """The network `graph` of a config at test, on the devices of `mesh`, which are all this process's.

    `images` are NumPy's uint8 [n,h,w,3] RGB as a data set has them, n a multiple of `mesh`'s `data`. The network sees
    them fitted into `data.scale`; in a `_tta` mode at scales of their own size, as upstream does. After normalising
    they are padded with zeros, at the right and the bottom, to multiples of `eval.size_divisor`.
    """

    def __init__(self, graph, config, mesh):
        self._config, self._mesh = config, mesh
        self._dtype = jnp.promote_types(jnp.dtype(config.eval.dtype), jnp.float32)
        self._classes = label_set(config).num_classes
        self._with_room = set()

        network = make_forward(graph, config, mesh)

        def forward(weights, windows, valid):
            """As `network`, of windows [...,h,w,3]."""
            logits = network(weights, windows.reshape(-1, *windows.shape[-3:]), valid.reshape(-1, 2))
            return logits.reshape(*windows.shape[:-1], -1)

        def full_size(total, seen, *, valid, size, mirrored):
            """Logits [n,*size,k] of a sum over windows [n,h,w,k], which has a pixel as often as the product of `seen`.

            `seen` are its rows' and its columns' shares; None: each pixel once.
            """
            if seen:
                rows, columns = seen
                total = total / (rows[:, None] * columns)[..., None]
            logits = total[:, : valid[0], : valid[1]]
            logits = logits[:, :, ::-1] if mirrored else logits
            return resize_bilinear(logits, size, align_corners=align_corners)

        def softmax(*operands, **static):
            return jax.nn.softmax(full_size(*operands, **static))

        def ids(*operands, **static):
            return largest(full_size(*operands, **static))

        def ids_and_softmax(*operands, **static):
            logits = full_size(*operands, **static)
            return largest(logits), jax.nn.softmax(logits)

        def largest(values):
            return jnp.argmax(values, -1).astype(jnp.uint8)

        align_corners, split = config.model.align_corners, {"out_shardings": split_batch(mesh)}
        self._forward = Compiled(forward, **split)
        self._zeros = Compiled(lambda *, shape: jnp.zeros(shape, self._dtype), **split)
        self._add_windows = Compiled(add_windows, **split, donate_argnums=0)
        self._softmax, self._ids, self._largest = (Compiled(f, **split) for f in (softmax, ids, largest))
        self._ids_and_softmax = Compiled(ids_and_softmax, **split)
        self._add = Compiled(jnp.add, **split, donate_argnums=0)

    def ids(self, weights, images, mode):
        """Class ids uint8 [n,h,w], on the devices.

        Raises:
            UserError: the devices have not the memory; nothing was tried then.
        """
        self._need_room(weights, images.shape, mode)
        if mode.endswith("_tta"):
            return self._largest(self._sum_of_softmax(weights, images, mode))
        return self._seen(self._ids, weights, self._fitted(images), images.shape[1:3], mode)

    def ids_and_probabilities(self, weights, images, mode):
        """As `ids`, and with them the probability of each class, float32 or better [n,h,w,k]."""
        self._need_room(weights, images.shape, mode, probabilities=True)
        if mode.endswith("_tta"):
            total = self._sum_of_softmax(weights, images, mode)
            return self._largest(total), total / len(self._views(images.shape[1:3]))
        return self._seen(self._ids_and_softmax, weights, self._fitted(images), images.shape[1:3], mode)

    def check(self, weights, size, modes):
        """Traces the network on what it sees of an image of `size`, for shapes alone: what cannot work raises now.

        `weights` may be forms.
        """
        for mode in modes:
            for function, forms, _ in self.calls(weights, (self._mesh.shape["data"], *size), mode):
                jax.eval_shape(function, *forms)

    def calls(self, weights, shape, mode):
        """What the network does for `images` of that `shape`: (function, forms of its arguments, how many times)."""
        n, *size = shape[:3]
        for view, times in self._view_sizes(size, mode).items():
            windows = self._windows(view, mode)
            yield self._forward.function, (weights, *self._forms(n, windows)), times * len(list(self._groups(windows)))

    def needed_bytes(self, weights, shape, mode, *, probabilities=False):
        """What the devices need at most for `images` of that `shape`, by the plans of the compiled programs."""
        n, *size = shape[:3]
        finish = self._ids_and_softmax if probabilities else self._ids
        finish = self._softmax if mode.endswith("_tta") else finish
        views = self._view_sizes(size, mode)
        return max(self._bytes_of_view(weights, n, view, tuple(size), mode, finish) for view in views)

    # ----------------------------------------------------------------------------------------------------------- views
    def _views(self, size):
        """The (height, width), and whether mirrored, of each view of a `_tta` mode."""
        c = self._config.eval
        scales = [tuple(int(side * scale + 0.5) for side in size) for scale in c.tta_scales]
        sizes = [rescaled_size(size, scale) for scale in scales]  # both round, as upstream's Resize does
        return [(view, mirrored) for view in sizes for mirrored in ((False, True) if c.tta_flip else (False,))]

    def _view_sizes(self, size, mode):
        """{(height, width): how many views have it}."""
        if mode.endswith("_tta"):
            return Counter(view for view, _ in self._views(size))
        return {rescaled_size(size, tuple(self._config.data.scale)): 1}

    def _fitted(self, images):
        return _resized(images, rescaled_size(images.shape[1:3], tuple(self._config.data.scale)))

    def _sum_of_softmax(self, weights, images, mode):
        total, size = None, images.shape[1:3]
        for view, mirrored in self._views(size):
            seen = _resized(images, view)[:, :, :: -1 if mirrored else 1]
            found = self._seen(self._softmax, weights, seen, size, mode, mirrored=mirrored)
            total = found if total is None else self._add(total, found)
        return total

    # --------------------------------------------------------------------------------------------------------- windows
    def _windows(self, size, mode):
        c = self._config.eval
        padded = tuple(-(-side // c.size_divisor) * c.size_divisor for side in size)
        if mode.startswith("slide"):
            return Windows(padded, tuple(c.window), tuple(c.stride), c.blending)
        return Windows(padded, padded, padded)

    def _seen(self, finish, weights, images, size, mode, *, mirrored=False):
        """What `finish` makes, at `size`, of the network's logits of `images` as they are."""
        n, *valid = images.shape[:3]
        windows = self._windows(valid, mode)
        spare = ((0, padded - side) for padded, side in zip(windows.size, valid, strict=True))
        images = np.pad(images, ((0, 0), *spare, (0, 0)))
        how = {"valid": tuple(valid), "size": tuple(size), "mirrored": mirrored}
        if len(windows.starts) == 1:
            total = self._forward(weights, *self._placed(images, np.broadcast_to(np.int32(valid), (n, 2))))
            return finish(total, None, **how)
        h, w = windows.window
        total = self._zeros(shape=(n, *windows.size, self._classes))
        for starts, count in self._groups(windows):
            seen = np.stack([images[:, y : y + h, x : x + w] for y, x in starts], 1)
            rest = np.broadcast_to(np.maximum(np.int32(valid) - starts, 0), (n, *starts.shape))
            logits = self._forward(weights, *self._placed(seen, rest))
            total = self._add_windows(total, logits, starts, np.int32(count), *self._cast(windows.weights))
        return finish(total, self._cast(windows.seen), **how)

    def _groups(self, windows):
        return windows.groups(self._config.eval.window_batch)

    def _forms(self, n, windows):
        """Those of what the network is given of `n` images at a time: one window of each, or a group of them."""
        group = () if len(windows.starts) == 1 else (self._config.eval.window_batch,)
        shapes = {"windows": ((*group, *windows.window, 3), np.uint8), "valid": ((*group, 2), np.int32)}
        return batch_form(n, self._mesh, **shapes).values()

    def _cast(self, vectors):
        return [vector.astype(self._dtype) for vector in vectors]

    def _placed(self, windows, valid):
        placed = place_batch({"windows": windows, "valid": valid}, self._mesh)
        return placed["windows"], placed["valid"]

    # ---------------------------------------------------------------------------------------------------------- memory
    def _bytes_of_view(self, weights, n, view, size, mode, finish):
        windows = self._windows(view, mode)
        total = jax.ShapeDtypeStruct((n, *windows.size, self._classes), self._dtype, sharding=split_batch(self._mesh))
        forward = self._forward.bytes(weights, *self._forms(n, windows))
        finish = finish.bytes(
            total,
            self._cast(windows.seen) if len(windows.starts) > 1 else None,
            valid=tuple(view),
            size=size,
            mirrored=False,  # by name, as `_seen` has it: the same program
        )
        each = self._dtype.itemsize * n // self._mesh.shape["data"] * self._classes
        of_windows = math.prod(windows.size) * (len(windows.starts) > 1) * each
        of_views = math.prod(size) * mode.endswith("_tta") * each
        return max(forward + of_windows, finish) + of_views

    def _free_bytes(self):
        stats = self._mesh.local_devices[0].memory_stats()
        return stats["bytes_limit"] - stats["bytes_in_use"] if stats else available_bytes()

    def _need_room(self, weights, shape, mode, *, probabilities=False):
        """Asked once of each shape: what has not the memory it needs says so before it is tried."""
        asked = shape, mode, probabilities
        if asked in self._with_room:
            return
        n, h, w = shape[:3]
        free, here = self._free_bytes(), n // self._mesh.shape["data"]
        needed = 2 * self._dtype.itemsize * here * h * w * self._classes  # the logits, and what is made of them
        try:
            if needed <= free:
                needed = self.needed_bytes(weights, shape, mode, probabilities=probabilities)
        except jax.errors.JaxRuntimeError as error:  # a GPU's compiler tries convolutions
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            needed = free + 1
        if needed > free:
            other = "cut it into parts" if mode.startswith("slide") else "take mode slide, or cut it into parts"
            raise UserError(
                f"{h}x{w} pixels, {mode}: {n} of them at once need {needed / 2**30:.1f} GiB of memory or more, and "
                f"{free / 2**30:.1f} are free; {other}"
            )
        self._with_room.add(asked)


def _resized(images, size):
    """`images` [n,h,w,3] at `size`, as OpenCV does it bilinearly."""
    if images.shape[1:3] == tuple(size):
        return images
    return np.stack([resize(image, size, cv2.INTER_LINEAR) for image in images])
