"""A fake kit stands for the rivals; with the marker `torch`, mmsegmentation itself."""

import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_config
from trees import cityscapes_tree

from cropjax.benchmark import opponents, rivals
from cropjax.benchmark.measure import OURS
from cropjax.benchmark.opponents import Opponents
from cropjax.benchmark.programs import Programs
from cropjax.benchmark.rivals import RIVALS, Rival, running
from cropjax.benchmark.suites import SUITES, Session
from cropjax.config import defaults
from cropjax.data.prepare import prepare
from cropjax.errors import UserError
from cropjax.models import mit

FAKE = Path(__file__).with_name("fake_rival.py")


@pytest.fixture
def environment(tmp_path):
    """A folder with bin/python, as a virtual environment has."""
    (tmp_path / "environment/bin").mkdir(parents=True)
    (tmp_path / "environment/bin/python").symlink_to(sys.executable)
    return str(tmp_path / "environment")


def fake(environment, fault=None, **options):
    return Rival(environment, str(FAKE), {"fault": fault, **options})


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        ("dies", "--against fake: the process ended with status 1: out of luck"),
        ("rubbish", "--against fake: answered '\"hello\"', which is no JSON object"),
        ("error", "--against fake: no memory"),
        ("nan", "--against fake: answered seconds = nan to forward"),
    ],
)
def test_misbehaviour_is_one_line(environment, fault, wanted):
    with running("fake", fake(environment, fault)) as process:
        process.ask("load", fault=fault)
        with pytest.raises(UserError) as caught:
            process.number("seconds", "forward")
    assert str(caught.value) == wanted


def test_a_process_that_does_not_stop_is_ended(environment, monkeypatch):
    monkeypatch.setattr(rivals, "PATIENCE", 0.2)
    with running("fake", fake(environment)) as process:
        process.ask("load", fault="stays")
    assert process._child.returncode < 0


def test_missing_environment_and_script(tmp_path, environment):
    with pytest.raises(UserError, match=r"run `make none/installed`"), running("x", Rival("none", str(FAKE), {})):
        pass
    with (
        pytest.raises(UserError, match=r"nowhere\.py is missing"),
        running("x", Rival(environment, str(tmp_path / "nowhere.py"), {})),
    ):
        pass
    broken = tmp_path / "broken/bin/python"
    broken.parent.mkdir(parents=True)
    broken.write_text("")
    with (
        pytest.raises(UserError, match="cannot be started"),
        running("x", Rival(str(tmp_path / "broken"), str(FAKE), {})),
    ):
        pass


@pytest.fixture
def tiny_session(tmp_path, environment, monkeypatch):
    """Makes a session of a tiny SegFormer and one fake rival that answers our own logits times `factor`."""
    monkeypatch.setattr(opponents, "published_size", lambda config: "b0")

    def make(factor=1.0):
        programs = Programs(tiny_config("segformer", crop_size=(32, 32)))
        batch = programs.batch(1, (32, 32))
        np.save(tmp_path / "ours.npy", factor * programs.logits(batch))
        monkeypatch.setitem(RIVALS, "fake", fake(environment, logits=str(tmp_path / "ours.npy")))
        against = Opponents(["fake"], programs, tmp_path)
        against.check(programs, batch)
        sizes = dict(image_size=(48, 64), crops=(32, 64), batches=(1, 2), memory_bytes=2**30)
        return Session(programs, against, rounds=2, matrix=64, forward_batch=1, **sizes)

    return make


def test_another_network_is_refused(tiny_session):
    with pytest.raises(UserError, match=r"differ from ours by 9\.9e-03"):
        tiny_session(factor=1.01)


def test_rows_with_a_rival(tiny_session, quick_compile):
    session = tiny_session()
    assert session.opponents.about["fake"] == {
        "parameters": 7,
        "versions": {"fake": "1.0"},
        "device": "cpu",
        "logits_difference": 0.0,
    }
    (row,) = SUITES["forward"](session)
    report = row.json()
    assert report["parties"]["fake"]["seconds"] == [[0.5], [0.5]]
    assert report["parties"]["fake"]["peak_bytes"] == 2**20
    assert report["parties"]["fake"]["ratio"] == 0.5 / report["parties"][OURS]["median"]
    assert report["utilization"] > 0
    assert report["flop"] > 1e5
    assert len(row.lines()) >= 2


@pytest.fixture
def tree(tmp_path):
    """Three frames of Cityscapes for training, with train ids."""
    return cityscapes_tree(tmp_path / "tree", {"train": 3}, size=(40, 80), labels="labelTrainIds")


def reading(name, root, folder, **data):
    """A session of a rival that reads files."""
    config = tiny_config("segformer", source="cityscapes", root=str(root), scale=(80, 40), crop_size=(32, 32), **data)
    programs = Programs(config)
    against = Opponents([name], programs, folder, reading_only=True)
    sizes = dict(image_size=(48, 64), crops=(32, 64), batches=(1, 2), memory_bytes=2**30)
    return Session(programs, against, rounds=2, matrix=64, forward_batch=1, **sizes)


@pytest.mark.slow
def test_a_rival_reads_the_same_files(tree, tmp_path, environment, monkeypatch):
    rival = fake(environment)._replace(suites=("input",))
    monkeypatch.setitem(RIVALS, "fake", rival)
    session = reading("fake", tree, tmp_path)
    (row,) = SUITES["input"](session)
    assert row.json()["parties"]["fake"]["seconds"] == [[0.5], [0.5]]
    assert row.values["fake_decoding_share"] == 0.3  # of three pairs
    prepare("cityscapes", tree, tmp_path / "store", splits=("train",))
    session = reading("fake", tmp_path / "store", tmp_path)
    others = cityscapes_tree(tmp_path / "others", {"train": 3}, size=(40, 80), labels="labelTrainIds")
    for path in others.glob("*/train/ulm/ulm_000002*"):
        path.rename(path.with_name(path.name.replace("ulm_000002", "ulm_000009")))
    for session.rival_root in (None, str(others)):
        with pytest.raises(
            UserError, match=r"name the folder of those that data\.root was prepared from with --rival_root"
        ):
            list(SUITES["input"](session))
    session.rival_root = str(tree)
    (row,) = SUITES["input"](session)
    assert row.values["fake_decoding_share"] == 0.3
    for path in tree.glob("gtFine/train/ulm/*"):
        path.rename(path.with_name(path.name.replace("labelTrainIds", "labelIds")))
    with pytest.raises(UserError, match="it reads files with train ids"):
        list(SUITES["input"](session))


@pytest.mark.torch
def test_mmsegmentation_reads_the_files(tree, tmp_path):
    (row,) = SUITES["input"](reading("torch", tree, tmp_path))
    assert 0 < row.values["torch_decoding_share"] < 1
    assert row.times.median("torch") > 0


@pytest.mark.torch
@pytest.mark.parametrize("network", ["segformer", "segnext"])
def test_mmsegmentation_is_the_same_network(tmp_path, network):
    config = defaults(network)
    if network == "segformer":
        config.model.backbone.update(mit.SIZES["b0"])
    programs = Programs(config)
    batch = programs.batch(2, (64, 64))
    against = Opponents(["torch"], programs, tmp_path)
    against.check(programs, batch)
    assert against.about["torch"]["logits_difference"] < 1e-4
    with against.process("torch", batch, "float32") as process:
        for _ in range(2):
            assert process.ask("train")["loss"] > 0
        process.number("seconds", "forward")
        process.number("seconds", "evaluate", mode="slide", window=(48, 48), stride=(32, 32))
        assert 2**27 < process.number("peak_bytes", "memory") < 2**34
