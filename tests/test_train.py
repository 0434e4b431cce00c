"""The whole job on a tiny network: it learns, resumes to the bit, and stops when it should."""

import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import TENSORS, EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.util.tensor_util import make_ndarray
from tiny import tiny_config

from cropjax import inference, loop, sealed
from cropjax import train as train_module
from cropjax import workdir as run_folder
from cropjax.checkpoint import Checkpoints
from cropjax.config import NETWORKS, build_augment, build_model, build_optimizer, build_source
from cropjax.convert import torch_state
from cropjax.data.pipeline import train_batches
from cropjax.errors import Stopped, UserError
from cropjax.loop import NotFiniteError
from cropjax.panels import GAP
from cropjax.sharding import make_mesh, place_batch
from cropjax.step import abstract_state, create_state, make_train_step, run_key, split_model
from cropjax.train import train


def final_state(config, workdir):
    _, weights = split_model(build_model(config))
    direction, _ = build_optimizer(config)
    mesh = make_mesh(data=-1, space=1)
    checkpoints = Checkpoints(workdir / "checkpoints", best=config.eval.best)
    step, state = checkpoints.restore(abstract_state(weights, direction, mesh))
    checkpoints.close()
    return step, jax.device_get(state)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run and its config."""
    workdir = tmp_path_factory.mktemp("run")
    config = tiny_config()
    scores = train(config, workdir)
    return config, workdir, scores


def test_run_leaves_curves_pictures_and_a_checkpoint(finished):
    config, workdir, scores = finished
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    by_step = {line["step"]: line for line in lines if "train/loss" in line}
    assert sorted(by_step) == [2, 4]
    wanted = {"loss", "loss_decode", "loss_auxiliary", "accuracy", "lr", "gradient_norm", "parameter_norm"}
    assert wanted | {"update_norm", "images_per_second"} <= {name.removeprefix("train/") for name in by_step[4]}
    assert by_step[4]["train/lr"] == pytest.approx(config.optim.min_lr)
    evaluation = next(line for line in lines if "eval/whole/miou" in line)
    assert evaluation["step"] == 4
    assert evaluation["eval/slide/miou"] == pytest.approx(scores["slide"].summary["miou"])
    assert "iou/whole/road" in evaluation
    assert evaluation["best/whole/miou"] == evaluation["eval/whole/miou"]
    assert final_state(config, workdir)[0] == 4
    assert not (workdir / "checkpoints" / "room").exists()


def test_tensorboard_has_curves_pictures_parameters_and_settings(finished):
    config, workdir, scores = finished
    events = EventAccumulator(str(workdir / "tensorboard"), size_guidance={TENSORS: 0})
    events.Reload()
    tags = events.Tags()["tensors"]
    assert {"parameters", "eval/panels", "train/loss", "iou/whole/road"} <= set(tags)
    assert {event.step for event in events.Tensors("train/loss")} == {2, 4}
    (miou,) = (float(make_ndarray(event.tensor_proto)) for event in events.Tensors("eval/slide/miou"))
    assert miou == pytest.approx(scores["slide"].summary["miou"])
    content = events.SummaryMetadata(hparams_metadata.SESSION_START_INFO_TAG).plugin_data.content
    settings = hparams_metadata.parse_session_start_info_plugin_data(content).hparams
    assert settings["train.batch_size"].number_value == config.train.batch_size
    (panels,) = events.Tensors("eval/panels")
    width, height, *pictures = make_ndarray(panels.tensor_proto).tolist()
    assert (int(width), int(height), len(pictures)) == (3 * 64 + 2 * GAP, 32, 1)  # image | label | prediction


def test_every_pixel_is_scored_once(finished):
    config, _, scores = finished
    source = train_module.build_source(config, "eval")
    labels = np.concatenate([source[i]["label"].ravel() for i in range(len(source))])
    counts = np.bincount(labels[labels != 255], minlength=19)
    for s in scores.values():
        np.testing.assert_array_equal(s.confusion.sum(1), counts)


def test_finished_run_is_not_repeated(finished, capsys):
    config, workdir, _ = finished
    shorter = config.copy_and_resolve_references()
    shorter.train.steps = 2
    room = workdir / "checkpoints" / "room"
    for again in (config, shorter):
        room.write_bytes(b"left by a kill after the last save")
        assert train(again, workdir) is None
        assert "finished already" in capsys.readouterr().out
        assert not room.exists()
    run_folder.prepare(workdir, config).close()


@pytest.mark.parametrize("fatal_step", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_resumed_run_equals_an_uninterrupted_one(finished, tmp_path, monkeypatch, fatal_step):
    config, workdir, _ = finished
    place, calls = train_module.place_batch, []

    def fail_once(batch, mesh):
        calls.append(None)
        if len(calls) == fatal_step:
            raise KeyboardInterrupt
        return place(batch, mesh)

    monkeypatch.setattr(train_module, "place_batch", fail_once)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path)
    monkeypatch.setattr(train_module, "place_batch", place)
    train(config, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, final_state(config, tmp_path), final_state(config, workdir))


@pytest.mark.parametrize(
    "network", [n if n == "deeplabv3plus" else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS]
)
def test_one_batch_is_learnt_by_heart(network):
    """The step's updates go the right way: the loss on four fixed crops falls to less than half."""
    config = tiny_config(network)
    config.train.update(steps=150)
    config.model.head.dropout = config.model.auxiliary.dropout = 0.0
    config.optim.update(lr=0.05 if config.optim.name == "sgd" else 5e-3, warmup_steps=0)
    mesh = make_mesh(data=1, space=-1)
    graph, weights = split_model(build_model(config))
    direction, schedule = build_optimizer(config)
    step = make_train_step(graph, direction, schedule, config, mesh)
    state = create_state(weights, direction, mesh)
    batches = train_batches(build_source(config, "train"), build_augment(config), seed=0, batch_size=4)
    batch, losses = place_batch(next(batches), mesh), []
    batches.close()
    for _ in range(config.train.steps):
        state, report = step(state, batch, run_key(config.seed, mesh))
        losses.append(float(report.loss.compute()))
    assert losses[-1] < 0.5 * losses[0], losses


def test_training_in_bfloat16_keeps_float32_state_and_evaluates_in_float32(tmp_path, monkeypatch):
    seen = set()

    def normalize(images, sizes=None, dtype=None):
        seen.add(np.dtype(dtype).name)
        return plain(images, sizes, dtype)

    plain = inference.normalize
    monkeypatch.setattr(inference, "normalize", normalize)
    config = tiny_config()
    config.train.update(dtype="bfloat16", steps=2)
    config.eval.modes = ("whole",)
    scores = train(config, tmp_path)
    assert np.isfinite(scores["whole"].summary["miou"])
    assert seen == {"float32"}
    _, state = final_state(config, tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves(state["params"])} == {np.dtype(np.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(state["batch_stats"])} == {np.dtype(np.float32)}


def test_nan_stops_the_run_and_names_the_steps(tmp_path):
    config = tiny_config()
    config.optim.lr = 1e30
    with pytest.raises(NotFiniteError, match=r"within steps 1\.\.\.2"):
        train(config, tmp_path)
    assert not Checkpoints(tmp_path / "checkpoints", best=config.eval.best).steps()


def test_workdir_of_another_config_is_refused(finished):
    config, workdir, _ = finished
    other = config.copy_and_resolve_references()
    other.optim.lr = 0.02
    with pytest.raises(UserError, match=r"optim\.lr"):
        train(other, workdir)


def test_evaluation_of_another_network_is_refused(finished):
    config, workdir, _ = finished
    other = config.copy_and_resolve_references()
    other.model.backbone.output_stride = 8  # the same shapes
    with pytest.raises(UserError, match=r"model\.backbone\.output_stride"):
        run_folder.check_network(workdir, other)
    other = config.copy_and_resolve_references()
    other.eval.modes = ("slide",)
    run_folder.check_network(workdir, other)


def test_run_without_a_checkpoint_may_take_another_config(tmp_path):
    config = tiny_config()
    run_folder.prepare(tmp_path, config)
    config.optim.lr = 0.02
    config.train.steps, config.eval.modes = 2, ("whole",)
    train(config, tmp_path)
    assert run_folder.load_config(tmp_path).optim.lr == 0.02


def test_run_says_what_it_took_from_a_weight_file(tmp_path, capsys):
    config = tiny_config()
    graph, weights = split_model(build_model(config))
    np.savez(tmp_path / "whole.npz", **torch_state(weights))
    config.init_from, config.train.steps, config.eval.every = str(tmp_path / "whole.npz"), 1, 1
    config.eval.modes = ("whole",)
    train(config, tmp_path / "run")
    wanted = "whole.npz gives backbone; init_parts leaves out what else is there: head, auxiliary"
    assert wanted in capsys.readouterr().out


def test_missing_weight_file_leaves_nothing_behind(tmp_path):
    config = tiny_config()
    config.init_from = str(tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match=r"nowhere\.pth"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def poison(monkeypatch, bad):
    """Weights that are not finite in the steps whose numbers, in the order they are made, `bad` says yes to.

    The images of all batches that steps were made of, in that order.
    """
    seen, make = [], train_module.make_train_step
    spoilt = jax.jit(lambda params: jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params))

    class Poisoned:
        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            return getattr(self._inner, name)

        def lower(self, *args):
            return Poisoned(self._inner.lower(*args))

        def compile(self):
            return Poisoned(self._inner.compile())

        def __call__(self, state, batch, key):
            seen.append(jax.device_get(batch["image"]))
            if bad(len(seen)):
                state = state | {"params": spoilt(state["params"])}
            return self._inner(state, batch, key)

    monkeypatch.setattr(train_module, "make_train_step", lambda *args: Poisoned(make(*args)))
    return seen


def rollback_config():
    config = tiny_config()
    config.train.update(on_nan="rollback", log_every=1)
    config.eval.modes = ("whole",)
    return config


def test_rollback_goes_on_from_the_checkpoint_past_the_bad_images(tmp_path, monkeypatch, capsys):
    config = rollback_config()
    seen = poison(monkeypatch, lambda number: number == 4)
    assert train(config, tmp_path) is not None
    assert "back to step 2, and on with the images after those of step 4" in capsys.readouterr().out
    assert json.loads((tmp_path / "rollbacks.json").read_text()) == [[2, 4]]
    assert run_folder.data_position(tmp_path, 4) == 6
    assert run_folder.data_position(tmp_path, 1) == 1
    source = build_source(config, "train")
    stream = train_batches(source, build_augment(config), seed=config.seed, batch_size=4)
    np.testing.assert_array_equal(seen, [next(stream)["image"] for _ in range(6)])
    stream.close()
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 4]


@pytest.mark.slow
def test_rollback_that_does_not_help_ends(tmp_path, monkeypatch):
    poison(monkeypatch, lambda number: number > 2)
    with pytest.raises(NotFiniteError, match="going back to step 2 has not helped 3 times"):
        train(rollback_config(), tmp_path)


def test_rollback_needs_a_checkpoint(tmp_path, monkeypatch):
    poison(monkeypatch, lambda number: number == 1)
    with pytest.raises(NotFiniteError, match=r"within steps 1\.\.\.1 \(none saved\)"):
        train(rollback_config(), tmp_path)


def test_a_signal_in_an_evaluation_saves_and_the_next_run_begins_with_it(finished, tmp_path, monkeypatch):
    config, workdir, scores = finished

    def interrupted(*args, **kwargs):
        signal.raise_signal(signal.SIGTERM)
        return evaluate(*args, **kwargs)

    evaluate = loop.evaluate
    monkeypatch.setattr(loop, "evaluate", interrupted)
    with pytest.raises(Stopped):
        train(config, tmp_path)
    checkpoints = Checkpoints(tmp_path / "checkpoints", best=config.eval.best)
    assert checkpoints.steps() == [2, 4]
    assert (tmp_path / "checkpoints" / "room").exists()  # until the run is finished
    assert not checkpoints.evaluated(4)
    monkeypatch.setattr(loop, "evaluate", evaluate)
    again = train(config, tmp_path)
    assert checkpoints.evaluated(4)
    assert not (tmp_path / "checkpoints" / "room").exists()
    checkpoints.close()
    for mode, s in scores.items():
        np.testing.assert_array_equal(again[mode].confusion, s.confusion)
    jax.tree.map(np.testing.assert_array_equal, final_state(config, tmp_path), final_state(config, workdir))


def test_a_full_disk_does_not_stop_a_run_unless_it_ends_with_it(tmp_path, monkeypatch, capsys):
    config, write = tiny_config(), sealed.write

    def full(path, state):
        if path.name in full_at:
            raise OSError(28, "No space left on device")
        write(path, state)

    monkeypatch.setattr(sealed, "write", full)
    config.eval.modes = ("whole",)
    config.train.steps = config.eval.every = 6
    full_at = ("4",)
    train(config, tmp_path / "goes on")
    assert "cannot be saved ([Errno 28] No space left on device): make room" in capsys.readouterr().out
    assert Checkpoints(tmp_path / "goes on/checkpoints", best="").steps() == [2, 6]
    full_at = ("6",)
    with pytest.raises(UserError, match=r"cannot be saved .*No space left"):
        train(config, tmp_path / "ends")
