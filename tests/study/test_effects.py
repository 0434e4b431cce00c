"""Effects and their intervals: against what was put into the numbers, and against other ways to reckon them."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cropjax.study.effects import bootstrap, differences, estimate, interactions, main_effects, student

FACTORS = {"crop": ("small", "large"), "batch": ("2", "4", "8")}
SEEDS = range(3)


def values(score):
    """{(cell, seed): score} of the whole grid."""
    cells = [tuple(zip(FACTORS, levels, strict=True)) for levels in itertools.product(*FACTORS.values())]
    return {(cell, seed): score(dict(cell), seed) for cell in cells for seed in SEEDS}


def own(values):
    """Cells that go by no other levels."""
    return {cell: cell for cell, _ in values}


def test_what_is_additive_comes_out_and_nothing_else():
    gain = {"2": 0.0, "4": 1.5, "8": 2.0}
    found = values(lambda cell, seed: 50 + 3 * (cell["crop"] == "large") + gain[cell["batch"]] + 10 * seed)
    effects = {effect[:3]: effect[3] for effect in main_effects(found, own(found), FACTORS)}
    assert {name: round(one.mean, 9) for name, one in effects.items()} == {
        ("crop", "small", "large"): 3.0,
        ("batch", "2", "4"): 1.5,
        ("batch", "2", "8"): 2.0,
        ("batch", "4", "8"): 0.5,
    }
    assert effects["crop", "small", "large"].pairs == 9
    for one in effects.values():  # what a seed has in all its runs is not noise
        np.testing.assert_allclose(one.t, one.mean)
        assert one.is_clear
    for *_, one in interactions(found, own(found), FACTORS):
        assert abs(one.mean) < 1e-9


def test_an_interaction_comes_out():
    found = values(lambda cell, seed: 4.0 * (cell["crop"] == "large" and cell["batch"] == "8") + seed)
    by_name = {
        (first, pair, second, other): one.mean
        for first, pair, second, other, one in interactions(found, own(found), FACTORS)
    }
    assert by_name == {
        ("crop", ("small", "large"), "batch", ("2", "4")): 0.0,
        ("crop", ("small", "large"), "batch", ("2", "8")): 4.0,
        ("crop", ("small", "large"), "batch", ("4", "8")): 4.0,
    }


def test_runs_without_a_partner_count_for_nothing():
    found = values(lambda cell, seed: float(seed))
    large = [key for key in found if dict(key[0])["crop"] == "large"]
    for key in large[1:]:
        del found[key]
    pairs = differences(found, own(found), "crop", "small", "large")
    assert pairs == {((("batch", "2"),), 0): 0.0}
    assert estimate(pairs).pairs == 1
    assert all(map(math.isnan, estimate(pairs).t))
    assert not estimate(pairs).is_clear
    assert estimate({}) is None


def test_seeds_are_compared_over_the_contexts_that_all_have():
    """A context that one seed lacks would shift that seed's mean."""
    pairs = {("easy", 0): 1.0, ("easy", 1): 2.0, ("hard", 0): 30.0}
    assert estimate(pairs).by_seed == {0: 1.0, 1: 2.0}
    assert estimate({("a", 0): 1.0, ("b", 1): 2.0}).by_seed == {0: 1.0}  # what is of two contexts is not of two seeds


def test_the_seeds_and_contexts_with_the_most_pairs_count():
    pairs = {(context, 0): 0.0 for context in "abc"} | {(context, seed): 1.0 for context in "de" for seed in (1, 2)}
    assert estimate(pairs).by_seed == {1: 1.0, 2: 1.0}


def test_one_run_more_does_not_put_others_aside():
    pairs = {(context, seed): float(context + seed) for context in range(10) for seed in (0, 1)}
    whole, more = estimate(pairs), estimate(pairs | {(0, 2): 2.0})
    assert (more.by_seed, more.pairs) == (whole.by_seed, 20)


def batches():
    """({(cell, seed): value}, cells) of two batches and two rates, which are the same for the larger batch."""

    def cell(crop, batch, rate):
        return (("crop", crop), ("batch", batch), ("rate", rate))

    worth = {("2", "fixed"): 0.0, ("8", "fixed"): 5.0, ("2", "linear"): 2.0}
    values = {
        (cell(crop, *rest), seed): value + 3.0 * (crop == "large") * (rest[0] == "8") + 10 * seed
        for crop in ("small", "large")
        for rest, value in worth.items()
        for seed in SEEDS
    }
    return values, own(values) | {cell(crop, "8", "linear"): cell(crop, "8", "fixed") for crop in ("small", "large")}


def test_a_cell_counts_under_all_its_names_and_is_no_pair_with_itself():
    values, cells = batches()
    found = {(context, seed): value for (context, seed), value in differences(values, cells, "batch", "2", "8").items()}
    gains = {tuple(level for _, level in context): value for (context, seed), value in found.items() if seed == 0}
    assert gains == {("small", "fixed"): 5, ("small", "linear"): 3, ("large", "fixed"): 8, ("large", "linear"): 6}
    rate = differences(values, cells, "rate", "fixed", "linear")
    assert {dict(context)["batch"] for context, _ in rate} == {"2"}  # at 8 both rates are one run


def test_two_cells_are_one_pair_whatever_they_are_called():
    values, cells = batches()
    crop = {context for context, _ in differences(values, cells, "crop", "small", "large")}
    assert crop == {
        (("batch", "2"), ("rate", "fixed")),
        (("batch", "2"), ("rate", "linear")),
        (("batch", "8"), ("rate", "fixed")),
    }
    one = estimate(differences(values, cells, "crop", "small", "large"))
    assert (one.contexts, one.pairs, one.mean) == (3, 9, 1.0)


def test_interactions_are_of_four_cells():
    """Of batch and rate there are three: how much the rate does at the larger batch is no finding."""
    values, cells = batches()
    factors = {"crop": ("small", "large"), "batch": ("2", "8"), "rate": ("fixed", "linear")}
    found = {(first, second): one for first, _, second, _, one in interactions(values, cells, factors)}
    assert ("batch", "rate") not in found
    assert found["crop", "batch"].mean == pytest.approx(3)
    assert (found["crop", "batch"].contexts, found["crop", "rate"].contexts) == (2, 1)
    assert found["crop", "rate"].mean == pytest.approx(0)
    rest = {name: factors[name] for name in ("batch", "rate")}
    others = interactions(values, cells, {"crop": factors["crop"]}, rest)
    assert {(first, second) for first, _, second, _, _ in others} == {("crop", "batch"), ("crop", "rate")}


def half(k, effects, noise=lambda seed: 0.0):
    """{(cell, seed): value} of the regular half of k factors a, b, ... with the levels 0 and 1."""
    names = "abcdef"[:k]
    cells = [place for place in itertools.product("01", repeat=k) if place.count("1") % 2 == 0]
    return {
        (tuple(zip(names, place, strict=True)), seed): sum(
            effect for name, effect in zip(names, effects, strict=True) if place[names.index(name)] == "1"
        )
        + noise(seed)
        for place in cells
        for seed in range(3)
    }


def test_what_was_put_in_comes_out_of_half_a_grid():
    effects = (1.0, -2.0, 3.0, 0.5, 0.0)
    values = half(5, effects, noise=lambda seed: 10.0 * seed)
    factors = dict.fromkeys("abcde", ("0", "1"))
    found = {factor: one for factor, _, _, one in main_effects(values, own(values), factors)}
    for factor, effect in zip("abcde", effects, strict=True):
        assert found[factor].mean == pytest.approx(effect)
        assert found[factor].pairs == 0
        assert found[factor].by_seed == pytest.approx(dict.fromkeys(range(3), effect))


def test_what_cells_cannot_tell_apart_is_not_fitted():
    """Two factors that always change together."""
    values = {((("a", level), ("b", level)), seed): float(level) for level in "01" for seed in range(2)}
    assert main_effects(values, own(values), dict.fromkeys("ab", ("0", "1"))) == []


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8))
def test_students_interval_is_scipys(numbers):
    if np.std(numbers) < 1e-6:
        return
    low, high = stats.t.interval(0.95, len(numbers) - 1, loc=np.mean(numbers), scale=stats.sem(numbers))
    np.testing.assert_allclose(student(numbers), (low, high), rtol=1e-9, atol=1e-9)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=7))
def test_the_bootstrap_stays_within_the_values_and_around_the_mean(numbers):
    low, high = bootstrap(numbers)
    assert min(numbers) - 1e-9 <= low <= np.mean(numbers) + 1e-9
    assert np.mean(numbers) - 1e-9 <= high <= max(numbers) + 1e-9


def test_few_seeds_are_drawn_in_every_way():
    """27 draws of three: the outermost is the smallest value three times, whose share is more than a fortieth."""
    assert bootstrap([0.0, 1.0, 5.0]) == pytest.approx((0.65 / 3, 5 - 0.65 * 4 / 3))


def test_the_bootstrap_of_many_is_scipys():
    numbers = np.random.default_rng(0).normal(size=30)
    one = stats.bootstrap((numbers,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    np.testing.assert_allclose(bootstrap(numbers), one, atol=0.02)


def test_intervals_cover_what_they_say():
    """Student's holds the truth in 95 % of studies of three seeds; the bootstrap in far fewer, as its page says."""
    rng, hits = np.random.default_rng(0), {student: 0, bootstrap: 0}
    for numbers in rng.normal(size=(2000, 3)):
        for interval in hits:
            low, high = interval(numbers)
            hits[interval] += low <= 0 <= high
    assert 0.935 < hits[student] / 2000 < 0.965
    assert hits[bootstrap] / 2000 < 0.85
