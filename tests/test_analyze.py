"""The command on tiny runs: the report it leaves, going on after an interruption, and a user's mistakes."""

import csv

import pytest
from command import command
from test_commandline import DEMO

TINY = [
    "--config.model.backbone.width=4",
    "--config.model.head.channels=8",
    "--config.data.streets.train_count=4",
    "--config.data.streets.eval_count=2",
    "--config.data.threads=1",
]
CHEAP = "receptive_field,valid_taps,gridding,pooling,consistency,advice"


def analyze(tmp_path, *args, config=DEMO, out="report"):
    return command("cropjax.analyze", "--config", config, "--out", tmp_path / out, "--test_size=64x128", *TINY, *args)


def mistake(tmp_path, *args, **kwargs):
    result = analyze(tmp_path, *args, **kwargs)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert not (tmp_path / kwargs.get("out", "report")).is_dir()
    (line,) = result.stderr.splitlines()
    assert line.startswith("cropjax: ")
    return line


def test_a_report_and_its_second_making(tmp_path):
    other = f"--compare={DEMO}:pspnet"
    result = analyze(tmp_path, "--crops=48,64", f"--instruments={CHEAP}", other)
    assert result.returncode == 0, result.stderr
    out = tmp_path / "report"
    page = (out / "report.html").read_text()
    for title in ("Receptive field", "Valid taps", "Gridding", "Pooling", "Crop against whole", "Advice"):
        assert f">{title}</h2>" in page
    assert "demo and demo_pspnet differ in" in page
    with open(out / "csv" / "confounds.csv") as file:
        fields = {row["what"]: row for row in csv.DictReader(file)}
    assert fields["model.name"]["the other"] == "pspnet"

    kept = {path: path.stat().st_mtime_ns for path in (out / "measured").rglob("*.npz")}
    assert len(kept) == 1 + 3 + 1 + 1 + 1 + 1
    next(path for path in kept if path.name.startswith("pooling")).unlink()  # as if it had been interrupted there
    again = analyze(tmp_path, "--crops=48,64", f"--instruments={CHEAP}", other)
    assert again.returncode == 0, again.stderr
    after = {path: path.stat().st_mtime_ns for path in (out / "measured").rglob("*.npz")}
    assert after.keys() == kept.keys()
    assert [path.name for path in kept if after[path] != kept[path]] == ["pooling.drawn.npz"]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--crops=16"], ["--crops=16x16", "at least 33"]),
        (["--crops=48,128"], ["--crops=128x128", "larger than --test_size=64x128"]),
        (["--crops=48x"], ["--crops=48x", "512x1024"]),
        (["--crops=48", "--test_size=64"], ["--test_size=64", "rows x columns"]),
        (["--crops=48", "--instruments=rf"], ["--instruments=rf", "receptive_field"]),
        (["--crops=48", "--budget=large"], ["--budget=large", "quick|full"]),
        (["--crops=48", "--compare=configs/nothing.py"], ["--compare", "configs/nothing.py"]),
        (["--crops=48", "--config.data.source=camvid", "--config.data.root=nowhere"], ["nowhere", "source=streets"]),
        (["--crops=48", "--workdir=nowhere"], ["nowhere", "train first"]),
    ],
)
def test_mistakes(tmp_path, arguments, wanted):
    line = mistake(tmp_path, *arguments)
    for text in wanted:
        assert text in line


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    assert "is no folder" in mistake(tmp_path, "--crops=48", out="file")


@pytest.mark.slow
def test_all_instruments_on_a_trained_run_of_each_network(tmp_path):
    for network in ("deeplabv3plus", "pspnet", "segformer", "segnext"):
        config, workdir = f"{DEMO}:{network}", str(tmp_path / network)
        tiny = [*TINY[2:], "--config.data.streets.size=(64,128)", "--config.data.crop_size=(64,64)"]
        tiny += ["--config.train.steps=2", "--config.train.batch_size=2", "--config.eval.location_prior=0"]
        run = ["--config", config, "--workdir", workdir, *tiny]
        report = ["--crops=48,64", "--test_size=96x192", "--out", tmp_path / f"report_{network}"]
        for result in (command("cropjax.main", *run), command("cropjax.analyze", *run, *report)):
            assert result.returncode == 0, result.stderr
        page = (tmp_path / f"report_{network}" / "report.html").read_text()
        assert f"{workdir}, step 2" in page
        assert "trained weights" in page

    # A run of another network is refused, and nothing is left behind.
    line = mistake(tmp_path, "--crops=48", f"--workdir={tmp_path / 'pspnet'}", out="new")
    assert "model" in line
