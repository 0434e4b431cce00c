"""A trained network to call: from an image of any size to its classes, without a config.

    net = cropjax.load("runs/demo")
    mask = net("street.jpg")                     # uint8 [h,w]
    picture = net.overlay("street.jpg", mask)    # uint8 [h,w,3]

An image is a path, a Pillow image, or a NumPy array uint8 [h,w,3] RGB or [h,w] grey. OpenCV's are BGR: turn them, with
`image[..., ::-1]`.
"""

import os
import zlib
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from cropjax.config import label_set
from cropjax.data.files import read_photograph
from cropjax.errors import UserError
from cropjax.inference import MODES, Inference
from cropjax.panels import overlay
from cropjax.restore import restore_run
from cropjax.sharding import one_device
from cropjax.step import weights_of
from cropjax.validation import validate
from cropjax.workdir import run_config


def load(path, checkpoint="best"):
    """The `Network` of the run in the folder `path`; `checkpoint` is "best", "latest" or a step.

    Raises:
        UserError: no run, or no such checkpoint.
    """
    return Network(validate(run_config(path)), path, checkpoint)


class Network:
    """The network of a checkpoint, on this process's first device.

    `classes` are their names and `palette` their colours (r, g, b), both in the order of the ids in a mask; `step` is
    the checkpoint's. `mode` everywhere is how an image is looked at, one of `inference.MODES`; the default is the
    first of the run's `eval.modes`. An image is rescaled to `data.scale` for the network, as in evaluation, and what
    comes out has the image's own size.
    """

    def __init__(self, config, workdir, checkpoint="best"):
        mesh = one_device()
        self.config = config
        self.labels = label_set(config)
        self.step, graph, state = restore_run(config, Path(workdir), str(checkpoint), mesh)
        self._weights = weights_of(state)
        self._inference = Inference(graph, config, mesh)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.labels.names

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        return self.labels.palette

    def __call__(self, image, *, mode=None) -> np.ndarray:
        """The class of every pixel of `image`, uint8 [h,w]."""
        return np.asarray(self.ids_on_device(as_rgb(image), mode))

    def probabilities(self, image, *, mode=None) -> np.ndarray:
        """The probability of every class at every pixel of `image`, float32 [h,w,k]."""
        return np.asarray(self.ids_and_probabilities_on_device(as_rgb(image), mode)[1])

    def overlay(self, image, mask) -> np.ndarray:
        """The colours of `mask` [h,w] over `image`, half and half: uint8 [h,w,3] RGB."""
        image, mask = as_rgb(image), np.asarray(mask)
        if image.shape[:2] != mask.shape:
            raise UserError(f"the mask of shape {mask.shape} is not that of an image of {image.shape[:2]} pixels")
        return overlay(image, mask, self.labels)

    def ids_on_device(self, pixels, mode=None) -> jax.Array:
        """As a call on uint8 [h,w,3], but it need not be ready yet."""
        mode = self.checked(mode)
        return self._inference.ids(self._weights, pixels[None], mode)[0]

    def ids_and_probabilities_on_device(self, pixels, mode=None) -> tuple[jax.Array, jax.Array]:
        """As a call and `probabilities` of uint8 [h,w,3] in one, but they need not be ready yet."""
        mode = self.checked(mode)
        return tuple(x[0] for x in self._inference.ids_and_probabilities(self._weights, pixels[None], mode))

    def checksum(self) -> str:
        """Of the weights."""
        total = 0
        for array in jax.tree.leaves(self._weights):
            total = zlib.crc32(np.ascontiguousarray(array), total)
        return f"{total:08x}"

    def checked(self, mode):
        """`mode`, or the run's; UserError if there is none of this name."""
        mode = mode or self.config.eval.modes[0]
        if mode not in MODES:
            raise UserError(f"mode = {mode!r} is not one of {', '.join(MODES)}")
        return mode


def as_rgb(image) -> np.ndarray:
    """uint8 [h,w,3] RGB of a path, a Pillow image or an array uint8 [h,w,3], [h,w,1] or [h,w].

    Alpha is dropped from files and Pillow images. A file is turned as its EXIF orientation says; a Pillow image is
    taken as it lies, so that a mask has its size.

    Raises:
        UserError: another array, which may be a mistake; says how to mend it.
    """
    match image:
        case str() | os.PathLike():
            return read_photograph(Path(image))
        case Image.Image():
            return np.asarray(_eight_bits(image).convert("RGB"))
    image = np.asarray(image)
    if image.dtype != np.uint8:
        what = "from 0 to 1, (255 * image).round()" if image.dtype.kind == "f" else "of 16 bits, (image // 256)"
        raise UserError(
            f"an image of {image.dtype}: it must be uint8, 0 to 255; if its values are {what}.astype('uint8')"
        )
    if image.ndim == 4:
        raise UserError(f"an array of shape {image.shape}: one image at a time, images[0]")
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or 0 in image.shape:
        raise UserError(
            f"an array of shape {image.shape} is no image: it must be [height, width, 3] or [height, width]"
        )
    match image.shape[-1]:
        case 3:
            return image
        case 1:
            return np.repeat(image, 3, -1)
        case 4:
            raise UserError("an image of 4 channels: drop the alpha channel, image[..., :3]")
    if image.shape[0] in (1, 3):
        raise UserError(f"an image of shape {image.shape}: channels come last, image.transpose(1, 2, 0)")
    raise UserError(f"an image of {image.shape[-1]} channels: it must have 3, red, green and blue, or be grey")


def _eight_bits(picture):
    if picture.mode.startswith(("I", "F")):
        raise UserError(f"a Pillow image of mode {picture.mode}: convert it to 8 bits a channel, RGB or L")
    return picture
