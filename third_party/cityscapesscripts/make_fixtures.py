"""The label table of the official tool: id, train id and colour of every label, and whether it is evaluated.

    make_fixtures.py FOLDER

writes cityscapes_labels.npz: "id", "train_id" int [35], "color" int [35,3], "ignored" bool [35], "name" text.
"""

import json
import pathlib
import sys
from importlib import metadata

import numpy as np
from cityscapesscripts.helpers.labels import labels

if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    np.savez(
        pathlib.Path(sys.argv[1]) / "cityscapes_labels.npz",
        id=np.array([label.id for label in labels]),
        train_id=np.array([label.trainId for label in labels]),
        color=np.array([label.color for label in labels]),
        ignored=np.array([label.ignoreInEval for label in labels]),
        name=np.array([label.name for label in labels]),
        meta=json.dumps({"versions": {"cityscapesscripts": metadata.version("cityscapesscripts")}}),
    )
