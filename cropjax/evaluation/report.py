"""What an evaluation found, with the conditions under which it did: a text, and a folder of tables and pictures.

    scores.csv              IoU, Acc and boundary IoU of each class, with its pixels
    confusion_<mode>.csv    pixels by class of the label (rows) and of the prediction (columns)
    confusion_<mode>.png    the same in percent of each row
    distance.csv            accuracy by the distance to a class boundary and to the image border
    objects.csv             recall of connected segments by their class and size
    details.png             both as curves
    examples.png            of some images: themselves, label and prediction side by side
    evaluation.txt          what the command prints
    evaluation.json         everything; written last: where it is, the folder is complete

Shares are in 0...1 in the files and in percent in the text and the pictures. What has no value, as the IoU of a class
that is not there, is null in JSON, empty in CSV, and nan in the text. Bins hold what is `from` or more and less than
`to`; the last one has no `to`.

The conditions are a dict that JSON can hold:

    run, split, dtype     strings, dtype being the one that the network computes in
    step, images          numbers
    sizes                 [[height, width], ...] of the labels, each once
    modes                 {mode: {"window": [height, width] or None, "stride": [rows, columns] or None,
                          "scales": [...], "flip": bool, "averaged": what over what, or None}}
    notes                 sentences that say what else matters
"""

import csv
import json
import os
import shutil
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image

from cropjax.evaluation.details import BORDER_DISTANCES, CLASS_DISTANCES, DEFINITIONS, SEGMENT_SIZES
from cropjax.panels import contact_sheet

ALL = "(all)"  # among the names of the classes
COUNTING = (
    "Pixels with label 255 do not count. Predictions are compared with the label at the label's size.",
    "IoU, Acc (right pixels of those with the label) and aAcc (of all) are of pixels summed over the split, not means "
    "of images. mIoU, mAcc and mBIoU are means over classes. A class that neither occurs nor is predicted is nan and "
    "left out of them; one that is only predicted has IoU 0 and Acc nan.",
)


def report_of(scores, details, names, conditions):
    """Everything as a dict for JSON, of {mode: Scores} and {mode: Details}; {"step", "conditions", mode: {...}}."""
    report = {mode: _report_of(scores[mode], details[mode], names) for mode in scores}
    conditions = {**conditions, "sentences": sentences(conditions)}
    return {"step": conditions["step"], "conditions": conditions, **report}


def _report_of(scores, details, names):
    def by_class(values):
        return dict(zip(names, _plain(values), strict=True))

    def accuracy(begins, counts):
        return _bins(begins, "accuracy", pixels=counts[1], right=counts[0])

    def recall(counts):
        return _bins(SEGMENT_SIZES, "recall", segments=counts[2], pixels=counts[1], right=counts[0])

    by_size = details.segments.swapaxes(0, 1)
    return {
        **{name: _plain(value) for name, value in scores.summary.items()},
        "mbiou": _plain(details.mean_boundary_iou),
        "iou": by_class(scores.iou),
        "accuracy": by_class(scores.accuracy),
        "boundary_iou": by_class(details.boundary_iou),
        "pixels": by_class(scores.confusion.sum(1)),
        "confusion": scores.confusion.tolist(),
        "class_distance": accuracy(CLASS_DISTANCES, details.class_distance),
        "border_distance": accuracy(BORDER_DISTANCES, details.border_distance),
        "segments": {ALL: recall(by_size.sum(0)), **{n: recall(x) for n, x in zip(names, by_size, strict=True)}},
    }


def _plain(values):
    """Python's numbers, with None for nan."""
    return np.where(np.isnan(values), None, values).tolist()


def _bins(begins, share, **counts):
    """The bins that are not empty, a dict each: from, to, its counts, and as `share` that of its right pixels."""
    rows = zip(begins, (*begins[1:], None), *(column.tolist() for column in counts.values()), strict=True)
    bins = [dict(zip(("from", "to", *counts), row, strict=True)) for row in rows]
    return [{**one, share: one["right"] / one["pixels"]} for one in bins if one["pixels"]]


def text_of(scores, details, names, conditions):
    """A table for each mode, and below the conditions in sentences."""
    tables = [
        f"{_title(conditions)}, {mode}\n{s.table(names, details[mode].boundary_iou)}" for mode, s in scores.items()
    ]
    points = [
        textwrap.fill(line, 100, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
        for line in sentences(conditions)
    ]
    return "\n\n".join((*tables, "\n".join(points))) + "\n"


def _title(conditions):
    return "{run} step {step}, {split} split, {images} images".format_map(conditions)


def sentences(conditions):
    """The conditions in words, a string each: what was predicted, how, and what the numbers mean."""
    return [*looks(conditions), *COUNTING, *DEFINITIONS]


def looks(conditions):
    """As `sentences`, without what is the same of all evaluations."""
    return [
        "{images} images of the {split} split, each once, ".format_map(conditions) + _sizes(conditions["sizes"]) + ".",
        *(f"{mode}: {_mode(how)}." for mode, how in conditions["modes"].items()),
        f"The network computes in {conditions['dtype']}.",
        *conditions["notes"],
    ]


def _sizes(sizes):
    shown = [f"{h}x{w}" for h, w in sorted(sizes, key=np.prod)]
    if len(shown) == 1:
        return f"at {shown[0]} (rows x columns)"
    return f"of {len(shown)} sizes from {shown[0]} to {shown[-1]} (rows x columns)"


def _mode(how):
    seen = "the whole image at once"
    if how["window"]:
        seen = "windows of {}x{}".format(*how["window"]) + ", every {} rows and {} columns".format(*how["stride"])
    scales = ", ".join(f"{scale:g}" for scale in how["scales"])
    times = f"at {'scale' if len(how['scales']) == 1 else 'scales'} {scales}"
    mirrored = "as it is and mirrored" if how["flip"] else "not mirrored"
    averaged = f"averaged: {how['averaged']}" if how["averaged"] else "nothing averaged"
    return f"{seen}, {times}, {mirrored}; {averaged}"


def write_evaluation(folder, scores, details, names, conditions, pictures=()):
    """Writes the files of {mode: Scores} and {mode: Details} into `folder`, in place of an earlier evaluation's.

    `pictures` uint8 [h,w,3] are the examples, if there are any.

    They are made next to it first: whatever goes wrong meanwhile leaves the folder as it was.
    """
    from cropjax.evaluation.figures import save_confusion, save_details  # Matplotlib is slow to import

    folder = Path(folder)
    made = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        report = report_of(scores, details, names, conditions)
        for name, rows in _tables(report, scores, names).items():
            with (made / name).open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows(rows)
        for mode, s in scores.items():
            save_confusion(made / f"confusion_{mode}.png", s.confusion, names, f"{_title(conditions)}, {mode}")
        save_details(made / "details.png", details, _title(conditions))
        if pictures:
            Image.fromarray(contact_sheet(pictures)).save(made / "examples.png")
        (made / "evaluation.txt").write_text(text_of(scores, details, names, conditions), encoding="utf-8")
        (made / "evaluation.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        _move(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _move(made, folder):
    folder.mkdir(exist_ok=True)
    for old in (
        folder / "evaluation.json",
        folder / "examples.png",
        *folder.glob("confusion_*.csv"),
        *folder.glob("confusion_*.png"),
    ):
        old.unlink(missing_ok=True)  # it may be of a mode that is not among ours
    for path in sorted(made.iterdir(), key=lambda path: path.name == "evaluation.json"):
        os.replace(path, folder / path.name)


def _tables(report, scores, names):
    """{file name: rows}."""
    scored = [("mode", "class", "iou", "acc", "boundary_iou", "pixels")]
    distances = [("mode", "distance_to", "from", "to", "pixels", "right", "accuracy")]
    objects = [("mode", "class", "from", "to", "segments", "pixels", "right", "recall")]
    tables = {"scores.csv": scored, "distance.csv": distances, "objects.csv": objects}
    for mode in scores:
        found = report[mode]
        columns = [found[kind] for kind in ("iou", "accuracy", "boundary_iou", "pixels")]
        scored += [(mode, name, *(column[name] for column in columns)) for name in names]
        for place, kind in (("class boundary", "class_distance"), ("image border", "border_distance")):
            distances += [(mode, place, *one.values()) for one in found[kind]]
        for name, bins in found["segments"].items():
            objects += [(mode, name, *one.values()) for one in bins]
        rows = [(name, *row) for name, row in zip(names, found["confusion"], strict=True)]
        tables[f"confusion_{mode}.csv"] = [("label \\ prediction", *names), *rows]
    return tables
