"""The official evaluation of Cityscapes on what `cropjax.predict --submission` writes, beside our own.

    python tests/show/cityscapes.py --config configs/demo.py --workdir runs/demo \\
        --official .cache/reference/cityscapesscripts/bin/python

--official is the Python of an environment with cityscapesScripts; `make parity` makes one. Writes the images that the
run evaluates as a Cityscapes tree, predicts them, has evalPixelLevelSemanticLabeling score the files, and scores the
tree by `cropjax.evaluate`. Prints IoU of every class by both, and exits with 1 unless all are equal to the last digit.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import config_flags
from PIL import Image

from cropjax import commandline
from cropjax.config import build_source, label_set
from cropjax.data.labels import CITYSCAPES_LABEL_ID, IGNORE

PYTHON = flags.DEFINE_string("official", None, "The Python that has cityscapesScripts.", required=True)
OFFICIAL = "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling"


def write_tree(source, root):
    """The records of `source` as leftImg8bit/val/city and gtFine/val/city; ignored pixels are "unlabeled", 0.

    The official script wants instances too: there are none, every pixel's is its label.
    """
    ids = np.zeros(IGNORE + 1, np.uint8)
    ids[: len(CITYSCAPES_LABEL_ID)] = CITYSCAPES_LABEL_ID
    for i in range(len(source)):
        record = source[i]
        labels = ids[record["label"][:, :]]
        for kind, ending, pixels in (
            ("leftImg8bit", "leftImg8bit", record["image"][:, :]),
            ("gtFine", "gtFine_labelIds", labels),
            ("gtFine", "gtFine_instanceIds", labels.astype(np.uint16)),
        ):
            folder = root / kind / "val" / "city"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"city_{i:06d}_000019_{ending}.png")


def ours(command, *arguments):
    subprocess.run([sys.executable, "-m", f"cropjax.{command}", *arguments], check=True)


def compare(config, workdir):
    config_file = config_flags.get_config_filename(flags.FLAGS["config"])
    mode = config.eval.modes[0]
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder, "tree"), Path(folder, "prediction")
        write_tree(build_source(config, "eval"), root)
        images = root / "leftImg8bit/val"
        ours("predict", f"--workdir={workdir}", f"--mode={mode}", "--submission", f"--out={out}", str(images))
        places = {"CITYSCAPES_DATASET": str(root), "CITYSCAPES_RESULTS": str(out / "submission")}
        scoring = [PYTHON.value, "-m", OFFICIAL]
        subprocess.run(scoring, env=os.environ | places, check=True, stdout=subprocess.DEVNULL)
        official = json.loads((root / "evaluationResults/resultPixelLevelSemanticLabeling.json").read_text())
        tree = ["--config.data.source=cityscapes", f"--config.data.root={root}"]
        ours("evaluate", f"--config={config_file}", f"--workdir={workdir}", *tree)
    found = json.loads((workdir / "evaluation/evaluation.json").read_text())[mode]
    pairs = [(name, found["iou"][name], official["classScores"][name]) for name in label_set(config).names]
    pairs.append(("mIoU", found["miou"], official["averageScoreClasses"]))
    for name, iou, theirs in pairs:
        print(f"{name:16} {iou!s:22} {theirs}")
    sys.exit(not all(iou == theirs or (iou is None and np.isnan(theirs)) for _, iou, theirs in pairs))


if __name__ == "__main__":
    commandline.run(compare)
