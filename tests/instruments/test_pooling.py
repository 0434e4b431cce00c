"""Cells against loops over the map, shifts against known distributions, and windows against cut-out crops."""

import math
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_config

from cropjax.instruments.pooling import cells, section, shift, steps
from cropjax.instruments.subject import Subject, drawn_weights, normalized
from cropjax.ops.pool import adaptive_average_pool, windowed_average_pools

pytestmark = pytest.mark.usefixtures("quick_compile")


@settings(max_examples=30)
@given(st.integers(6, 200), st.integers(6, 200), st.sampled_from([1, 2, 3, 6]))
def test_cells_are_counted_position_by_position(h, w, scale):
    found = cells(scale, (8 * h, 8 * w), (h, w))
    covered = []
    for side in (h, w):
        edges = [(math.floor(i * side / scale), math.ceil((i + 1) * side / scale)) for i in range(scale)]
        covered.append([set(range(*edge)) for edge in edges])
    rows, columns = ([len(one) for one in cells] for cells in covered)
    assert found.sides == (tuple(sorted(set(rows))), tuple(sorted(set(columns))))
    assert found.pixels == 8 * max(rows + columns)
    assert found.area == pytest.approx(np.mean([a * b for a in rows for b in columns]) / (h * w))
    shared = [len(a & b) for one in covered for a, b in pairwise(one)]
    assert found.overlap == max(shared, default=0)


def test_a_cell_is_the_same_share_of_any_map():
    """What the study takes for a difference between crops is rounding."""
    for scale in (1, 2, 3, 6):
        shares = [cells(scale, (8 * side, 8 * side), (side, side)).area for side in (48, 96, 120, 240)]
        np.testing.assert_allclose(shares, 1 / scale**2)


def test_shift_of_known_distributions():
    rng = np.random.default_rng(0)
    train, test = rng.normal(0, 1, (20000, 3)), rng.normal((0, 1, -2), (1, 2, 0.5), (20000, 3))
    found = shift(train, test, np.array([1, 2, 4]))
    np.testing.assert_allclose(found.mean, (0, 0.5, 0.5), atol=0.03)
    np.testing.assert_allclose(found.variance, (1, 4, 0.25), rtol=0.05)


def test_windows_of_the_crop_give_the_vectors_of_the_crops_in_their_middle():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 9, 11, 4)))
    ((pooled, weights),) = windowed_average_pools(x, 1, (5, 5), align_corners=False)
    assert (weights == 1).all()
    crop = x[:, 2:7, 4:9]  # its middle is at (4, 6)
    np.testing.assert_allclose(pooled[:, 4, 6], adaptive_average_pool(crop, 1)[:, 0, 0], atol=1e-6)


@pytest.mark.parametrize(("name", "pool_norm"), [("pspnet", True), ("deeplabv3plus", False), ("segformer", True)])
def test_steps_and_section(name, pool_norm):
    config = tiny_config(name)
    if name != "segformer":
        config.model.head.pool_norm = pool_norm
    image = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    graph, weights = drawn_weights(config, normalized(image))
    subject = Subject("tiny", config, graph, {"drawn": weights}, ((48, 48), (49, 97)), (96, 192))
    results = [step.measure() for step in steps(subject)]
    report = section(subject, results)
    if name == "segformer":
        assert report is None
        return
    scales = 4 if name == "pspnet" else 1
    cells_table, shifts = report.tables
    assert len(cells_table.rows) == scales * 3
    assert len(shifts.rows) == scales * 2 * 2
    assert all(np.isfinite(value) for row in shifts.rows for value in row[4:])
    assert "deviations on the whole image" in report.words
