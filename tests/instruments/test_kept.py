"""What is kept comes back as it was, and what cannot is measured again."""

import dataclasses

import numpy as np
import pytest
from tiny import tiny_config

from cropjax.instruments.advice import Advice
from cropjax.instruments.kept import Kept, identity
from cropjax.instruments.pooling import Cells, Pooled, Pools, Shift
from cropjax.instruments.receptive_field import Field, Fields
from cropjax.instruments.subject import Step


def equal(a, b):
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and equal(vars(a), vars(b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


FIELDS = Fields((Field("stage 1", (39, None), (4.0, 4.0), (0.0, 1.5)),), ())
POOLS = Pools(
    (Cells(6, (512, 512), (64, 64), ((11, 12), (11, 12)), 1, 96, 0.03),),
    (Pooled("drawn", (512, 512), 6, *[Shift(np.arange(3.0), np.ones(2, np.float32))] * 2),),
)


@pytest.mark.parametrize("value", [FIELDS, POOLS, Advice((1, 2), (3, 4), (("rate 12", 12, 8, 8),))])
def test_a_measurement_comes_back_and_is_made_once(tmp_path, value):
    made = []

    def measure():
        made.append(1)
        return value

    step = Step("a/b/c", type(value), 0.0, measure)
    for _ in range(2):
        assert equal(Kept(tmp_path, "x").get(step), value)
    assert len(made) == 1
    assert equal(Kept(tmp_path, "y").get(step), value)  # another identity
    assert len(made) == 2
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["a.b.c.npz"]


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"x" * 50])
def test_a_damaged_file_is_measured_again(tmp_path, damage):
    step = Step("a", Fields, 0.0, lambda: FIELDS)
    Kept(tmp_path, "x").get(step)
    path = tmp_path / "x" / "a.npz"
    path.write_bytes(damage(path.read_bytes()))
    assert equal(Kept(tmp_path, "x").get(step), FIELDS)
    assert equal(Kept(tmp_path, "x").get(Step("a", Fields, 0.0, None)), FIELDS)  # and kept


def test_a_file_of_another_kind_is_measured_again(tmp_path):
    Kept(tmp_path, "x").get(Step("a", Fields, 0.0, lambda: FIELDS))
    assert equal(Kept(tmp_path, "x").get(Step("a", Pools, 0.0, lambda: POOLS)), POOLS)


def test_identity_is_of_config_weights_and_code():
    weights = {"drawn": {"params": {"a": np.arange(3.0)}}}
    one = identity(tiny_config(), weights, commit="a")
    assert one == identity(tiny_config(), weights, commit="a")
    assert one != identity(tiny_config(threads=2), weights, commit="a")
    assert one != identity(tiny_config(), {"drawn": {"params": {"a": np.arange(1.0, 4)}}}, commit="a")
    assert one != identity(tiny_config(), weights, commit="b")
