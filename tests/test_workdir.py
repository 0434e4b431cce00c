import json
import os

import jax
import numpy as np
import pytest
from command import SERVER
from ml_collections import ConfigDict

from cropjax.config import defaults, label_set, set_optimizer
from cropjax.errors import UserError
from cropjax.workdir import (
    add_rollback,
    check_network,
    data_position,
    forget_rollbacks,
    load_config,
    locked,
    prepare,
    run_config,
)


def config(**changes):
    c = defaults("pspnet")
    c.update_from_flattened_dict(changes)
    return c.lock()


def test_first_run_records_config_and_provenance(tmp_path):
    workdir = tmp_path / "runs" / "x"
    prepare(workdir, config())

    assert sorted(p.name for p in workdir.iterdir()) == ["config.json", "lock", "provenance.json"]
    text = (workdir / "config.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
    provenance = json.loads((workdir / "provenance.json").read_text())
    assert provenance["versions"]["jax"] == jax.__version__
    assert provenance["versions"]["numpy"] == np.__version__
    assert provenance["devices"] == {"kind": jax.devices()[0].device_kind, "count": jax.device_count()}
    assert provenance["command"].startswith("python ")


def test_config_survives_the_round_trip_with_its_tuples(tmp_path):
    c = ConfigDict({"sizes": (1, (2.0, 3)), "empty": (), "inner": {"modes": ("whole",), "on": True, "name": ""}})
    prepare(tmp_path, c.lock())
    assert load_config(tmp_path) == c
    assert load_config(tmp_path).to_dict() == c.to_dict()
    assert load_config(tmp_path).is_locked

    prepare(tmp_path / "defaults", config())
    assert load_config(tmp_path / "defaults") == config()


def test_a_later_run_may_change_length_mesh_workers_and_cadence(tmp_path):
    prepare(tmp_path, config())
    provenance = (tmp_path / "provenance.json").read_text()
    changed = config(**{
        "train.steps": 7, "train.log_every": 3, "train.checkpoint_every": 4, "eval.every": 5,
        "data.workers": 2, "data.threads": 9, "mesh.data": 1, "mesh.space": 2,
    })  # fmt: skip
    prepare(tmp_path, changed)
    assert load_config(tmp_path) == changed
    assert (tmp_path / "provenance.json").read_text() == provenance


def test_a_run_that_never_saved_is_begun_anew(tmp_path, monkeypatch):
    prepare(tmp_path, config(), started=False)
    monkeypatch.setattr("sys.argv", ["another", "command"])
    other = config(**{"optim.lr": 0.5})
    prepare(tmp_path, other, started=False)
    assert load_config(tmp_path) == other
    assert json.loads((tmp_path / "provenance.json").read_text())["command"].endswith(" command")


def test_any_other_difference_is_named_and_changes_nothing(tmp_path):
    prepare(tmp_path, config())
    before = (tmp_path / "config.json").read_text()
    other = config(**{"optim.lr": 0.5, "init_from": "x.npz", "data.crop_size": (64, 32), "train.steps": 1})
    with pytest.raises(UserError) as error:
        prepare(tmp_path, other)
    message = str(error.value)
    for part in (
        "optim.lr is 0.01 there and 0.5 here",
        "init_from is '' there and 'x.npz' here",
        "data.crop_size is (512, 1024) there and (64, 32) here",
        str(tmp_path),
        "--workdir",
    ):
        assert part in message
    assert "train.steps" not in message
    assert "\n" not in message
    assert (tmp_path / "config.json").read_text() == before


def test_a_field_on_one_side_only_is_named(tmp_path):
    old, new = (ConfigDict(config().to_dict() | {name: 1}) for name in ("old", "new"))
    prepare(tmp_path, old)
    with pytest.raises(UserError, match="new is absent there and 1 here; old is 1 there and absent here"):
        prepare(tmp_path, new)


def test_a_run_with_another_optimiser_than_its_networks_goes_on(tmp_path):
    c = defaults("pspnet")
    set_optimizer(c, "adamw")
    assert (c.optim.name, c.optim.betas, "momentum" in c.optim) == ("adamw", (0.9, 0.999), False)
    prepare(tmp_path, c.lock())
    prepare(tmp_path, c)
    assert run_config(tmp_path) == c


@pytest.mark.parametrize("text", ["", '{"seed": 0', "[1, 2]", "\x00\x01"])
def test_damaged_config(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    for use in (load_config, lambda folder: prepare(folder, config())):
        with pytest.raises(UserError, match=r"config\.json is damaged"):
            use(tmp_path)
    assert (tmp_path / "config.json").read_text() == text


def test_folders_that_cannot_be_run_folders(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for workdir in (file, file / "below"):
        with pytest.raises(UserError, match="choose another --workdir"):
            prepare(workdir, config())
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        load_config(tmp_path / "nowhere")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("what", [{"name": "unet"}, {"name": []}, 3, {}, "pspnet"])
def test_the_config_of_something_else_is_no_run(tmp_path, what):
    stored = config().to_dict()
    for other in (stored | {"model": what}, stored | {"optim": what}, stored | {"eval": 3}):
        (tmp_path / "config.json").write_text(json.dumps(other))
        with pytest.raises(UserError, match=r"config\.json is not that of a run of ours: restore it"):
            run_config(tmp_path)


def test_a_failed_write_leaves_the_old_config(tmp_path):
    prepare(tmp_path, config())
    before = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json.tmp").mkdir()  # in the way, also of root, whom permissions do not stop
    with pytest.raises(UserError, match="choose another --workdir"):
        prepare(tmp_path, config(**{"train.steps": 1}))
    assert (tmp_path / "config.json").read_text() == before


def hold(workdir, held, done):
    with locked(workdir / "lock"):
        held.set()
        done.wait(60)


def test_a_folder_is_one_processs_at_a_time(tmp_path):
    held, done = SERVER.Event(), SERVER.Event()
    process = SERVER.Process(target=hold, args=(tmp_path, held, done))
    process.start()
    assert held.wait(60)
    with pytest.raises(UserError, match=rf"{tmp_path}: another process is at work there \(process {process.pid} on "):
        prepare(tmp_path, config())
    done.set()
    process.join()
    with prepare(tmp_path, config()):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")
    assert (tmp_path / "lock").read_text() == ""


def test_a_run_from_before_a_field_was_there_goes_on(tmp_path):
    run = defaults("pspnet")
    prepare(tmp_path, run).close()
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["train"]["accumulate"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    prepare(tmp_path, run).close()
    run.train.accumulate = 2
    with pytest.raises(UserError, match=r"train\.accumulate is 1 there and 2 here"):
        prepare(tmp_path, run)


def test_a_run_from_before_there_were_classes_is_of_the_same_network(tmp_path):
    run = defaults("pspnet")
    prepare(tmp_path, run).close()
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["data"]["classes"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    check_network(tmp_path, run)
    run.data.update(source="folders", classes=("a", "b"))
    with pytest.raises(UserError, match=r"data\.classes is \(\) there and \('a', 'b'\) here; data\.source is"):
        check_network(tmp_path, run)


def test_a_network_may_be_looked_at_on_other_data_with_its_classes(tmp_path):
    run = defaults("pspnet")
    prepare(tmp_path, run).close()
    run.data.source = "streets"
    check_network(tmp_path, run)
    run.data.source = "camvid"
    with pytest.raises(UserError, match=r"data\.source is 'cityscapes' there and 'camvid' here"):
        check_network(tmp_path, run)
    run.data.update(source="folders", classes=label_set(defaults("pspnet")).names)
    check_network(tmp_path, run)


def test_rollbacks_count_where_the_run_goes_on_after_them(tmp_path):
    assert data_position(tmp_path, 7) == 7
    assert [add_rollback(tmp_path, good, bad) for good, bad in ((100, 150), (100, 130), (200, 260))] == [1, 2, 1]
    assert [data_position(tmp_path, step) for step in (99, 100, 199, 200)] == [99, 180, 279, 340]
    forget_rollbacks(tmp_path, after=200)
    assert data_position(tmp_path, 200) == 340
    forget_rollbacks(tmp_path, after=150)  # the checkpoint of step 200 was damaged
    assert data_position(tmp_path, 300) == 380
    (tmp_path / "rollbacks.json").write_text("[[1")
    with pytest.raises(UserError, match=r"rollbacks.json cannot be read"):
        data_position(tmp_path, 1)
