"""Proposals against counting, padded crops against the training transform's own draws, and what configs differ in."""

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_config

from cropjax.config import defaults
from cropjax.data.transforms import draw_scale, rescaled_size
from cropjax.instruments.advice import (
    advise,
    confounds,
    derived,
    differing,
    keeping_rate,
    keeping_scale,
    padded_share,
    section,
    steps,
)
from cropjax.instruments.subject import Subject

CONFIGS = Path(__file__).parents[2] / "configs"


def config_of(name):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()


def mean_taps(rate, side):
    """Counted tap by tap along one axis: the kernel is square, and so is the map."""
    inside = [sum(0 <= i + k * rate < side for k in (-1, 0, 1)) for i in range(side)]
    return np.mean(inside) ** 2


@pytest.mark.parametrize("rate", [12, 24, 36])
def test_a_rate_keeps_the_mean_number_of_taps(rate):
    found = keeping_rate(rate, (64, 64), (97, 97))
    wanted = mean_taps(rate, 97)
    errors = {r: abs(mean_taps(r, 64) - wanted) for r in range(1, 65)}
    assert found == min(errors, key=errors.get)
    assert keeping_rate(rate, (97, 97), (97, 97)) == rate


@pytest.mark.parametrize("scale", [1, 2, 3, 6])
def test_a_scale_keeps_the_side_of_its_cells(scale):
    def side(scale, length):
        return np.mean([math.ceil((i + 1) * length / scale) - i * length // scale for i in range(scale)])

    found = keeping_scale(scale, (64, 64), (97, 97))
    errors = {s: abs(math.log(side(s, 64) / side(scale, 97))) for s in range(1, 65)}
    assert errors[found] == min(errors.values())
    assert keeping_scale(scale, (97, 97), (97, 97)) == scale


def test_advice_for_the_studys_crops():
    found = advise(config_of("deeplab_512"), (512, 512), (769, 769))
    assert [row[:2] for row in found.rows] == [("rate 12", 12), ("rate 24", 24), ("rate 36", 36)]
    assert [row[3] for row in found.rows] == [round(rate * 64 / 97) for rate in (12, 24, 36)]
    assert advise(config_of("segnext_b_512"), (64, 64), (96, 96)).rows == ()


@pytest.mark.parametrize(("name", "expected"), [("pspnet_512", 0), ("pspnet_769", 0.17)])
def test_padded_crops_are_those_of_the_transform(name, expected):
    config = config_of(name)
    padded, valid = padded_share(config)
    rng = np.random.default_rng(0)
    drawn = [draw_scale(config.data.scale, config.data.ratio_range, rng) for _ in range(4000)]
    sizes = np.array([rescaled_size((1024, 2048), scale) for scale in drawn])
    inside = np.minimum(sizes, config.data.crop_size)
    counted = (inside < config.data.crop_size).any(1).mean()
    assert padded == pytest.approx(counted, abs=0.02)
    assert padded == pytest.approx(expected, abs=0.005)
    assert valid == pytest.approx((inside.prod(1) / np.prod(config.data.crop_size)).mean(), abs=0.005)


def test_two_configs_differ_in_these_fields():
    a, b = config_of("pspnet_512"), config_of("pspnet_769")
    names = [name for name, _, _ in differing(a, b)]
    assert names == ["data.crop_size", "data.scale", "eval.best", "eval.modes", "model.align_corners"]
    assert differing(a, a) == []
    other = a.copy_and_resolve_references()
    other.model.head.pool_scales = (1, 2)
    assert differing(a, other) == [("model.head.pool_scales", (1, 2, 3, 6), (1, 2))]


def test_what_fields_imply():
    found = derived(config_of("pspnet_769"))
    assert found["last map"] == "97x97"
    assert found["positions a BatchNorm group, last map"] == 2 * 97 * 97
    assert found["images seen"] == 160_000
    assert found["test"] == "slide (769, 769) by (513, 513)"
    table = confounds(config_of("pspnet_512"), config_of("pspnet_769"))
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["data.crop_size"] == ("(512, 512)", "(769, 769)", "field")
    assert rows["last map"] == ("64x64", "97x97", "derived")
    assert "images seen" not in rows
    other = confounds(defaults("pspnet"), defaults("segformer"))
    assert ("optim.momentum", "0.9", "absent", "field") in other.rows


def test_steps_and_section():
    for name, rows in (("pspnet", 4), ("deeplabv3plus", 3), ("segformer", 0)):
        config = tiny_config(name)
        subject = Subject("tiny", config, None, {}, ((33, 33), (49, 65)), (64, 128))
        results = [step.measure() for step in steps(subject)]
        report = section(subject, results)
        assert (report is None) == (rows == 0)
        if report:
            assert len(report.tables[0].rows) == rows
        other = section(subject, results, other=("other", confounds(config, tiny_config(name, crop_size=(49, 49)))))
        assert "tiny and other differ in 1 field, from which" in other.words
