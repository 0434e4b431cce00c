import contextlib
import errno
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import SingleDeviceSharding

from cropjax import checkpoint, sealed
from cropjax.checkpoint import Checkpoints
from cropjax.errors import UserError

BEST = "whole/miou"


def make_state(step, width=5):
    rng = np.random.default_rng(step)
    params = {
        "conv": {"kernel": jnp.asarray(rng.normal(size=(3, width, 40)), jnp.float32)},
        "half": jnp.asarray(rng.normal(size=7), jnp.bfloat16),
        "scale": jnp.float32(rng.normal()),
    }
    optimizer = optax.chain(
        optax.add_decayed_weights(0.1), optax.trace(0.9), optax.scale_by_schedule(optax.constant_schedule(1.0))
    )
    opt_state = optimizer.update(params, optimizer.init(params), params)[1]
    return {
        "params": params,
        "batch_stats": {"mean": jnp.full(3, step, jnp.float32)},
        "opt_state": opt_state,
        "step": jnp.int32(step),
    }


def save(checkpoints, step, metrics):
    checkpoints.save(step, make_state(step))
    if metrics:
        checkpoints.add_metrics(step, metrics)


def template_of(state):
    here = SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), state)


TEMPLATE = template_of(make_state(0))


def assert_same(state, expected):
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)


@pytest.fixture
def open_checkpoints(tmp_path):
    opened = []

    def open_(folder=tmp_path / "checkpoints"):
        opened.append(Checkpoints(folder, best=BEST))
        return opened[-1]

    yield open_
    for checkpoints in opened:
        checkpoints.close()


@pytest.fixture
def two(open_checkpoints):
    """Steps 10 and 20 on disk."""
    checkpoints = open_checkpoints()
    for step in (10, 20):
        save(checkpoints, step, {BEST: step / 100})
    return checkpoints


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def damage(folder, step):
    """Removes the arrays, which no restore can miss, of the checkpoint and of its copy."""
    for path in folder.glob(f"{step}*"):
        shutil.rmtree(path / "state")


@pytest.fixture
def uncopied(two):
    """The same, and no copy of the newest."""
    shutil.rmtree(two.folder / "20.copy")
    return two


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_nothing_to_restore(open_checkpoints):
    checkpoints = open_checkpoints()
    assert checkpoints.restore(TEMPLATE) is None
    assert checkpoints.restore(TEMPLATE, "best") is None
    assert not checkpoints.folder.exists()


def test_round_trip_keeps_values_dtypes_and_the_optimizer_state(two, open_checkpoints):
    step, state = open_checkpoints().restore(TEMPLATE)
    assert step == 20
    assert_same(state, make_state(20))
    assert type(state["opt_state"][1]).__name__ == "TraceState"
    assert all(leaf.sharding == SingleDeviceSharding(jax.devices()[0]) for leaf in jax.tree.leaves(state))


def test_a_named_step(two):
    assert_same(two.restore(TEMPLATE, 10)[1], make_state(10))
    with pytest.raises(UserError, match=r"no step 15; choose one of \[10, 20\]"):
        two.restore(TEMPLATE, 15)


def test_the_state_may_be_donated_at_once(open_checkpoints):
    checkpoints = open_checkpoints()
    state = make_state(1) | {"big": jnp.zeros((1000, 1000))}
    template = template_of(state)
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    for number in (1, 2, 3):
        expected = jax.tree.map(lambda x: np.array(x, copy=True), state)
        checkpoints.save(number, state)
        for _ in range(3):
            state = step(state)
        assert_same(checkpoints.restore(template)[1], expected)


@pytest.mark.parametrize(
    ("scores", "kept", "best"),
    [
        ([0.3, 0.9, 0.5, 0.4, 0.1], [2, 4, 5], 2),
        ([0.1, 0.2, 0.3, 0.4], [2, 3, 4], 4),
        ([0.9, None, None, None], [1, 3, 4], 1),
        ([0.5, 0.5, None, None, None], [2, 4, 5], 2),
        ([0.5, float("nan"), None, None], [1, 3, 4], 1),
        ([None, None, None], [2, 3], None),
    ],
)
def test_keeps_the_best_and_the_latest_two_others(open_checkpoints, scores, kept, best):
    for steps in (range(1, 4), range(4, 9)):  # the second half after a restart
        checkpoints = open_checkpoints()
        for step, score in [(s, scores[s - 1]) for s in steps if s <= len(scores)]:
            save(checkpoints, step, None if score is None else {BEST: np.float32(score), "loss": 1.0})
        checkpoints.close()
    assert names(checkpoints.folder) == [*map(str, kept), f"{kept[-1]}.copy"]
    reader = open_checkpoints()
    assert reader.restore(TEMPLATE)[0] == kept[-1]
    if best is None:
        with pytest.raises(UserError, match=f"no checkpoint carries '{BEST}'"):
            reader.restore(TEMPLATE, "best")
    else:
        step, state = reader.restore(TEMPLATE, "best")
        assert step == best
        assert_same(state, make_state(best))


def test_the_best_score_and_the_first_step_that_had_it(two, open_checkpoints):
    assert two.best_so_far(5) == (-math.inf, 0)
    assert two.best_so_far(10) == (0.1, 10)
    assert two.best_so_far(20) == (0.2, 20)
    for step in (30, 40, 50, 60):  # equally good: the later is the best that is kept
        two.save(step, make_state(step))
        two.add_metrics(step, {BEST: 0.2 if step == 30 else 0.1}, best_step=20)
    assert two.steps() == [30, 50, 60]
    assert two.best_so_far(60) == open_checkpoints().best_so_far(60) == (0.2, 20)
    assert open_checkpoints().best_so_far(29) == (-math.inf, 0)


def test_metrics_are_added_to_a_save(two, open_checkpoints):
    seal = json.loads((two.folder / "20" / "seal" / "metadata").read_text())
    assert seal["metrics"] == {BEST: 0.2}
    two.save(30, make_state(30))
    assert [two.evaluated(step) for step in (20, 30)] == [True, False]
    two.add_metrics(30, {BEST: 0.3})
    assert two.evaluated(30)
    again = open_checkpoints()
    assert again.restore(TEMPLATE, "best")[0] == 30
    assert_same(again.restore(TEMPLATE)[1], make_state(30))
    (two.folder / "30" / "seal" / "metadata").write_text("{}")
    with pytest.raises(UserError, match="30 is damaged"):
        two.add_metrics(30, {BEST: 0.3})


def test_a_damaged_newest_checkpoint_costs_nothing(two, caplog, open_checkpoints):
    """Whatever file of it is halved, and of its copy: the same state, the same metrics."""
    for folder in ("20", "20.copy"):
        for path in files(two.folder / folder):
            good = path.read_bytes()
            path.write_bytes(good[: len(good) // 2])
            reader = open_checkpoints()
            step, state = reader.restore(TEMPLATE)
            assert step == 20
            assert_same(state, make_state(20))
            assert reader.evaluated(20)
            path.write_bytes(good)
    assert "20 is damaged" in caplog.text
    assert "trying its copy" in caplog.text


def test_after_a_damage_the_copy_takes_its_place(two, open_checkpoints):
    shutil.rmtree(two.folder / "20" / "state")
    assert two.restore(TEMPLATE)[0] == 20
    assert names(two.folder) == ["10", "20", "20.copy"]  # reading changes nothing
    two.add_metrics(20, {BEST: 0.7})
    assert names(two.folder) == ["10", "20", "20.corrupt"]
    assert_same(open_checkpoints().restore(TEMPLATE, "best")[1], make_state(20))
    two.save(30, make_state(30))
    assert names(two.folder) == ["10", "20", "20.corrupt", "30", "30.copy"]


def test_a_flipped_bit_never_becomes_a_wrong_value(uncopied, caplog):
    """Every file of the latest checkpoint, twelve places each: equal values, or the checkpoint before."""
    rng = np.random.default_rng(0)
    fell_back = set()
    for path in files(uncopied.folder / "20"):
        good = path.read_bytes()
        for position in np.unique(np.linspace(0, len(good) - 1, 12, dtype=int)):
            bad = bytearray(good)
            bad[position] ^= 1 << rng.integers(8)
            path.write_bytes(bad)
            caplog.clear()
            step, state = uncopied.restore(TEMPLATE)
            assert_same(state, make_state(step))
            assert ("20 is damaged" in caplog.text) == (step == 10)
            if step == 10:
                fell_back.add(path.relative_to(uncopied.folder / "20").parts[0])
        path.write_bytes(good)
    assert {"seal", "state"} <= fell_back
    assert uncopied.restore(TEMPLATE)[0] == 20


def test_a_wrong_value_that_reads_well_is_noticed(uncopied, caplog):
    """As Orbax's own checks would let pass: the arrays of another state under this seal."""
    shutil.rmtree(uncopied.folder / "20" / "state")
    shutil.copytree(uncopied.folder / "10" / "state", uncopied.folder / "20" / "state")
    assert uncopied.restore(TEMPLATE)[0] == 10
    assert "values of" in caplog.text
    assert "not those that were saved" in caplog.text


def test_truncated_and_deleted_files(uncopied, capfd):
    fell_back = 0
    for path in files(uncopied.folder / "20"):
        good = path.read_bytes()
        for rest in (None, 0, len(good) // 2, len(good) - 1):
            path.unlink()
            if rest is not None:
                path.write_bytes(good[:rest])
            step, state = uncopied.restore(TEMPLATE)
            assert_same(state, make_state(step))
            fell_back += step == 10
            path.write_bytes(good)
    assert fell_back > 10
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("part", [".", "seal", "state"])
def test_a_half_deleted_checkpoint_falls_back_with_a_warning(uncopied, caplog, part):
    for path in (uncopied.folder / "20" / part).iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert uncopied.restore(TEMPLATE)[0] == 10
    assert str(uncopied.folder / "20") in caplog.text
    assert len(caplog.records) == 1


def test_after_a_fall_back_the_bad_step_is_set_aside_and_saved_again(two, open_checkpoints):
    damage(two.folder, 20)
    assert two.restore(TEMPLATE)[0] == 10
    assert (two.folder / "20").exists()  # reading changes nothing
    two.save(15, make_state(15))
    two.save(20, make_state(20))
    assert names(two.folder) == ["10", "15", "20", "20.copy", "20.corrupt"]
    again = open_checkpoints()
    assert_same(again.restore(TEMPLATE)[1], make_state(20))
    assert again.restore(TEMPLATE, "best")[0] == 10


def test_a_step_that_was_deleted_by_hand_does_not_come_back(two, open_checkpoints):
    shutil.rmtree(two.folder / "20")
    assert two.restore(TEMPLATE)[0] == 10
    again = open_checkpoints()
    again.save(20, make_state(120))
    shutil.rmtree(again.folder / "20" / "state")
    assert_same(again.restore(TEMPLATE)[1], make_state(120))


def test_damaged_best_or_named_step_is_an_error(two):
    damage(two.folder, 20)
    for which in ("best", 20):
        with pytest.raises(UserError, match=r"20 is damaged .* choose another of \[10, 20\]"):
            two.restore(TEMPLATE, which)


def test_no_good_checkpoint(two):
    damage(two.folder, 10)
    damage(two.folder, 20)
    with pytest.raises(UserError, match=r"no good checkpoint .*delete the folder or choose another --workdir") as error:
        two.restore(TEMPLATE)
    assert str(two.folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_network(two):
    for other, difference in (
        (make_state(0, width=6), r"params/conv/kernel is float32\[3, 5, 40\] there and float32\[3, 6, 40\] here"),
        (make_state(0) | {"ema": jnp.zeros(2)}, r"ema is absent there and float32\[2\] here"),
        (make_state(0) | {"step": jnp.float32(0)}, r"step is int32\[\] there and float32\[\] here"),
    ):
        with pytest.raises(UserError, match=f"20 belongs to another network: .*{difference}"):
            two.restore(template_of(other))
    with pytest.raises(UserError, match=r"and \d more: go back to"):
        two.restore({"params": {}})


def test_a_step_is_not_overwritten(two):
    with pytest.raises(UserError, match="20 exists already"):
        two.save(20, make_state(20))


def test_a_full_disk_is_one_line_and_the_good_checkpoints_stay(two):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = {"w": jax.random.normal(jax.random.key(0), (300, 300))}
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # the kernel refuses the rest, as on a full disk
    try:
        two.save(30, big)
        with pytest.raises(UserError, match=r"a checkpoint cannot be saved .*File too large.* make room") as error:
            two.wait()
        two.save(30, big)
        with pytest.raises(UserError, match="cannot be saved"):
            two.save(40, big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert two.restore(TEMPLATE)[0] == 20
    two.save(30, make_state(30))
    assert names(two.folder) == ["10", "20", "30", "30.copy"]


def size(folder):
    return sum(path.stat().st_size for path in files(folder))


@pytest.fixture
def quota(monkeypatch, tmp_path):
    """Sets how many bytes the checkpoints may take."""
    limit = []

    def limited(function, written, error):
        def call(*args):
            function(*args)
            if limit and size(tmp_path) > limit[-1]:
                shutil.rmtree(args[written])
                raise error("writing it") from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return call

    monkeypatch.setattr(sealed, "write", limited(sealed.write, 0, ValueError))
    monkeypatch.setattr(sealed, "copy", limited(sealed.copy, 1, OSError))
    return limit.append


def test_a_full_disk_takes_what_can_be_spared(two, quota, caplog):
    two.save(30, make_state(30))
    two.add_metrics(20, {BEST: 0.9})
    quota(size(two.folder) + size(two.folder / "30") // 2)  # two of the same state may differ by a few bytes
    two.save(40, make_state(40))
    assert "no room for step 40, given up for it: 10, 30.copy" in caplog.text
    assert names(two.folder) == ["20", "30", "40", "40.copy"]
    assert two.restore(TEMPLATE)[0] == 40


@pytest.mark.parametrize("done", [(), (1,)], ids=["before the first", "before its copy"])
def test_a_run_holds_the_room_of_three_from_its_start(open_checkpoints, quota, caplog, done, monkeypatch):
    """However well the first compresses, and whichever is the best."""
    zeros = {"moments": np.zeros((300, 1000), np.float32)}
    state = {"moments": np.random.default_rng(0).random((300, 1000), np.float32)}
    checkpoints = open_checkpoints()
    checkpoints.hold_room(zeros)
    checkpoints.wait()
    assert size(checkpoints.folder) >= 3 * 1_200_000
    for step in done:
        with monkeypatch.context() as killed:
            killed.setattr(Checkpoints, "_copy", lambda *_: None)
            checkpoints.save(step, zeros)
        assert size(checkpoints.folder) >= 3 * 1_200_000
    quota(size(checkpoints.folder))
    for step in (2, 3, 4, 5, 6):
        checkpoints.save(step, state)
        if step == 2:
            checkpoints.add_metrics(step, {BEST: 0.5})
        assert checkpoints.steps()[-1] == step
        assert step == 2 or 2 in checkpoints.steps()
    assert "given up for it: room" in caplog.text


def test_room_is_as_large_as_three_lack_and_is_released(open_checkpoints):
    checkpoints = open_checkpoints()
    checkpoints.hold_room(TEMPLATE)
    checkpoints.wait()
    room, before = checkpoints.folder / "room", size(checkpoints.folder)
    for step in (1, 2):
        checkpoints.save(step, make_state(step))
        assert size(checkpoints.folder) == before
    checkpoints.release_room()
    assert not room.exists()
    assert checkpoints.restore(TEMPLATE)[0] == 2


def test_a_run_without_a_checkpoint_leaves_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", best=BEST)
    checkpoints.hold_room(TEMPLATE)
    checkpoints.close()
    assert names(tmp_path) == []


def test_a_disk_without_the_room_of_three_is_told_of(open_checkpoints, caplog):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = open_checkpoints()
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        checkpoints.hold_room(TEMPLATE)
        checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "there is no room for three checkpoints, 3 MiB" in caplog.text
    save(checkpoints, 1, {})
    assert checkpoints.steps() == [1]


def test_a_disk_that_holds_three_keeps_the_newest_and_the_best(two, quota, caplog):
    quota(3.5 * size(two.folder / "20"))
    for step in (30, 40, 50):
        two.save(step, make_state(step))
        assert_same(two.restore(TEMPLATE)[1], make_state(step))
    assert two.restore(TEMPLATE, "best")[0] == 20
    assert "there once, without a copy" in caplog.text


def test_a_save_that_fails_is_tried_again(two, quota, monkeypatch, caplog):
    monkeypatch.setattr(checkpoint, "RETRY", 0.01)
    quota(0)
    two.save(30, make_state(30))
    while "trying again" not in caplog.text:
        time.sleep(0.01)
    assert names(two.folder) == ["20"]
    quota(1e9)
    while two.steps() != [20, 30]:
        time.sleep(0.01)
    two.wait()
    assert_same(two.restore(TEMPLATE)[1], make_state(30))


def test_closing_hides_no_other_error(two, quota, caplog):
    quota(0)
    two.save(30, make_state(30))
    with pytest.raises(ZeroDivisionError), contextlib.closing(two):
        1 / 0  # noqa: B018
    assert "the last checkpoint was not saved" in caplog.text


def test_orbax_keeps_quiet(open_checkpoints, caplog):
    caplog.set_level("INFO", logger="absl")
    checkpoints = open_checkpoints()
    checkpoints.save(1, make_state(1))
    checkpoints.restore(TEMPLATE)
    assert caplog.records == []


def test_folders_that_cannot_hold_checkpoints(tmp_path, open_checkpoints):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(UserError, match="is not a folder"):
        open_checkpoints(file)
    with pytest.raises(UserError, match=r"cannot be saved .*Not a directory"):
        open_checkpoints(file / "below").save(1, make_state(1))


SCRIPT = """
    import os, shutil, signal, sys, threading, time
    import jax, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from cropjax.checkpoint import Checkpoints
    checkpoints = Checkpoints(sys.argv[1], best="whole/miou")
    w = np.random.default_rng(0).normal(size=(2000, 1000)).astype(np.float32)
"""


def run_script(body, folder, **environment):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT) + textwrap.dedent(body), folder],
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        timeout=60,
        capture_output=True,
        text=True,
    )


WHILE_WRITTEN = """
    def kill():
        while not os.path.exists(sys.argv[1] + "/2.orbax-checkpoint-tmp"):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=kill).start()
"""
WHILE_COPIED = """
    copytree = shutil.copytree
    def copy_and_die(*args):
        copytree(*args)
        os.kill(os.getpid(), signal.SIGKILL)
    shutil.copytree = copy_and_die
"""


@pytest.mark.parametrize(
    ("dies", "left", "good"),
    [
        (WHILE_WRITTEN, ["1", "1.copy", "2.orbax-checkpoint-tmp"], 1),
        (WHILE_COPIED, ["1", "1.copy", "2", "2.copy.tmp"], 2),
    ],
    ids=["while it is written", "while it is copied"],
)
def test_kill_in_the_middle_of_a_save(tmp_path, open_checkpoints, dies, left, good):
    folder = tmp_path / "checkpoints"
    body = f"""
    checkpoints.save(1, {{"w": w}})
    {dies}
    checkpoints.save(2, {{"w": w}})
    """
    result = run_script(body, folder)
    assert result.returncode == -signal.SIGKILL
    assert names(folder) == left

    checkpoints = open_checkpoints()
    template = template_of({"w": jnp.zeros((2000, 1000))})
    step, state = checkpoints.restore(template)
    assert step == good
    checkpoints.save(3, state)
    assert names(folder) == [str(good), "3", "3.copy"]


def test_saved_on_four_devices_restored_on_one(tmp_path, open_checkpoints):
    folder = tmp_path / "checkpoints"
    result = run_script(
        """
        mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
        state = {"sharded": jax.device_put(w, NamedSharding(mesh, P("data"))),
                 "replicated": jax.device_put(w[0], NamedSharding(mesh, P()))}
        assert len(state["sharded"].sharding.device_set) == 4
        checkpoints.save(5, state)
        checkpoints.close()
        """,
        folder,
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
    assert result.returncode == 0, result.stderr
    w = np.random.default_rng(0).normal(size=(2000, 1000)).astype(np.float32)
    expected = {"sharded": jnp.asarray(w), "replicated": jnp.asarray(w[0])}
    step, state = open_checkpoints().restore(template_of(expected))
    assert step == 5
    assert_same(state, expected)
