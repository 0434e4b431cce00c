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

import errno
import sys
from pathlib import Path

import numpy as np
from absl import flags

from cropjax import commandline
from cropjax.config import label_set
from cropjax.data.ahead import ahead
from cropjax.errors import UserError
from cropjax.inputs import decoded, find, pictures
from cropjax.network import Network
from cropjax.outputs import Outputs, begun
from cropjax.progress import Progress
from cropjax.submission import check_labels, check_names


def predict_run(config, workdir, arguments):
    """The command. Returns the exit status: 1 if there are images that could not be predicted."""
    given, labels = flags.FLAGS, label_set(config)
    out = Path(given.out or workdir / "prediction").expanduser()
    if "-" in arguments and sys.stdin:  # None where it is closed
        sys.stdin.reconfigure(errors="surrogateescape")  # names of files need not be text
    inputs = find(arguments, sys.stdin or (), out.resolve())
    if given.submission:
        check_names(inputs, labels)
    net = Network(config, workdir, given.checkpoint)
    mode = net.checked(given.mode)
    by = {"run": str(workdir.resolve()), "step": net.step, "weights": net.checksum(), "mode": mode}
    outputs = Outputs(out, labels, probabilities=given.probabilities, submission=given.submission)
    with begun(out, inputs, by | {"config": config.to_dict()}):
        outputs.write_legend()
        failed = predict(net, mode, inputs, outputs)
    print(f"{out}: {', '.join(outputs.kinds)} of step {net.step} of {workdir}, {mode}")
    if given.submission:
        count = check_labels(outputs.of_all(inputs, "submission"))
        print(f"{out / 'submission'}: {count} files, read back: zip the folder for the server")
    if failed:
        images = f"{failed} image{'s' * (failed > 1)}"
        commandline.complain(f"{images} could not be predicted, see above; the same command tries again")
    return int(failed > 0)


def predict(net, mode, inputs, outputs):
    """Writes the `outputs` that are missing of the images in `inputs`, and returns how many cannot be made.

    Decoding goes on before and writing after the network, in threads; at any time there are a few images in memory.
    """
    names = [(name, one.path) for one in inputs for name in one.names()]
    before, failed = sum(outputs.done(*name) for name in names), 0

    def look(picture, pixels):
        if isinstance(pixels, UserError):
            return pixels
        try:
            if "probabilities" not in outputs.kinds:
                return {"ids": net.ids_on_device(pixels, mode)}
            ids, probabilities = net.ids_and_probabilities_on_device(pixels, mode)
            return {"ids": ids, "probabilities": probabilities.astype(np.float16)}  # a few are waiting
        except UserError as error:
            return UserError(f"{picture.path}: {error}")

    def write(picture, pixels, found):
        if isinstance(found, UserError):
            return found
        try:
            outputs.write(picture.name, picture.path, pixels, **{kind: np.asarray(x) for kind, x in found.items()})
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return UserError(f"{picture.path}: its outputs' names would be too long; rename it")
        return None

    wanted = decoded(pictures(inputs, lambda *name: not outputs.done(*name)))
    looked_at = ((picture, pixels, look(picture, pixels)) for picture, pixels in wanted)
    with Progress(len(names), start=before, unit="image", label="predict") as progress:
        for done, error in enumerate(ahead(lambda one: write(*one), looked_at), before + 1):
            progress.update(done)
            if error:
                failed += 1
                with progress.pause():
                    commandline.complain(str(error))
    return failed


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "The folder of the results; default: <workdir>/prediction.")
    flags.DEFINE_string("checkpoint", "best", "Whose weights: best, latest, or a step.")
    flags.DEFINE_string("mode", None, "How an image is looked at; default: the first of eval.modes.")
    flags.DEFINE_bool("probabilities", False, "Write the probabilities of all classes too.")
    flags.DEFINE_bool("submission", False, "Write label ids for the Cityscapes server too.")
    commandline.run_on_run(predict_run, takes_arguments=True)
