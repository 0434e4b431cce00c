"""Many runs become one table and one plot."""

import csv
import io
import json
import math

import numpy as np
import pytest
from command import command
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from tiny import tiny_config

from cropjax.compare import compare, differing, grouped, notes, read_run, read_runs, short, shown, table
from cropjax.compare_plot import plot, spread, thinned
from cropjax.errors import UserError
from cropjax.workdir import prepare
from cropjax.writers import create_writer

RATE = 8.0  # images/s


def run(folder, scores=(), *, network="deeplabv3plus", logged=40, **changes):
    """A run folder as ours are: a log line every ten steps up to `logged`, and `scores`, {step: share}."""
    config = tiny_config(network)
    config.train.steps = 40
    config.update_from_flattened_dict({"model.auxiliary.channels": 4, **changes})
    prepare(folder, config).close()
    writer, scores = create_writer(folder), dict(scores)
    for step in range(10, logged + 1, 10):
        writer.write_scalars(step, {"train/loss": 30 / step, "train/images_per_second": RATE})
        if step in scores:
            writer.write_scalars(step, {"eval/whole/miou": scores[step], "eval/slide/miou": scores[step] / 2})
    writer.close()
    return folder


def compared(*folders):
    """The table as a dict of columns."""
    runs, _ = read_runs(folders)
    head, *rows = table(grouped(runs, differing(runs)[0]))
    return dict(zip(head, zip(*rows, strict=True), strict=True))


def test_the_best_comes_first_and_only_what_differs_is_shown(tmp_path):
    a = run(tmp_path / "a", {20: 0.25, 40: 0.5})
    b = run(tmp_path / "b", {20: 0.75, 40: 0.625}, **{"optim.lr": 0.5})
    c = run(tmp_path / "c", {20: 0.125}, logged=30, **{"data.crop_size": (33, 65), "data.threads": 2})
    assert compared(a, b, c) == {
        "run": ("b", "a", "c"),
        "crop_size": ("33x33", "33x33", "33x65"),
        "lr": ("0.5", "0.01", "0.01"),
        "steps": ("40 of 40", "40 of 40", "30 of 40"),
        "best whole/miou": ("75.00", "50.00", "12.50"),
        "at step": ("20", "40", "20"),
        "last": ("62.50", "50.00", "12.50"),
        "images/s": ("8.0", "8.0", "8.0"),
        "hours": ("0.006", "0.006", "0.004"),
    }


def test_seeds_are_one_row(tmp_path):
    bests = [0.5, 0.75, 0.625]
    folders = [run(tmp_path / f"a.{seed}", {20: 0.25, 40: best}, seed=seed) for seed, best in enumerate(bests)]
    rows = compared(*folders, run(tmp_path / "b", {40: 0.25}, **{"optim.lr": 0.5}))
    assert rows["run"] == ("a.*", "b")
    assert rows["runs"] == ("3", "1")
    assert "seed" not in rows
    mean, deviation = 100 * np.mean(bests), 100 * np.std(bests, ddof=1)
    assert rows["best whole/miou"] == (f"{mean:.2f} ± {deviation:.2f}", "25.00")
    assert rows["at step"] == ("40", "40")


def test_seeds_that_are_not_evaluated_yet_are_not_in_the_mean(tmp_path):
    rows = compared(run(tmp_path / "a.0", {20: 0.25}), run(tmp_path / "a.1", logged=10, seed=1))
    assert rows["best whole/miou"] == ("25.00 (1 of 2)",)
    assert rows["steps"] == ("10…40 of 40",)


def test_a_run_that_has_just_begun_is_a_row(tmp_path):
    a = run(tmp_path / "a", {40: 0.5})
    b = run(tmp_path / "b", logged=0, **{"optim.lr": 0.5})
    (b / "metrics.jsonl").unlink()
    rows = compared(b, a)
    assert rows["run"] == ("a", "b")
    assert [rows[name][1] for name in ("steps", "best whole/miou", "at step", "last", "images/s", "hours")] == [
        "0 of 40", "—", "—", "—", "—", "—",
    ]  # fmt: skip


def test_those_without_a_score_come_last_by_name(tmp_path):
    rates = {"d": 0.1, "a": 0.2, "c": 0.3}
    folders = [run(tmp_path / name, **{"optim.lr": lr}) for name, lr in rates.items()]
    assert compared(*folders, run(tmp_path / "e", {40: 0.5}))["run"] == ("e", "a", "c", "d")


def test_the_line_in_which_a_run_was_killed_and_nan_count_for_nothing(tmp_path):
    folder = run(tmp_path / "a", {10: math.nan, 20: 0.5, 30: math.nan})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "eval/whole/miou": 0.9')
    found = read_run(folder)
    assert found.best == (50.0, 20)
    assert math.isnan(found.last)
    assert list(found.scores) == [10, 20, 30]


def test_runs_of_other_data_are_no_seeds(tmp_path):
    a, b = (run(tmp_path / name, {40: 0.5}, **{"data.root": f"/data/{name}"}) for name in "ab")
    assert compared(a, b)["root"] == ("/data/a", "/data/b")


def test_what_no_run_wrote_counts_for_nothing(tmp_path, capsys):
    """Nor do a last score of nan, or a label that Matplotlib would take for a formula, keep all from a plot."""
    a = run(tmp_path / "a", {20: 0.5, 40: math.nan}, init_from="w$_$x.pth")
    b = run(tmp_path / "b", {20: math.nan, 40: math.nan})
    with (a / "metrics.jsonl").open("a") as file:
        file.write('5\n{"a": 1}\n')
    (b / "provenance.json").write_text("[]")
    compare([a, b], tmp_path / "out")
    assert "50.00" in capsys.readouterr().out
    assert all((tmp_path / f"out.{end}").exists() for end in ("png", "md", "csv"))


def test_the_mean_is_of_the_steps_that_all_have():
    lines = dict.fromkeys(range(50, 80001, 50), 1.0)
    axes = Figure().subplots()
    plot(axes, [lines, lines | {120: 3.0}], each=False, color="k", shown=thinned)
    plot(axes, [lines, dict.fromkeys(lines, 3.0)], each=False, color="k", shown=thinned)
    means = [line.get_ydata() for line in axes.lines]
    assert [set(mean) for mean in means] == [{1.0}, {2.0}]
    assert plot(axes, [{1: 1.0}, {2: 2.0}], each=False, color="k") == (1, 1.0)
    assert [list(line.get_ydata()) for line in axes.lines[2:]] == [[1.0], [2.0]]


def test_hours_follow_the_rates_that_were_logged(tmp_path):
    folder = run(tmp_path / "a", logged=0)
    writer = create_writer(folder)
    writer.write_scalars(1, {"train/loss": 1.0})  # the first step has no rate
    writer.write_scalars(11, {"train/loss": 1.0, "train/images_per_second": 2.0})
    writer.write_scalars(16, {"train/loss": 1.0, "train/images_per_second": 4.0})
    writer.close()
    found = read_run(folder)
    batch = found.fields["train.batch_size"]
    assert found.rate == 3
    assert found.hours * 3600 == pytest.approx(batch / 3 + 10 * batch / 2 + 5 * batch / 4)


def test_what_the_network_alone_decides_is_named_below(tmp_path):
    a = run(tmp_path / "a", {40: 0.5}, network="segformer")
    b = run(tmp_path / "b", {40: 0.25}, network="pspnet")
    c = run(tmp_path / "c", {40: 0.125}, network="pspnet", **{"data.crop_size": (65, 65)})
    rows = compared(a, b, c)
    assert rows["model.name"] == ("segformer", "pspnet", "pspnet")
    assert list(rows)[:4] == ["run", "model.name", "crop_size", "steps"]
    runs, _ = read_runs([a, b, c])
    names, implied = differing(runs)
    assert {"optim.name", "model.head.pool_scales", "model.backbone.widths"} <= set(implied)
    assert any("not shown" in note and "optim.name" in note for note in notes(runs, implied))
    assert grouped(runs, names)[0].text == "segformer, crop_size 33x33"


def test_scores_of_two_names_are_said_not_to_compare(tmp_path):
    a = run(tmp_path / "a", {40: 0.5})
    b = run(tmp_path / "b", {40: 0.5}, **{"eval.best": "slide/miou"})
    rows = compared(a, b)
    assert rows["best"] == ("whole/miou", "slide/miou")
    assert rows["best score"] == ("50.00", "25.00")
    runs, _ = read_runs([a, b])
    assert any("different eval.best" in note for note in notes(runs, []))


def test_runs_of_several_commits_and_devices_are_told_apart(tmp_path):
    a, b = run(tmp_path / "a", {40: 0.5}), run(tmp_path / "b", {40: 0.25}, seed=1)
    assert len(notes(read_runs([a, b])[0], [])) == 1
    path = b / "provenance.json"
    path.write_text(json.dumps({"commit": "f" * 40, "devices": {"kind": "H200", "count": 8}}))
    device, commit = notes(read_runs([a, b])[0], [])[1:]
    assert device == "Not of one device: 1 x cpu: a; 8 x H200: b."
    assert "ffffffffffff: b" in commit


def test_the_command_writes_a_page_a_sheet_and_a_plot(tmp_path, capsys):
    a = run(tmp_path / "runs" / "a", {20: 1 / 3, 40: 0.5})
    b = run(tmp_path / "runs" / "b", {20: 0.75}, seed=1, **{"optim.lr": 0.5})
    compare([a, b, tmp_path / "runs"], tmp_path / "out" / "two.runs")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "two.runs.csv", "two.runs.md", "two.runs.png",
    ]  # fmt: skip
    printed = capsys.readouterr()
    assert f"passed over: {tmp_path / 'runs'} is not the folder of a run (no config.json): leave it out" in printed.err
    assert "b     0.5" in printed.out
    page = (tmp_path / "out" / "two.runs.md").read_text()
    assert "| b | 0.5 | 40 of 40 | 75.00 | 20 | 75.00 |" in page
    assert "![](two.runs.png)" in page
    lines = list(csv.DictReader(io.StringIO((tmp_path / "out" / "two.runs.csv").read_text())))
    assert [(line["row"], line["run"], line["optim.lr"], line["seed"]) for line in lines] == [
        ("1", "b", "0.5", "1"), ("2", "a", "0.01", "0"),
    ]  # fmt: skip
    assert float(lines[1]["best"]) == 50
    with Image.open(tmp_path / "out" / "two.runs.png") as picture:
        assert picture.width > picture.height > 500


def test_folders_of_one_name_are_told_apart(tmp_path):
    folders = [run(tmp_path / part / "x", {40: score}) for part, score in (("a", 0.5), ("b", 0.25))]
    assert [found.name for found in read_runs([*folders, folders[0]])[0]] == ["a/x", "b/x"]


def test_what_cannot_be_compared_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no run is named: .*cropjax.compare runs/\*"):
        read_runs([])
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"architectures": ["Segformer"], "model": 3}')
    with pytest.raises(
        UserError, match=r"no run to compare: .*empty is not .* a run.*json is damaged.*other/config.json is not that"
    ):
        read_runs([tmp_path / "empty", tmp_path / "damaged", tmp_path / "other"])


def test_the_command_line(tmp_path):
    folder = run(tmp_path / "a", {40: 0.5})
    done = command("cropjax.compare", folder, "--out", tmp_path / "out")  # a flag after the arguments
    assert (done.returncode, done.stderr) == (0, "")
    assert "50.00" in done.stdout
    for arguments, wanted in (
        ([], "no run is named"),
        ([tmp_path / "nothing", "--out", tmp_path / "none"], "nothing is not the folder of a run"),
        ([folder, "--config", "configs/demo.py"], "this command has flags of its own"),
    ):
        done = command("cropjax.compare", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert wanted in done.stderr
    assert not list(tmp_path.glob("none*"))


@pytest.mark.slow
def test_what_training_leaves_is_read(tmp_path):
    for seed in (0, 1):
        arguments = ["--config", "tests/tiny_run.py", "--workdir", tmp_path / f"x.{seed}", f"--config.seed={seed}"]
        done = command("cropjax.main", *arguments)
        assert done.returncode == 0, done.stderr
    rows = compared(tmp_path / "x.0", tmp_path / "x.1")
    assert rows["run"] == ("x.*",)
    assert rows["steps"] == ("12 of 12",)
    assert "±" in rows["best whole/miou"][0]
    evaluation = [json.loads(line) for line in (tmp_path / "x.0" / "metrics.jsonl").read_text().splitlines()]
    scores = {line["step"]: 100 * line["eval/whole/miou"] for line in evaluation if "eval/whole/miou" in line}
    assert read_run(tmp_path / "x.0").best[0] == max(scores.values())


def test_names_are_as_short_as_tells_them_apart():
    names = ["model.name", "optim.name", "optim.lr", "data.streets.size", "data.crop_size"]
    assert [short(name, names) for name in names] == ["model.name", "optim.name", "lr", "size", "crop_size"]
    assert short("data.streets.seed", ["data.streets.seed", "data.other.seed"]) == "streets.seed"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((512, 1024), "512x1024"),
        ((0.5, 2.0), "(0.5, 2.0)"),
        ((True, False), "(True, False)"),
        ("", "''"),
        (None, "None"),
    ],
)
def test_values_are_written_as_a_person_does(value, text):
    assert shown(value) == text


@given(st.lists(st.floats(0, 1), min_size=1, max_size=16))
def test_labels_keep_their_distance_and_their_order(places):
    gap = 1 / 16
    found = spread(places, gap)
    assert found.min() >= -1e-9
    assert found.max() <= 1 + 1e-9
    order = np.argsort(places, kind="stable")
    assert (np.diff(found[order]) >= gap - 1e-9).all()
    if (np.diff(np.sort(places)) >= gap).all():
        np.testing.assert_allclose(found, places, atol=1e-12)


def test_labels_share_what_they_must_move():
    np.testing.assert_allclose(spread([0.5, 0.5, 0.9], 0.1), [0.45, 0.55, 0.9])


@given(st.integers(0, 1000))
def test_a_long_curve_becomes_means_of_its_parts(count):
    values = {10 * i: float(i) for i in range(1, count + 1)}
    found = thinned(values)
    assert len(found) <= 150
    every = -(-count // 150)
    for step, mean in found.items():
        i = step // 10
        assert mean == pytest.approx(np.mean(range(i - every + 1, i + 1)))
