"""The files of an evaluation, read back."""

import csv
import json

import cv2
import numpy as np
import pytest

from cropjax.evaluation.details import BORDER_DISTANCES, CLASS_DISTANCES, SEGMENT_SIZES, Details
from cropjax.evaluation.report import ALL, report_of, sentences, text_of, write_evaluation
from cropjax.metrics import Scores, confusion_matrix

NAMES = ("road", "traffic light", "never there", "sky, or what is above")
K = len(NAMES)
WHOLE = dict(window=None, stride=None, scales=[1], flip=False, averaged=None)
SLIDE = dict(
    window=[32, 64], stride=[16, 32], scales=[0.5, 1.0], flip=True, averaged="logits over windows, softmax over scales"
)
CONDITIONS = dict(
    run="runs/demo",
    step=70,
    split="val",
    images=3,
    sizes=[[40, 60]],
    dtype="float32",
    modes={"whole": WHOLE, "slide": SLIDE},
    notes=["Images are fitted into 60x40."],
)
FILES = {
    "scores.csv",
    "confusion_whole.csv",
    "confusion_whole.png",
    "confusion_slide.csv",
    "confusion_slide.png",
    "distance.csv",
    "objects.csv",
    "details.png",
    "evaluation.txt",
    "evaluation.json",
}


def found(modes=("whole", "slide"), labelled=True):
    """{mode: Scores} and {mode: Details} of three images; class 2 neither occurs nor is predicted."""
    scores, details = {}, {}
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 3, 255] if labelled else [255], (3, 5, 6)).repeat(8, 1).repeat(10, 2).astype(np.uint8)
    for mode, wrong in zip(modes, (0.1, 0.3), strict=False):
        others = rng.choice([0, 1, 3], labels.shape)
        ids = np.where((rng.random(labels.shape) < wrong) | (labels == 255), others, labels).astype(np.uint8)
        scores[mode] = Scores.of(confusion_matrix(ids, labels, K))
        details[mode] = Details.none(K)
        for pair in zip(ids, labels, strict=True):
            details[mode] += Details.of(*pair, K)
    return scores, details


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def value(cell):
    return float(cell) if cell else np.nan


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "evaluation"
    scores, details = found()
    write_evaluation(folder, scores, details, NAMES, CONDITIONS)
    return folder, scores, details


def test_nothing_but_the_files_is_left(written):
    folder, _, _ = written
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["evaluation"]


def test_scores_csv_has_each_class_of_each_mode(written):
    folder, scores, details = written
    read = rows(folder / "scores.csv")
    assert [(row["mode"], row["class"]) for row in read] == [(mode, name) for mode in scores for name in NAMES]
    for mode, s in scores.items():
        mine = [row for row in read if row["mode"] == mode]
        columns = dict(iou=s.iou, acc=s.accuracy, boundary_iou=details[mode].boundary_iou, pixels=s.confusion.sum(1))
        for name, values in columns.items():
            np.testing.assert_array_equal([value(row[name]) for row in mine], values)
    assert (read[2]["class"], read[2]["iou"], read[2]["acc"], read[2]["boundary_iou"]) == ("never there", "", "", "")


def test_confusion_csv_has_labels_as_rows(written):
    folder, scores, _ = written
    for mode, s in scores.items():
        with (folder / f"confusion_{mode}.csv").open(newline="", encoding="utf-8") as file:
            head, *body = csv.reader(file)
        assert head == ["label \\ prediction", *NAMES]
        assert [row[0] for row in body] == list(NAMES)
        np.testing.assert_array_equal([list(map(int, row[1:])) for row in body], s.confusion)


def placed(read, begins, name):
    """A column of the rows of one table by its bin, 0 where there is none, nan for shares."""
    column = np.full(len(begins), np.nan if name in ("accuracy", "recall") else 0)
    for row in read:
        at = begins.index(int(row["from"]))
        assert row["to"] == (str(begins[at + 1]) if at + 1 < len(begins) else "")
        column[at] = float(row[name])
    return column


def test_distance_csv_has_the_bins_with_pixels(written):
    folder, _, details = written
    read = rows(folder / "distance.csv")
    for mode, d in details.items():
        for place, begins, counts, shares in (
            ("class boundary", CLASS_DISTANCES, d.class_distance, d.accuracy_by_class_distance),
            ("image border", BORDER_DISTANCES, d.border_distance, d.accuracy_by_border_distance),
        ):
            mine = [row for row in read if (row["mode"], row["distance_to"]) == (mode, place)]
            np.testing.assert_array_equal(placed(mine, begins, "right"), counts[0])
            np.testing.assert_array_equal(placed(mine, begins, "pixels"), counts[1])
            np.testing.assert_array_equal(placed(mine, begins, "accuracy"), shares)


def test_objects_csv_has_the_segments_of_each_class_and_of_all(written):
    folder, _, details = written
    read = rows(folder / "objects.csv")
    for mode, d in details.items():
        for name, counts in zip((ALL, *NAMES), (d.segments.sum(1), *d.segments.swapaxes(0, 1)), strict=True):
            mine = [row for row in read if (row["mode"], row["class"]) == (mode, name)]
            for column, expected in zip(("right", "pixels", "segments"), counts, strict=True):
                np.testing.assert_array_equal(placed(mine, SEGMENT_SIZES, column), expected)
        mine = [row for row in read if (row["mode"], row["class"]) == (mode, ALL)]
        np.testing.assert_array_equal(placed(mine, SEGMENT_SIZES, "recall"), d.recall_by_size)


def test_json_has_everything_and_null_for_nan(written):
    folder, scores, details = written

    def refuse(constant):
        raise AssertionError(constant)

    report = json.loads((folder / "evaluation.json").read_text(), parse_constant=refuse)
    assert report == json.loads(json.dumps(report_of(scores, details, NAMES, CONDITIONS)))
    assert report["step"] == 70
    assert report["conditions"] == {**CONDITIONS, "sentences": sentences(CONDITIONS)}
    for mode, s in scores.items():
        one = report[mode]
        assert [one[name] for name in ("miou", "macc", "aacc")] == list(s.summary.values())
        assert one["mbiou"] == details[mode].mean_boundary_iou
        assert one["confusion"] == s.confusion.tolist()
        assert one["iou"]["never there"] is one["accuracy"]["never there"] is one["boundary_iou"]["never there"] is None
        np.testing.assert_array_equal([x for x in one["iou"].values() if x is not None], s.iou[[0, 1, 3]])


def test_the_text_is_a_table_for_each_mode_and_the_conditions(written):
    folder, scores, details = written
    text = text_of(scores, details, NAMES, CONDITIONS)
    assert (folder / "evaluation.txt").read_text() == text
    whole, slide, conditions = text.split("\n\n")
    for mode, table in (("whole", whole), ("slide", slide)):
        head, *body = table.splitlines()
        assert head == f"runs/demo step 70, val split, 3 images, {mode}"
        assert "\n".join(body) == scores[mode].table(NAMES, details[mode].boundary_iou)
    said = " ".join(conditions.split())
    assert said == " ".join(" ".join(f"- {line}" for line in sentences(CONDITIONS)).split())
    assert max(map(len, conditions.splitlines())) <= 100


def test_sentences_say_how_it_was_predicted():
    assert sentences(CONDITIONS)[:5] == [
        "3 images of the val split, each once, at 40x60 (rows x columns).",
        "whole: the whole image at once, at scale 1, not mirrored; nothing averaged.",
        "slide: windows of 32x64, every 16 rows and 32 columns, at scales 0.5, 1, as it is and mirrored; "
        "averaged: logits over windows, softmax over scales.",
        "The network computes in float32.",
        "Images are fitted into 60x40.",
    ]
    several = {**CONDITIONS, "sizes": [[500, 375], [200, 300], [400, 500]]}
    assert sentences(several)[0] == (
        "3 images of the val split, each once, of 3 sizes from 200x300 to 400x500 (rows x columns)."
    )


def test_an_evaluation_takes_the_place_of_an_earlier_one(tmp_path):
    folder = tmp_path / "evaluation"
    write_evaluation(folder, *found(), NAMES, CONDITIONS, [np.zeros((4, 6, 3), np.uint8)])
    assert {path.name for path in folder.iterdir()} == {*FILES, "examples.png"}
    (folder / "mine.txt").write_text("kept")
    (tmp_path / "evaluation.tmp").mkdir()  # of one that was killed
    (tmp_path / "evaluation.tmp" / "half").touch()
    write_evaluation(folder, *found(("whole",)), NAMES, {**CONDITIONS, "modes": {"whole": WHOLE}})
    left = {name for name in FILES if "slide" not in name} | {"mine.txt"}
    assert {path.name for path in folder.iterdir()} == left
    assert {row["mode"] for row in rows(folder / "scores.csv")} == {"whole"}


def test_one_that_fails_leaves_the_folder_as_it_was(tmp_path):
    folder = tmp_path / "evaluation"
    scores, details = found()
    write_evaluation(folder, scores, details, NAMES, CONDITIONS)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    unwritable = {**CONDITIONS, "step": 80, "dtype": np.dtype("float32")}  # JSON, which comes last, has no such thing
    with pytest.raises(TypeError):
        write_evaluation(folder, scores, details, NAMES, unwritable)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_of_a_split_without_labels_all_is_null(tmp_path):
    folder = tmp_path / "evaluation"
    write_evaluation(folder, *found(("whole",), labelled=False), NAMES, {**CONDITIONS, "modes": {"whole": WHOLE}})
    whole = json.loads((folder / "evaluation.json").read_text())["whole"]
    assert [whole[name] for name in ("miou", "macc", "aacc", "mbiou")] == [None] * 4
    assert whole["class_distance"] == whole["border_distance"] == whole["segments"][ALL] == []
    assert cv2.imread(str(folder / "details.png")) is not None
