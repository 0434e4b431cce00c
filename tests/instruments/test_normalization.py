"""The noise of statistics where it is known: independent values, constant images, tiles; norms of two values."""

from itertools import pairwise

import numpy as np
import pytest
from tiny import tiny_config

from cropjax.instruments.normalization import (
    Noise,
    Norms,
    by_part,
    kinds,
    noise,
    part_of,
    pooled_norm,
    positions,
    section,
    steps,
)
from cropjax.instruments.subject import QUICK, Subject, drawn_weights, normalized
from cropjax.step import merge_model


def statistics(draw, batches=400, channels=8):
    rng = np.random.default_rng(0)
    values = np.stack([draw(rng, channels) for _ in range(batches)])  # [batches, positions, c]
    return values.shape[1], values.mean(1), values.var(1, ddof=1)


@pytest.mark.parametrize("tile", [1, 4, 16])
def test_effective_samples_are_the_tiles_of_equal_values(tile):
    """Independent values are tiles of one; images of one value each are tiles of a whole image."""
    n, means, variances = statistics(lambda rng, c: np.repeat(rng.normal(3, 2, (32 // tile, c)), tile, 0))
    found = noise("x", n, means, variances)
    independent = 32 / tile
    assert found.positions == 32
    assert found.effective == pytest.approx(independent, rel=0.06)
    assert found.mean == pytest.approx(1 / np.sqrt(independent), rel=0.05)


@pytest.mark.parametrize("images", [1, 2, 8])
def test_constant_images_count_once_each(images):
    n, means, variances = statistics(lambda rng, c: np.repeat(rng.normal(3, 2, (images, c)), 50, 0))
    assert noise("x", n, means, variances).effective == pytest.approx(images, rel=0.06)


def test_the_ratio_of_two_crops_is_that_of_their_tiles():
    found = [
        noise("x", *statistics(lambda rng, c, k=k: np.repeat(rng.normal(size=(k, c)), 16, 0), 1000)) for k in (4, 9)
    ]
    assert found[1].effective / found[0].effective == pytest.approx(2.25, rel=0.05)


def test_independent_values_are_not_taken_for_fixed_ones():
    """Of eight batches, n_eff of two independent values comes out above two half of the time."""
    rng = np.random.default_rng(4)
    found = []
    for _ in range(100):
        values = rng.normal(size=(8, 2, 64))
        found.append(noise("head.bottleneck.norm", 2, values.mean(1), values.var(1, ddof=1)))
    assert 30 < sum(one.effective > 2 for one in found) < 70
    assert sum(bool(by_part([one])) for one in found) >= 98


def test_pooled_norms_do_not_hide_what_the_crop_does_to_the_head():
    """Their values are as many at any crop: with them in the mean a head's ratio would be nearly one."""
    logs = np.array([0.1, 0.0, -0.1])
    pools = [Noise(f"head.pools.{i}.norm", 2 * s**2, 0.1, 0.1, 1.5, logs) for i, s in enumerate((1, 2, 3, 6))]
    small, large = (
        by_part([*pools, Noise("head.bottleneck.norm", n, 0.1, 0.1, effective, logs)])
        for n, effective in ((8192, 400), (18818, 900))
    )
    assert large["head"][1] / small["head"][1] == pytest.approx(2.25)
    assert large["pooled branches"] == small["pooled branches"]


def test_the_error_shrinks_with_the_batches_and_covers_the_truth():
    errors = []
    for batches in (8, 32, 128):
        rng = np.random.default_rng(batches)
        values = rng.normal(size=(batches, 16, 1))
        found = noise("x", 16, values.mean(1), values.var(1, ddof=1))
        errors.append(found.error)
        assert abs(np.log(found.effective / 16)) < 4 * found.error
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] == pytest.approx(np.sqrt(2 / 127), rel=0.4)  # of the variance of 128 Gaussian means


def test_two_values_are_a_sign():
    rng = np.random.default_rng(1)
    values = rng.normal(5, 3, (500, 2, 6))
    found = pooled_norm(values, np.full(6, 5.0), np.full(6, 9.0), 0.0, scale=1, images=2)
    assert found.spread < 1e-12
    assert found.told == pytest.approx(
        1 / np.pi, abs=0.03
    )  # half of the variance is in the difference, 2/pi of it told
    centred = values - values.mean(1, keepdims=True)
    sign = centred / np.abs(centred)
    assert found.jump == pytest.approx(np.sqrt(np.square(sign - (values - 5) / 3).mean((0, 1))).mean())


def test_more_values_tell_more_and_jump_less():
    rng = np.random.default_rng(2)
    found = []
    for n in (2, 8, 32, 128):
        values = rng.normal(0, 1, (4000 // n, n, 8))
        found.append(pooled_norm(values, np.zeros(8), np.ones(8), 1e-5))
    assert all(a.told < b.told for a, b in pairwise(found))
    assert found[-1].told > 0.98
    # jump^2 = Var(mean) + Var(deviation) = (1 + 1/2) / n for many values
    assert found[-1].jump == pytest.approx(np.sqrt(1.5 / 128), rel=0.15)
    assert found[-2].jump / found[-1].jump == pytest.approx(2, rel=0.2)


def test_norms_that_another_one_has_fixed_say_nothing_of_the_crop():
    """MSCAN's first block gets what a BatchNorm has just given a mean of zero: it does not vary between batches."""
    free = Noise("backbone.blocks.0.0.norm2", 100, 0.1, 0.1, 40.0, np.array([3.5, 3.7, 3.9]))
    fixed = Noise("backbone.blocks.0.0.norm1", 100, 1e-7, 0.1, 1e14, np.zeros(3))
    assert by_part([free, fixed]) == {"stage 1": (100, pytest.approx(40), free.error)}


def test_the_error_of_a_part_knows_that_its_norms_saw_the_same_batches():
    """Deviations that all norms share stay; those of each alone are averaged out."""
    rng = np.random.default_rng(3)
    shared, own = rng.normal(size=8), rng.normal(size=(50, 8))
    for logs, ratio in ((np.tile(shared, (50, 1)), 1), (own, 1 / np.sqrt(50))):
        norms = [Noise("head.pools.0.norm", 100, 0.1, 0.1, 40.0, one) for one in logs]
        ((_, _, error),) = by_part(norms).values()
        assert error == pytest.approx(np.mean([one.error for one in norms]) * ratio, rel=0.5)


def test_positions_are_what_the_norms_are_given():
    config = tiny_config("deeplabv3plus")
    images = normalized(np.random.default_rng(0).integers(0, 256, (2, 33, 49, 3), np.uint8))
    graph, weights = drawn_weights(config, images)
    found = positions(graph, weights, images)
    assert found["backbone.stem.0.norm"] == 2 * 17 * 25
    assert found["backbone.stages.0.0.conv1.norm"] == 2 * 9 * 13
    assert found["head.image_pool.norm"] == 2
    assert found["head.bottleneck.norm"] == 2 * 3 * 4
    norms = [count for _, kind, count in kinds(merge_model(graph, weights)) if kind == "BatchNorm"]
    assert len(found) == sum(norms)


def test_kinds_of_the_four_networks():
    """SegNeXt's backbone has BatchNorm in every block, and SegFormer's head has it too."""
    found = {}
    for name in ("pspnet", "deeplabv3plus", "segformer", "segnext"):
        config = tiny_config(name)
        images = normalized(np.zeros((2, 33, 33, 3), np.uint8))
        graph, weights = drawn_weights(config, images)
        found[name] = {(part, kind): count for part, kind, count in kinds(merge_model(graph, weights))}
    assert {kind for _, kind in found["pspnet"]} == {"BatchNorm"}
    assert found["segformer"]["head", "BatchNorm"] == 5
    assert ("backbone", "BatchNorm") not in found["segformer"]
    assert found["segnext"]["backbone", "BatchNorm"] == 2 * 4 + 5
    assert found["segnext"]["backbone", "LayerNorm"] == 4
    assert found["segnext"]["head", "GroupNorm"] == 3


def test_parts():
    names = ("backbone.stem.1.norm", "backbone.stages.2.5.conv1.norm", "backbone.blocks.0.1.norm1", "head.pools.0.norm")
    assert [part_of(name) for name in names] == ["stem", "stage 3", "stage 1", "head"]
    assert part_of("backbone.conv1.norm") == "stem"


@pytest.mark.parametrize(
    "name",
    [
        "pspnet",
        pytest.param("deeplabv3plus", marks=pytest.mark.slow),
        "segformer",
        pytest.param("segnext", marks=pytest.mark.slow),
    ],
)
def test_steps_and_section(name):
    config = tiny_config(name)
    images = normalized(np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8))
    graph, weights = drawn_weights(config, images)
    crops = ((33, 33), (48, 64))
    subject = Subject("tiny", config, graph, {"drawn": weights}, crops, (64, 128), QUICK)
    results = [step.measure() for step in steps(subject)]
    assert all(isinstance(one, Norms) for one in results)
    for one in results:
        for _, norms in one.noise:
            assert all(x.effective > 0 and np.isfinite(x.error) for x in norms)
        assert len(one.pooled) == {"pspnet": 8, "deeplabv3plus": 2}.get(name, 0)
        assert all(x.spread < 0.1 for x in one.pooled if x.values == 2)
    report = section(subject, results)
    assert "independent samples" in report.words
    assert ("pooled branches, which get as many" in report.words) == (name in ("pspnet", "deeplabv3plus"))
    assert ("tells" in report.words) == (name in ("pspnet", "deeplabv3plus"))
    assert all(table.rows for table in report.tables)
