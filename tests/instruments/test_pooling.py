"""Cells against loops over the map, shifts against known distributions, and windows against cut-out crops."""

import math
from dataclasses import replace
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_config

from cropjax.instruments import pooling
from cropjax.instruments.pooling import (
    cells,
    paired_error,
    places,
    pooled_vectors,
    section,
    shift,
    steps,
    windowed_vectors,
)
from cropjax.instruments.subject import FULL, QUICK, Subject, drawn_weights, normalized

pytestmark = pytest.mark.usefixtures("quick_compile")


@settings(max_examples=30)
@given(st.integers(33, 1100), st.integers(33, 1100), st.sampled_from([1, 2, 3, 6]), st.sampled_from([8, 16]))
def test_cells_are_counted_position_by_position(h, w, scale, stride):
    found = cells(scale, (h, w), stride)
    size = [len(range(0, side, stride)) for side in (h, w)]  # a position every `stride` pixels, from the first on
    covered = []
    for side in size:
        edges = [(math.floor(i * side / scale), math.ceil((i + 1) * side / scale)) for i in range(scale)]
        covered.append([set(range(*edge)) for edge in edges])
    rows, columns = ([len(one) for one in cells] for cells in covered)
    assert found.size == tuple(size)
    assert found.sides == (tuple(sorted(set(rows))), tuple(sorted(set(columns))))
    assert found.pixels == (min(stride * max(rows), h), min(stride * max(columns), w))
    assert found.area == pytest.approx(np.mean([a * b for a in rows for b in columns]) / math.prod(size))
    shared = [len(a & b) for one in covered for a, b in pairwise(one)]
    assert found.overlap == max(shared, default=0)


def test_a_cell_is_the_same_share_of_any_map():
    """What the study takes for a difference between crops is rounding."""
    for scale in (1, 2, 3, 6):
        shares = [cells(scale, (side, side), 8).area for side in (384, 768, 960, 1920)]
        np.testing.assert_allclose(shares, 1 / scale**2)


def test_shift_of_known_distributions():
    rng = np.random.default_rng(0)
    train, test = rng.normal(0, 1, (20000, 3)), rng.normal((0, 1, -2), (1, 2, 0.5), (20000, 3))
    found = shift(train, test, np.array([1, 2, 4]))
    np.testing.assert_allclose(found.mean, (0, 0.5, 0.5), atol=0.03)
    np.testing.assert_allclose(found.variance, (1, 4, 0.25), rtol=0.05)


def test_variances_of_few_vectors_are_unbiased_and_those_of_none_are_undefined():
    rng = np.random.default_rng(0)
    train, test = rng.normal(0, 1, (1000, 20000)), rng.normal(0, 1, (3, 20000))
    assert shift(train, test, np.ones(20000)).variance.mean() == pytest.approx(1, abs=0.03)
    assert np.isnan(shift(train, test[:1], np.ones(20000)).variance).all()
    train[:, 0] = 1
    found = shift(train, test, train.std(0))
    assert np.isnan([found.mean[0], found.variance[0]]).all()
    assert np.isfinite([found.mean[1:], found.variance[1:]]).all()


def test_the_error_is_how_much_the_difference_varies_from_draw_to_draw():
    """Not with what one scene has more of than another: that is in the crops and in the whole images."""
    rng = np.random.default_rng(0)
    scenes = rng.normal(0, 9, (4, 1, 20000))
    train, test = scenes + rng.normal(0, 2, (4, 3, 20000)), scenes + rng.normal(1, 1, (4, 5, 20000))
    error = paired_error(train, test, np.full(20000, 2.0))
    difference = (test.mean((0, 1)) - train.mean((0, 1))) / 2
    expected = (2**2 / 12 + 1**2 / 20) ** 0.5 / 2
    assert difference.std() == pytest.approx(expected, rel=0.02)
    assert np.square(error).mean() ** 0.5 == pytest.approx(expected, rel=0.02)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_crops_lie_inside_and_evenly_along_both_sides(seed):
    size, crop = np.array((96, 203)), (33, 60)
    found = places(size, crop, seed=(0, seed))
    assert (found >= 0).all()
    assert (found + crop <= size).all()
    strata = np.floor(len(found) * (found + 0.5) / (size - crop + 1))
    assert all(sorted(axis) == list(range(len(found))) for axis in strata.T)


def test_windows_of_the_crop_give_the_vectors_of_the_crops_around_the_places(monkeypatch):
    """A backbone that looks at each pixel alone: a crop's map is then a part of the whole image's."""

    def last_map(images):
        return jnp.tanh(images[:, ::4, ::4] @ np.array([[1.0, -1, 0.5, 2], [0, 2, 1, -1], [3, 0, 1, 1]]))

    monkeypatch.setattr(pooling, "_PLACES", 100)  # all of them
    image = np.random.default_rng(1).normal(size=(1, 36, 44, 3))
    x = last_map(image)  # 9x11
    crop = (20, 28)  # 5x7
    found = windowed_vectors(x, 1, (5, 7), align_corners=False).reshape(9, 11, 4)
    for y, z in np.ndindex(9, 11):
        top, left = (4 * min(max(p - half, 0), most) for p, half, most in ((y, 2, 4), (z, 3, 4)))
        expected = pooled_vectors(last_map(image[:, top : top + crop[0], left : left + crop[1]]), 1)
        np.testing.assert_allclose(found[y, z], expected[0], atol=1e-6)
    whole = windowed_vectors(x, 2, (9, 11), align_corners=False)
    expected = pooled_vectors(x, 2)
    nearest = np.abs(whole[:, None] - expected).max(-1).argmin(1)
    np.testing.assert_allclose(whole, expected[nearest], atol=1e-6)  # nothing but cells of the map,
    assert set(nearest) == {0, 1, 2, 3}  # and all of them


@pytest.mark.parametrize(("name", "pool_norm"), [("pspnet", True), ("deeplabv3plus", False), ("segformer", True)])
def test_steps_and_section(name, pool_norm):
    config = tiny_config(name)
    if name != "segformer":
        config.model.head.pool_norm = pool_norm
    image = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    graph, weights = drawn_weights(config, normalized(image))
    sets = {"drawn": weights, "trained": weights}
    subject = Subject("tiny", config, graph, sets, ((48, 48), (49, 97)), (96, 192))
    names = {budget: [step.name for step in steps(replace(subject, budget=budget))] for budget in (QUICK, FULL)}
    results = [step.measure() for step in steps(replace(subject, budget=replace(FULL, images=1)))]
    report = section(subject, results)
    if name == "segformer":
        assert report is None
        assert names == {QUICK: [], FULL: []}
        return
    assert names == {QUICK: ["pooling/trained"], FULL: ["pooling/drawn", "pooling/trained"]}
    scales = 4 if name == "pspnet" else 1
    cells_table, shifts = report.tables
    assert len(cells_table.rows) == scales * 3
    assert len(shifts.rows) == scales * 2 * 2 * 2 * 2
    assert all(len(row) == len(table.columns) for table in report.tables for row in table.rows)
    assert all(np.isfinite(value) for row in shifts.rows for value in row[5:])
    assert {row[3:5] for row in shifts.rows} == {(a, b) for a in ("after", "before") for b in ("whole image", "window")}
    assert [found.size for found in results[0].cells[:3]] == [(3, 3), (4, 7), (6, 12)]
    assert ("its norm's" if pool_norm else "the crops'") in report.words
    assert f"Of these {scales * 2 * 2} moves" in report.words
