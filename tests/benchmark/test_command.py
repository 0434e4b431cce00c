"""`python -m cropjax.benchmark`, from its flags to its files."""

import json
from pathlib import Path

import pytest
from command import command

from cropjax.benchmark.__main__ import _chosen, _json_path, _numbers
from cropjax.benchmark.suites import SUITES
from cropjax.errors import UserError

TINY = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from tiny import tiny_config

def get_config():
    config = tiny_config("segformer", crop_size=(32, 32))
    config.train.batch_size = 2
    return config
"""


def run(*args):
    return command("cropjax.benchmark", *args)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(TINY)
    return path


def test_a_run(tmp_path, config):
    path = tmp_path / "report.json"
    suites = "--suites=scaling,forward"
    result = run("--config", config, suites, "--quick", "--rounds=2", "--crops=32", "--batches=1", "--json", path)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stdout.splitlines() if not line.startswith("  warning")]
    assert "jaxlib" in lines[0]
    assert lines[2].startswith("suite ")
    assert lines[3].startswith("forward   forward 1x32x32 float32")  # the suites' own order
    assert lines[-1].startswith("100 % is a product of two 2048x2048 matrices of float32")
    report = json.loads(path.read_text())
    assert report["machine"]["versions"]["jax"]
    assert report["machine"]["command"].startswith(f"python -m cropjax.benchmark --config {config} {suites} ")
    assert report["config"]["data"]["crop_size"] == [32, 32]
    assert report["rivals"] == {}
    assert report["rows"][0]["suite"] == "forward"
    assert len(report["rows"][0]["parties"]["ours"]["seconds"]) == 2
    assert {file.name for file in tmp_path.glob("*.*")} == {"tiny.py", "report.json", "report.png"}


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--suites=forward,speed"], "--suites=speed is not one of compile, forward"),
        (["--against=torch"], "the network is none of those published (b0, b1"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, config, arguments, wanted):
    result = run("--config", config, f"--json={tmp_path}/report.json", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("cropjax: ")
    assert wanted in line
    assert not (tmp_path / "report.json").exists()


def test_names_come_in_the_suites_order():
    assert _chosen("--suites", ["train", "compile"], SUITES) == ["compile", "train"]
    assert _chosen("--suites", ["all"], SUITES) == list(SUITES)
    with pytest.raises(UserError, match="--against=pytorch is not one of torch, keras_hub"):
        _chosen("--against", ["pytorch"], ("torch", "keras_hub"))


@pytest.mark.parametrize("values", [["1", "a"], ["0"], [], ["-3"]])
def test_numbers(values):
    with pytest.raises(UserError, match=r"--crops=.* whole numbers above 0, as in 256,512"):
        _numbers("--crops", values)


def test_sizes_have_two():
    assert _numbers("--image_size", ["3", "4"], 2) == (3, 4)
    with pytest.raises(UserError, match="as in 1024x2048"):
        _numbers("--image_size", ["3", "4", "5"], 2)


def test_where_the_json_goes(tmp_path):
    assert _json_path(None) is None
    assert _json_path(f"{tmp_path}/x.json") == tmp_path / "x.json"
    with pytest.raises(UserError, match="there is no folder"):
        _json_path(f"{tmp_path}/nowhere/x.json")
    with pytest.raises(UserError, match=r"ends in \.json"):
        _json_path(f"{tmp_path}/x.txt")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        _json_path(f"{tmp_path}/folder.json")
