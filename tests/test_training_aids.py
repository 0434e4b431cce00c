"""What helps a training along: an average of the weights, stages that are frozen, and an end before the last step."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import tiny_config

from cropjax import loop
from cropjax import train as train_module
from cropjax.checkpoint import Checkpoints
from cropjax.config import build_augment, build_model, build_objective, build_optimizer, build_source
from cropjax.convert import torch_state, trained
from cropjax.data.pipeline import train_batches
from cropjax.depth import part
from cropjax.errors import UserError
from cropjax.evaluate import evaluate
from cropjax.inference import Inference
from cropjax.loop import outlived
from cropjax.models.layers import BatchNorm
from cropjax.restore import restore_run
from cropjax.sharding import make_mesh, place_batch
from cropjax.step import (
    create_state,
    make_train_step,
    merge_model,
    run_key,
    segmentation_loss,
    split_model,
    weights_of,
)
from cropjax.train import train

pytestmark = pytest.mark.usefixtures("quick_compile")
BACKBONES = ["deeplabv3plus", "segformer", "segnext"]


def states(config, count):
    """The states at step 0, 1, ... `count` of training, on the host."""
    mesh = make_mesh(data=1, space=-1)
    graph, weights = split_model(build_model(config))
    weights = jax.tree.map(lambda x: np.asarray(x, config.train.dtype), weights)
    direction, schedule = build_optimizer(config)
    step = make_train_step(graph, direction, schedule, config, mesh)
    state = create_state(weights, direction, mesh, ema=bool(config.train.ema))
    found = [jax.device_get(state)]
    batches = train_batches(build_source(config, "train"), build_augment(config), seed=0, batch_size=4)
    for _ in range(count):
        state, _ = step(state, place_batch(next(batches), mesh), run_key(config.seed, mesh))
        found.append(jax.device_get(state))
    batches.close()
    return found


def by_path(tree):
    return {jax.tree_util.keystr(keys, simple=True, separator="."): x for keys, x in jax.tree.leaves_with_path(tree)}


def assert_equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def interrupted(monkeypatch, config, workdir, before):
    """A run that is killed when batch number `before`, from 1, is placed."""
    place, calls = train_module.place_batch, []

    def fail(batch, mesh):
        calls.append(None)
        if len(calls) == before:
            raise KeyboardInterrupt
        return place(batch, mesh)

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "place_batch", fail)
        with pytest.raises(KeyboardInterrupt):
            train(config, workdir)


# The average -----------------------------------------------------------------------------------------------


def test_the_average_is_its_recursion_and_training_does_not_see_it():
    config = tiny_config()
    config.optim.lr = 0.1
    plain = states(config, 4)
    config.train.ema = 0.25
    found = states(config, 4)
    average = found[1]["params"]  # mmengine's begins with the weights after the first step
    for state, without in zip(found[1:], plain[1:], strict=True):
        average = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, average, state["params"])
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), state["ema"], average)
        assert_equal({name: state[name] for name in without}, without)
        assert_equal(weights_of(state), {"params": state["ema"], "batch_stats": state["batch_stats"]})
    assert "ema" not in plain[0]
    assert_equal(weights_of(plain[4]), {name: plain[4][name] for name in ("params", "batch_stats")})


@pytest.fixture(scope="module")
def aided(tmp_path_factory):
    """A run with an average, a frozen stem and layer-wise learning rates, its config and its folder."""
    workdir = tmp_path_factory.mktemp("aided")
    config = tiny_config()
    config.train.update(ema=0.25, frozen_stages=0)
    config.optim.layer_decay = 0.8
    config.eval.modes = ("whole",)
    train(config, workdir)
    return config, workdir


@pytest.mark.parametrize("before", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_a_resumed_run_has_the_same_average(aided, tmp_path, monkeypatch, before):
    config, workdir = aided
    interrupted(monkeypatch, config, tmp_path, before)
    train(config, tmp_path)
    mesh = make_mesh(data=1, space=-1)
    (step, _, state), (_, _, wanted) = (restore_run(config, path, "latest", mesh) for path in (tmp_path, workdir))
    assert step == 4
    assert "ema" in state
    assert_equal(jax.device_get(state), jax.device_get(wanted))


def test_what_is_restored_and_converted_of_a_run_is_its_average(aided):
    config, workdir = aided
    other = config.copy_and_resolve_references()
    other.train.ema = 0.0  # a config of the same network: the run says what it has
    _, _, state = restore_run(other, workdir, "latest", make_mesh(data=1, space=-1))
    state = jax.device_get(state)
    wanted = torch_state({"params": state["ema"], "batch_stats": state["batch_stats"]}, 4)
    assert_equal(trained(other, workdir, "latest"), wanted)
    assert not np.array_equal(state["ema"]["head"]["classifier"]["conv"]["kernel"],
                              state["params"]["head"]["classifier"]["conv"]["kernel"])  # fmt: skip


def test_the_average_is_what_is_evaluated(aided):
    config, workdir = aided
    mesh = make_mesh(data=1, space=-1)
    _, graph, state = restore_run(config, workdir, "latest", mesh)
    state["params"], state["ema"] = state["ema"], jax.tree.map(jnp.negative, state["params"])
    inference, source = Inference(graph, config, mesh), build_source(config, "eval")

    def confusion(state):
        return evaluate(inference, state, source, config, mesh).scores["whole"].confusion

    negative = {"params": state["ema"], "batch_stats": state["batch_stats"]}
    np.testing.assert_array_equal(confusion(state), confusion(negative))
    assert (confusion(state) != confusion(negative | {"params": state["params"]})).any()


@pytest.mark.parametrize(("ema", "message"), [(0.0, "0.25 there and 0.0 here"), (0.5, "0.25 there and 0.5 here")])
def test_a_run_cannot_get_or_lose_its_average(aided, ema, message):
    config, workdir = aided
    config = config.copy_and_resolve_references()
    config.train.ema = ema
    with pytest.raises(UserError, match=f"train.ema is {message}: choose another --workdir, or set it back"):
        train(config, workdir)


# Frozen stages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "frozen_stages"),
    [
        ("deeplabv3plus", 2),
        pytest.param("deeplabv3plus", 4, marks=pytest.mark.slow),
        pytest.param("segformer", 1, marks=pytest.mark.slow),
        ("segnext", 4),
        pytest.param("segnext", 1, marks=pytest.mark.slow),
    ],
)
def test_what_is_frozen_stays_to_the_bit_and_the_rest_moves(network, frozen_stages):
    config = tiny_config(network)
    config.train.update(frozen_stages=frozen_stages, ema=0.1)
    config.optim.update(weight_decay=0.1, lr=1e-2, warmup_steps=0)
    start, *_, end = states(config, 2)
    for name in ("params", "batch_stats", "ema"):
        before, after = by_path(start[name]), by_path(end[name])
        for path in before:
            if part(path) <= frozen_stages:
                np.testing.assert_array_equal(before[path], after[path], err_msg=path)
            elif path.endswith((".kernel", ".mean", ".var")):
                assert (before[path] != after[path]).any(), path
    moments = [by_path(x) for x in jax.tree.leaves(end["opt_state"], is_leaf=lambda x: isinstance(x, dict))]
    moments = [tree for tree in moments if "head.classifier.conv.kernel" in tree]
    assert moments
    for path in by_path(start["params"]):
        if part(path) <= frozen_stages:
            assert not any(tree[path].any() for tree in moments), path


class NormAtTest(BatchNorm):
    def __call__(self, x, train):
        return super().__call__(x, train=False)


def gradients(config, at_test=-1):
    """Of the loss on noise, with the BatchNorms of the parts up to `at_test` as they are at test, in float64."""
    rng = np.random.default_rng(0)
    graph, weights = split_model(build_model(config))
    weights = jax.tree.map(lambda x: x + 0.01 * np.abs(rng.standard_normal(x.shape)), weights)
    images, labels = rng.standard_normal((2, 65, 97, 3)), rng.integers(0, 19, (2, 65, 97), np.uint8)

    def loss(params):
        model = merge_model(graph, weights | {"params": params})
        for path, module in nnx.iter_modules(model):
            if isinstance(module, BatchNorm) and part(".".join(map(str, path)) + ".") <= at_test:
                module.__class__ = NormAtTest
        how = {"objective": build_objective(config), "auxiliary_weight": config.loss.auxiliary_weight}
        return segmentation_loss(model, images, labels, key=jax.random.key(0), **how)[0]

    return by_path(jax.jit(jax.grad(loss))(weights["params"]))


@pytest.mark.parametrize(
    ("network", "stages"),
    [
        ("pspnet", 1),
        pytest.param("segformer", 0, marks=pytest.mark.slow),
        pytest.param("segnext", 2, marks=pytest.mark.slow),
    ],
)
def test_the_rest_has_the_gradients_of_a_network_that_is_in_part_at_test(network, stages):
    config = tiny_config(network)
    if "drop_path" in config.model.backbone:
        config.model.backbone.drop_path = 0.0
    with jax.enable_x64(True):
        wanted = gradients(config, at_test=stages)
        config.train.frozen_stages = stages
        found = gradients(config)
    for path, gradient in found.items():
        if part(path) <= stages:
            assert not gradient.any(), path
        else:
            np.testing.assert_allclose(gradient, wanted[path], rtol=0, atol=1e-12, err_msg=path)


@pytest.mark.parametrize("network", BACKBONES)
def test_frozen_stages_give_in_training_what_they_give_at_test(network):
    """Stochastic depth, and what blocks keep for a backward pass, are off as well."""
    config = tiny_config(network)
    config.train.update(frozen_stages=2, keep=("inputs",) * 4)
    if "drop_path" in config.model.backbone:
        config.model.backbone.update(depths=(2, 2, 1, 1), drop_path=0.9)
    graph, weights = split_model(build_model(config))
    images = np.random.default_rng(0).standard_normal((4, 33, 33, 3), np.float32)

    @partial(jax.jit, static_argnums=0)
    def maps(train):
        return merge_model(graph, weights).backbone(images, train, jax.random.key(0))

    for i, (found, wanted) in enumerate(zip(maps(True), maps(False), strict=True)):
        assert bool(np.allclose(found, wanted, rtol=1e-4, atol=1e-6)) == (i < 2), i


def test_at_test_gradients_pass_what_is_frozen():
    """Instruments ask for the gradient of the image."""
    config = tiny_config()
    config.train.frozen_stages = 4
    graph, weights = split_model(build_model(config))
    image = np.random.default_rng(0).standard_normal((1, 33, 33, 3), np.float32)
    assert jax.jit(jax.grad(lambda x: merge_model(graph, weights)(x).logits.sum()))(image).any()


def test_frozen_stages_cost_neither_memory_nor_operations_on_the_way_back():
    def cost(frozen_stages):
        config = tiny_config()
        config.train.frozen_stages = frozen_stages
        graph, weights = split_model(build_model(config).backbone)

        def total(params):
            return merge_model(graph, weights | {"params": params})(jnp.ones((2, 65, 65, 3)), True)[-1].sum()

        program = jax.jit(jax.grad(total)).lower(weights["params"]).compile()
        return program.cost_analysis()["flops"], program.memory_analysis().temp_size_in_bytes

    (operations, memory), (all_operations, all_memory) = cost(3), cost(-1)
    assert operations < 0.7 * all_operations
    assert memory < 0.7 * all_memory


# All of it, in parts ---------------------------------------------------------------------------------------


def test_an_accumulated_step_averages_and_freezes_as_a_whole_one_does():
    config = tiny_config()
    config.train.update(dtype="float64", ema=0.25, frozen_stages=1)
    config.optim.layer_decay = 0.5
    config.model.norm.groups = 2
    config.model.head.dropout = config.model.auxiliary.dropout = 0.0
    with jax.enable_x64(True):
        start, *_, whole = states(config, 3)
        config.train.accumulate = 2
        parted = states(config, 3)[-1]
    for name in ("params", "batch_stats", "ema"):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-10), parted[name], whole[name])
    stats = by_path(start["batch_stats"])
    for path, stat in by_path(parted["batch_stats"]).items():
        assert (stat == stats[path]).all() == (part(path) <= 1), path


# The early end ---------------------------------------------------------------------------------------------


def unmoved_config():
    """Of a run that changes nothing, evaluated after each of 6 steps: every score is the first one."""
    config = tiny_config()
    config.train.update(steps=6, checkpoint_every=1)
    config.optim.update(lr=0.0, min_lr=0.0)
    config.model.norm.momentum = 1.0
    config.eval.update(every=1, modes=("whole",), stop_after=2, panels=0)
    return config


def evaluations(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "eval/whole/miou" in line]


def test_a_run_without_a_better_score_ends_and_stays_ended(tmp_path, monkeypatch, capsys):
    config = unmoved_config()
    interrupted(monkeypatch, config, tmp_path, before=3)  # after step 1 and perhaps 2
    assert train(config, tmp_path) is not None
    assert evaluations(tmp_path) == [1, 2, 3]
    line = "step 3: no whole/miou above that of step 1 since then, training ends (eval.stop_after = 2)"
    assert capsys.readouterr().out.count(line) == 1
    checkpoints = Checkpoints(tmp_path / "checkpoints", best=config.eval.best)
    assert checkpoints.steps() == [1, 2, 3]
    assert checkpoints.evaluated(3)
    assert not (tmp_path / "checkpoints" / "room").exists()

    assert train(config, tmp_path) is None
    assert "finished already, 3 of 6 steps; raise eval.stop_after to go on" in capsys.readouterr().out
    config.eval.stop_after = 3
    train(config, tmp_path)
    assert evaluations(tmp_path) == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_better_score_begins_the_count_anew(tmp_path, monkeypatch):
    config = unmoved_config()
    scores = iter([0.2, 0.1, 0.3, 0.3, 0.29])
    monkeypatch.setattr(loop, "summarize", lambda _: {"whole/miou": next(scores)})
    train(config, tmp_path)
    assert evaluations(tmp_path) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("stop_after", "best_step", "step", "over"),
    [(0, 0, 800, False), (2, 100, 299, False), (2, 100, 300, True), (2, 100, 400, True), (2, 0, 200, True)],
)
def test_patience_is_counted_in_evaluations(stop_after, best_step, step, over):
    config = tiny_config()
    config.eval.update(every=100, stop_after=stop_after)
    assert outlived(best_step, step, config.eval) is over
