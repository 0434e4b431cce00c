"""Factorisations whose error and rank are known, the floor against a singular value decomposition, and the network."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_config

from cropjax.instruments.factorization import effective_rank, fit, floor, section, steps
from cropjax.instruments.subject import FULL, QUICK, Subject, drawn_weights, normalized
from cropjax.models import segnext
from cropjax.ops.nmf import draw_bases, nmf
from cropjax.step import merge_model

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")


def draw(*shape):
    return np.random.default_rng(shape).uniform(size=shape)


def bases(seeds, d, rank):
    return np.asarray(draw_bases(jax.random.key(0), seeds, d, rank), float)


@settings(max_examples=6)
@given(p=st.integers(1, 12), d=st.integers(1, 7), rank=st.integers(1, 8))
def test_no_factorisation_is_below_the_floor_and_shares_are_shares(p, d, rank):
    found = fit(draw(p, d), bases(2, d, rank), 3)
    assert found.floor.shape == (rank,)
    assert found.energy.shape == found.spectrum.shape == (2, rank)
    assert (found.error >= found.floor[-1] - 1e-7).all()
    assert (np.diff(found.floor) <= 1e-12).all()
    for shares in (found.energy, found.spectrum):
        np.testing.assert_allclose(shares.sum(-1), 1)
        assert (np.diff(shares) <= 1e-12).all()
        assert (effective_rank(shares) <= rank + 1e-9).all()
        assert (effective_rank(shares) >= 1 - 1e-9).all()
    assert found.change[0] == 0


@settings(max_examples=6)
@given(p=st.integers(1, 12), d=st.integers(1, 7), rank=st.integers(1, 9))
def test_the_floor_is_that_of_the_singular_value_decomposition(p, d, rank):
    x = draw(p, d)
    u, values, v = np.linalg.svd(x, full_matrices=False)
    best = [np.linalg.norm(x - (u[:, :r] * values[:r]) @ v[:r]) / np.linalg.norm(x) for r in range(1, rank + 1)]
    np.testing.assert_allclose(floor(x, rank), best, atol=1e-7)


def test_blocks_are_found_exactly_and_counted():
    """A matrix of as many blocks apart as there are bases: one base each, and as many directions."""
    x = np.kron(np.eye(3), np.ones((4, 2)))
    found = fit(x, bases(3, 6, 3), 100)
    np.testing.assert_allclose(found.floor, [np.sqrt(2 / 3), np.sqrt(1 / 3), 0], atol=1e-7)
    assert found.error.min() < 1e-4
    best = found.error.argmin()
    assert effective_rank(found.energy)[best] == pytest.approx(3, rel=1e-3)
    assert effective_rank(found.spectrum)[best] == pytest.approx(3, rel=1e-3)


def test_bases_that_are_alike_are_one_direction():
    x = draw(9, 1) @ draw(1, 5)
    found = fit(x, np.repeat(bases(1, 5, 1), 4, axis=2), 5)
    assert found.error == pytest.approx(0, abs=1e-4)
    np.testing.assert_allclose(found.floor, 0, atol=1e-7)
    assert effective_rank(found.energy) == pytest.approx(4)
    assert effective_rank(found.spectrum) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("rank", [1, 2])
def test_a_matrix_of_low_rank_has_no_more_directions(rank):
    x = draw(12, rank) @ draw(rank, 6)
    found = fit(x, bases(2, 6, 4), 100)
    assert (found.error < 0.01).all()
    assert found.floor[rank - 1] < 1e-7
    assert (effective_rank(found.spectrum) <= rank + 0.01).all()


def test_change_is_the_distance_of_two_draws():
    x, start = draw(8, 5), bases(2, 5, 2)
    found = fit(x, start, 2)
    one, other = (np.asarray(nmf(x[None], b[None], 2)[0]) for b in start)
    assert found.change[1] == pytest.approx(np.linalg.norm(other - one) / np.linalg.norm(one))
    assert found.error[1] == pytest.approx(np.linalg.norm(x - other) / np.linalg.norm(x))


def test_of_zeros_all_is_zero():
    found = fit(np.zeros((4, 5)), bases(1, 5, 3), 2)
    assert not any(values.any() for values in (found.error, found.floor, found.energy, found.spectrum, found.change))


def subject(name, **given):
    config = tiny_config(name)
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    graph, weights = drawn_weights(config, normalized(image))
    args = {"weight_sets": {"drawn": weights}, "crops": ((64, 64), (96, 64)), "test_size": (96, 160), "budget": QUICK}
    return Subject("tiny", config, graph, **(args | given))


def test_the_first_draw_is_what_the_network_computes(monkeypatch):
    tiny, seen = subject("segnext"), []
    found = steps(tiny)[0].measure()
    monkeypatch.setattr(segnext, "nmf", lambda *operands: (seen.append(operands), operands[0])[1])

    @jax.jit
    def factorised(weights, images):
        merge_model(tiny.graph, weights)(images)
        return seen[0][:2]

    x, start = factorised(tiny.weights, normalized(tiny.crop(0, (64, 64))[2]))
    count = seen[0][2]
    assert found.steps == count
    assert found.map_size == (8, 8)
    expected = fit(x[0], np.asarray(start), count)
    np.testing.assert_allclose(found.fit.error[0], expected.error[0], rtol=1e-4)
    np.testing.assert_allclose(found.fit.floor, expected.floor, rtol=1e-4)
    assert (found.fit.change[1:] > 1e-4).all()


def test_steps_and_section():
    tiny = subject("segnext")
    results = [step.measure() for step in steps(tiny)]
    assert [r.image_size for r in results] == [(64, 64), (96, 64), (96, 160)]
    report = section(tiny, results)
    assert "rank 16" in report.words
    assert f"{results[-1].fit.floor[-1]:.1%}" in report.words
    assert len(report.tables[0].rows) == 3
    assert len(report.tables[1].rows) == 3 * 16
    for table in report.tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
    assert report.figure.startswith("<svg")
    many = steps(subject("segnext", budget=FULL, weight_sets={"drawn": tiny.weights, "trained": tiny.weights}))
    assert len({step.name for step in many}) == len(many) == 2 * 3 * FULL.images


def test_means_of_images():
    tiny = subject("segnext", crops=((64, 64),), test_size=(64, 64), budget=FULL)
    results = [step.measure() for step in steps(tiny)[:2]]
    (row,) = section(tiny, results).tables[0].rows
    errors = [r.fit.error.mean() for r in results]
    assert row[5] == pytest.approx(np.mean(errors))
    assert row[7] == pytest.approx(np.std(errors))
    assert row[7] > 0


@pytest.mark.parametrize("name", ["pspnet", "deeplabv3plus", "segformer"])
def test_other_networks_have_none(name):
    config = tiny_config(name)
    tiny = Subject("tiny", config, None, {"drawn": {}}, ((64, 64),), (96, 160))
    assert steps(tiny) == []
    assert section(tiny, []) is None
