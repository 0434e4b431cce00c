"""Images, folders and videos -> masks of full size, pictures of them, and files for the Cityscapes server.

    python -m cropjax.predict --workdir runs/demo images/ film.mp4 --out prediction

writes into --out, for an image that `inputs` calls NAME,

    masks/NAME.png              classes: a palette PNG, its values the train ids
    overlays/NAME.jpg           their colours over the image
    probabilities/NAME.npy      with --probabilities: float16 [h,w,k]
    submission/NAME.png         with --submission: label ids, see `submission`
    legend.png, prediction.json the colours' names; what was predicted, and by what

The network and its settings are the run's own; --config gives others. The same command again goes on where it was
stopped: an image is done if all its files are there and newer than it. One that cannot be read is named, the others are
predicted, and the status is 1. An EXIF orientation is applied, as viewers do.
"""

import io
import json
import sys
from pathlib import Path

import cv2
import numpy as np
from absl import flags
from PIL import Image

from cropjax import commandline
from cropjax.config import label_set
from cropjax.data.ahead import ahead
from cropjax.errors import UserError
from cropjax.inputs import decoded, find, pictures
from cropjax.network import Network
from cropjax.panels import legend, overlay
from cropjax.progress import Progress
from cropjax.submission import check_labels, check_names, label_ids, label_name
from cropjax.workdir import write_bytes, write_text

OUT = flags.DEFINE_string("out", None, "The folder of the results; default: <workdir>/prediction.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "Whose weights: best, latest, or a step.")
MODE = flags.DEFINE_string("mode", None, "How an image is looked at; default: the first of eval.modes.")
PROBABILITIES = flags.DEFINE_bool("probabilities", False, "Write the probabilities of all classes too.")
SUBMISSION = flags.DEFINE_bool("submission", False, "Write label ids for the Cityscapes server too.")

LEGEND_WIDTH = 640
JPEG_QUALITY = 90


def predict_run(config, workdir, arguments):
    """The command. Returns the exit status: 1 if there are images that could not be predicted."""
    out, labels = Path(OUT.value or workdir / "prediction").expanduser(), label_set(config)
    inputs = find(arguments, sys.stdin, out.resolve())
    if SUBMISSION.value:
        check_names(inputs, labels)
    net = Network(config, workdir, CHECKPOINT.value)
    mode = net.checked(MODE.value)
    begin(out, inputs, {"run": str(workdir.resolve()), "step": net.step, "mode": mode, "config": config.to_dict()})
    outputs = Outputs(out, labels, probabilities=PROBABILITIES.value, submission=SUBMISSION.value)
    write_bytes(out / "legend.png", _png(legend(labels, LEGEND_WIDTH)))
    failed = predict(net, mode, inputs, outputs)
    print(f"{out}: {', '.join(outputs.kinds)} of step {net.step} of {workdir}, {mode}")
    if SUBMISSION.value:
        count = check_labels(outputs.of_all(inputs, "submission"))
        print(f"{out / 'submission'}: {count} files, read back: zip the folder for the server")
    if failed:
        commandline.complain(f"{failed} images could not be predicted, see above; the same command tries them again")
    return int(failed > 0)


def predict(net, mode, inputs, outputs):
    """Writes the `outputs` that are missing of the images in `inputs`, and returns how many cannot be made.

    Decoding goes on before and writing after the network, in threads; at any time there are a few images in memory.
    """
    names = [(name, one.path) for one in inputs for name in one.names()]
    before, failed = sum(outputs.done(*name) for name in names), 0

    def predicted():
        for picture, pixels in decoded(pictures(inputs, lambda *name: not outputs.done(*name))):
            if not isinstance(pixels, UserError):
                try:
                    found = {"ids": net.ids_on_device(pixels, mode)}
                    if "probabilities" in outputs.kinds:
                        found["probabilities"] = net.probabilities_on_device(pixels, mode)
                except UserError as error:
                    pixels = UserError(f"{picture.path}: {error}")
            yield (picture, pixels, None) if isinstance(pixels, UserError) else (picture, pixels, found)

    def write(prediction):
        picture, pixels, found = prediction
        if found is None:
            return pixels
        outputs.write(picture.name, picture.path, pixels, **{kind: np.asarray(x) for kind, x in found.items()})
        return None

    with Progress(len(names), start=before, unit="image", label="predict") as progress:
        for done, error in enumerate(ahead(write, predicted()), before + 1):
            progress.update(done)
            if error:
                failed += 1
                with progress.pause():
                    commandline.complain(str(error))
    return failed


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
        read_at = _written_at(source)
        return all(_written_at(self.path(kind, name, source)) >= read_at for kind in self.kinds)

    def of_all(self, inputs, kind):
        """{file that is there: its image} of all that are no videos."""
        paths = {self.path(kind, one.name, one.path): one.path for one in inputs}
        return {path: source for path, source in paths.items() if path.exists()}

    def write(self, name, source, image, ids, probabilities=None):
        """All files of an image uint8 [h,w,3] with classes uint8 [h,w]; each is complete or not there."""
        for kind in self.kinds:
            path = self.path(kind, name, source)
            path.parent.mkdir(parents=True, exist_ok=True)
            match kind:
                case "masks":
                    write_bytes(path, palette_png(ids, self._labels.palette))
                case "overlays":
                    picture = cv2.cvtColor(overlay(image, ids, self._labels), cv2.COLOR_RGB2BGR)
                    write_bytes(path, cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1])
                case "probabilities":
                    write_bytes(path, _npy(probabilities.astype(np.float16)))
                case "submission":
                    write_bytes(path, _png(label_ids(ids)))


def begin(out, inputs, by):
    """Makes `out` the folder of a prediction `by` a network of `inputs`, or checks that it is.

    Raises:
        UserError: there is something else in it, a prediction by another network, or one of another image with the
            name of one of these.
    """
    file, images = out / "prediction.json", {one.name: str(one.path.resolve()) for one in inputs}
    by = json.loads(json.dumps(by))
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is no folder: name another")
    if file.exists():
        earlier = _read(file)
        for what in by:
            if earlier.get(what) != by[what]:
                shown = "" if what == "config" else f", {earlier.get(what)} and not {by[what]}"
                raise UserError(f"--out={out} holds a prediction of another {what}{shown}: name another folder")
        images = earlier.get("images", {}) | images
        for name, source in earlier.get("images", {}).items():
            if images[name] != source:
                raise UserError(f"--out={out}: {name} there is of {source}, not of {images[name]}: name another folder")
    elif out.exists() and any(path.name != f"{file.name}.tmp" for path in out.iterdir()):
        raise UserError(f"--out={out} is not empty, and holds no prediction: name another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(by | {"images": images}, indent=1) + "\n")


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
    """Seconds; -1 if it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return -1


if __name__ == "__main__":
    commandline.run_on_run(predict_run)
