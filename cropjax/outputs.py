"""The folder of a prediction: which files an image has in it, and whose prediction it is.

prediction.json says the latter: the run, its step and weights, the mode, the config, and of which files the images are.
It is there before anything else, so that a prediction that was stopped can go on, and another one is not mixed with it.
"""

import contextlib
import io
import json

import cv2
import numpy as np
from PIL import Image

from cropjax.errors import UserError
from cropjax.inputs import as_frame
from cropjax.panels import legend, overlay
from cropjax.submission import label_ids, label_name
from cropjax.workdir import locked, write_bytes, write_text

FILE = "prediction.json"
LEGEND_WIDTH = 640
JPEG_QUALITY, JPEG_SIDE = 90, 65_500  # libjpeg's longest: a larger overlay is thinned out


class Outputs:
    """The files of a prediction in `folder`: `kinds` are the folders in it, one file an image in each."""

    def __init__(self, folder, labels, *, probabilities=False, submission=False):
        self._folder, self._labels = folder, labels
        wanted = {"masks": True, "overlays": True, "probabilities": probabilities, "submission": submission}
        self.kinds = [kind for kind, is_wanted in wanted.items() if is_wanted]

    def path(self, kind, name, source):
        """Where the `kind` of the image `name` lies, which is in the file `source`."""
        file = {"masks": f"{name}.png", "overlays": f"{name}.jpg", "probabilities": f"{name}.npy"}
        return self._folder / kind / (file[kind] if kind in file else label_name(source))

    def done(self, name, source):
        """Whether all files of an image are there, and newer than it."""
        read_at = _written_at(source) or 0  # a file that is gone since then is done, if it was
        written = [_written_at(self.path(kind, name, source)) for kind in self.kinds]
        return None not in written and min(written) >= read_at

    def of_all(self, inputs, kind):
        """{file that is there: its image} of all that are no videos."""
        paths = {self.path(kind, one.name, one.path): one.path for one in inputs}
        return {path: source for path, source in paths.items() if path.exists()}

    def write_legend(self):
        """The classes' names beside their colours."""
        write_bytes(self._folder / "legend.png", _png(legend(self._labels, LEGEND_WIDTH)))

    def write(self, name, source, image, ids, probabilities=None):
        """All files of an image uint8 [h,w,3] with classes uint8 [h,w], and float16 probabilities [h,w,k].

        Each is complete or not there.
        """
        for kind in self.kinds:
            path = self.path(kind, name, source)
            path.parent.mkdir(parents=True, exist_ok=True)
            match kind:
                case "masks":
                    write_bytes(path, palette_png(ids, self._labels.palette))
                case "overlays":
                    every = -(-max(ids.shape) // JPEG_SIDE)
                    write_bytes(path, _jpeg(overlay(image[::every, ::every], ids[::every, ::every], self._labels)))
                case "probabilities":
                    write_bytes(path, _npy(probabilities))
                case "submission":
                    write_bytes(path, _png(label_ids(ids)))


@contextlib.contextmanager
def begun(out, inputs, by):
    """Within it `out` is the folder of a prediction `by` a network of `inputs`, and of no other process's.

    Raises:
        UserError: there is something else in it, a prediction by another network, one of another image with the name
            of one of these, or another process at work.
    """
    by = json.loads(json.dumps(by))
    _images(out, inputs, by)  # before anything is written
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / ".lock", "--out"):
        images = _images(out, inputs, by)
        write_text(out / FILE, json.dumps(by | {"images": images}, indent=1) + "\n")
        yield


def _images(out, inputs, by):
    """{name: file} of all images of the prediction in `out`, those of `inputs` among them."""
    file, images = out / FILE, {one.name: str(one.path.resolve()) for one in inputs}
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is no folder: name another")
    if file.exists():
        earlier = _read(file)
        for what in by:
            if earlier.get(what) != by[what]:
                shown = "" if what == "config" else f", {earlier.get(what)} and not {by[what]}"
                raise UserError(f"--out={out} holds a prediction with another {what}{shown}: name another folder")
        images = earlier.get("images", {}) | images
        for name, source in earlier.get("images", {}).items():
            if images[name] != source:
                raise UserError(f"--out={out}: {name} there is of {source}, not of {images[name]}: name another folder")
        for name in images:
            if (film := as_frame(name)) != name and film in images:
                both = f"{images[film]} and {images[name]}"
                raise UserError(f"--out={out}: {both} would both be written as {name}: name another folder")
    elif out.exists() and any(path.name not in (f"{FILE}.tmp", ".lock") for path in out.iterdir()):
        raise UserError(f"--out={out} is not empty, and holds no prediction: name another folder")
    return images


def _read(file):
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{file} is damaged: name another --out, or delete the folder")
    return found


def palette_png(ids, palette):
    """A PNG of `ids` uint8 [h,w], shown in the colours of `palette`; what is no class is black."""
    picture = Image.fromarray(ids).convert("P")
    picture.putpalette([*np.ravel(palette).tolist(), *[0] * (3 * (256 - len(palette)))])
    return _bytes(picture)


def _jpeg(pixels):
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    return cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1]


def _png(pixels):
    return _bytes(Image.fromarray(pixels))


def _bytes(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _written_at(path):
    """Seconds, or None if it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None
