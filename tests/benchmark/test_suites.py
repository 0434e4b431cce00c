"""The suites on a tiny SegFormer, without rivals."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from tiny import tiny_config

from cropjax.benchmark import suites
from cropjax.benchmark.opponents import Opponents
from cropjax.benchmark.programs import Programs, count_flop
from cropjax.benchmark.startup import CONFIG, self_contained
from cropjax.benchmark.suites import SUITES, Session, _planned_bytes
from cropjax.errors import UserError
from cropjax.validation import validate


@pytest.fixture(scope="module")
def session(tmp_path_factory, quick_compile):
    programs = Programs(tiny_config("segformer", crop_size=(32, 32)))
    sizes = dict(image_size=(48, 64), crops=(32, 64), batches=(1, 2), memory_bytes=2**28)
    opponents = Opponents([], programs, tmp_path_factory.mktemp("files"))
    return Session(programs, opponents, rounds=1, matrix=64, forward_batch=1, **sizes)


def test_state_is_carried_on_from_step_to_step(session):
    program = session.programs.train(session.programs.batch(2, (32, 32)))
    for step in (1, 2):
        program.run()
        assert program.arguments[0]["step"] == step


def test_flop_of_a_product():
    flop = count_flop(jax.jit(jnp.matmul), jnp.ones((8, 16)), jnp.ones((16, 32)))
    assert flop == 2 * 8 * 16 * 32


def test_flop_of_a_backend_that_does_not_count(session, monkeypatch):
    step = session.programs.train(session.programs.batch(2, (32, 32)))
    counted = count_flop(step.jitted, *step.arguments)
    counts, silence = jax.stages.Lowered.cost_analysis, iter([None])  # a GPU's client is asked first
    monkeypatch.setattr(jax.stages.Lowered, "cost_analysis", lambda lowered: next(silence, counts(lowered)))
    assert count_flop(step.jitted, *step.arguments) == pytest.approx(counted, rel=1e-3)


def test_evaluation(session):
    whole, slide = SUITES["evaluate"](session)
    assert (whole.what, slide.what) == ("whole 1x48x64 float32", "slide 1x48x64 float32")
    # Windows of 32x32 every 16: 2 x 3 of them, each a third of the image.
    assert slide.flop == pytest.approx(2 * whole.flop, rel=0.2)


def test_memory(session):
    state = sum(leaf.nbytes for leaf in jax.tree.leaves(session.programs.weights["params"]))
    assert 3 * state < _planned_bytes(session.programs, 2, (32, 32)) < 2**28  # parameters and AdamW's two moments


COST = {"everything": 30, "convolutions": 20, "inputs": 10}


def test_largest_batch(session, monkeypatch):
    monkeypatch.setattr(suites, "_planned_bytes", lambda p, n, size: 100 + COST[p.config.train.keep[0]] * n)
    session = dataclasses.replace(session, memory_bytes=1000.0)
    rows = list(SUITES["memory"](session))
    assert [row.what for row in rows] == [f"train 32x32, keep {keep}" for keep in COST]
    assert [row.values["fixed_bytes"] for row in rows] == [100, 100, 100]
    assert [row.values["image_bytes"] for row in rows] == [30, 20, 10]
    assert [row.values["largest_batch"] for row in rows] == [30, 45, 90]


def test_input(session, monkeypatch):
    monkeypatch.setattr(suites, "IMAGES_A_ROUND", 8)
    (row,) = SUITES["input"](session)
    assert row.values["images_per_second"] == pytest.approx(8 / row.times.median())
    assert 0 < row.values["decoding_share"] < 1


def test_scaling(session, monkeypatch):
    monkeypatch.setattr(suites, "train", suites.forward)  # which compiles sooner
    rows = list(SUITES["scaling"](session))
    forward = [row.point["pixels"] for row in rows if row.point and row.point["kind"] == "forward"]
    assert forward == [32 * 32, 64 * 64, 32 * 32, 2 * 32 * 32]
    assert [row.what for row in rows if row.values] == [
        "forward over crops, ours",
        "forward over batches, ours",
        "train over crops, ours",
    ]


def test_a_batch_that_does_not_divide(session):
    programs = Programs(session.config)
    programs._check(1)
    programs.mesh = type("Mesh", (), {"shape": {"data": 2}})
    with pytest.raises(UserError, match="a batch of 3"):
        programs._check(3)


def test_a_config_that_starts_anywhere(tmp_path):
    config = tiny_config("segformer", source="cityscapes")
    config.init_from = "nowhere.pth"
    alone = self_contained(config)
    assert (alone.data.source, alone.init_from) == ("streets", "")
    assert (config.data.source, config.init_from) == ("cityscapes", "nowhere.pth")
    own = self_contained(tiny_config(source="folders", classes=("a", "b"), root=str(tmp_path)))
    assert validate(own).data.source == "streets"
    compile(CONFIG.format(folder=str(tmp_path)), "startup.py", "exec")
