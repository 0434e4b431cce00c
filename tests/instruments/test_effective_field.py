"""Masses of linear chains against their closed form, and the law of the square root."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config

from cropjax.instruments.effective_field import (
    blocks,
    deviation,
    effective_field,
    gradient_mass,
    grid,
    radius,
    section,
    steps,
)
from cropjax.instruments.subject import FULL, QUICK, Subject, drawn_weights, normalized
from cropjax.ops.conv import conv

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")


def chain(weights, x):
    for kernel in weights:
        x = conv(x, kernel, padding=1)
    return x


@pytest.mark.parametrize("taps", [(1, 2, 1), (1, 1, 1)])
@pytest.mark.parametrize("depth", [1, 4, 9])
def test_a_linear_chain_has_the_mass_of_the_closed_form(taps, depth):
    """(1, 2, 1) gives binomial coefficients, (1, 1, 1) trinomial ones (Luo et al. 2016, section 2)."""
    kernel = np.multiply.outer(taps, taps)[:, :, None, None].astype(float)
    side = 2 * depth + 5
    mass = gradient_mass(chain)([kernel] * depth, jnp.ones((1, side, side, 1)), side // 2, side // 2)
    line = np.ones(1)
    for _ in range(depth):
        line = np.convolve(line, taps)
    expected = np.zeros((side, side))
    expected[2:-2, 2:-2] = np.multiply.outer(line, line)
    np.testing.assert_allclose(mass, expected, rtol=1e-13)
    variance = depth * np.average(np.array([1, 0, 1]), weights=taps)
    np.testing.assert_allclose(deviation(np.asarray(mass)), np.sqrt(variance), rtol=1e-12)


def test_a_random_residual_network_grows_with_the_square_root_of_its_depth():
    """Standard deviation of the mass, of residual blocks with ReLU and random weights, from 8 to 64 of them."""
    depths, channels, side = (8, 16, 32, 64), 16, 81
    mass = gradient_mass(residual)
    found = []
    for depth in depths:
        total = 0
        for seed in range(3):
            rng = np.random.default_rng([depth, seed])
            weights = [rng.normal(size=(3, 3, channels, channels)) * np.sqrt(2 / 9 / channels) for _ in range(depth)]
            image = jnp.asarray(rng.normal(size=(1, side, side, channels)))
            one = np.asarray(mass(weights, image, side // 2, side // 2))
            total += one / one.sum()
        found.append(deviation(total).mean())
    slope = np.polyfit(np.log(depths), np.log(found), 1)[0]
    assert slope == pytest.approx(0.5, abs=0.04), found


def residual(weights, x):
    for kernel in weights:
        x = x + conv(jax.nn.relu(x), kernel, padding=1)
    return x


def test_radius_is_that_of_the_smallest_square_and_grows_with_the_share():
    rng = np.random.default_rng(0)
    mass = rng.random((9, 12))
    shares = (0.1, 0.5, 0.9, 1.0)
    found = radius(mass, (4.0, 5.5), shares)
    assert (np.diff(found) >= 0).all()
    for share, r in zip(shares, found, strict=True):
        y, x = np.indices(mass.shape)
        inside = np.maximum(abs(y - 4), abs(x - 5.5))
        assert mass[inside <= r].sum() >= share * mass.sum() - 1e-9
        assert mass[inside < r].sum() < share * mass.sum()


def test_the_mass_moves_with_the_image():
    rng = np.random.default_rng(1)
    kernels = [rng.normal(size=(3, 3, 1, 1)) for _ in range(3)]
    image = jnp.asarray(rng.normal(size=(1, 21, 21, 1)))
    mass = gradient_mass(lambda w, x: jnp.square(chain(w, x)))
    here = mass(kernels, image, 9, 9)
    there = mass(kernels, jnp.roll(image, (2, 1), (1, 2)), 11, 10)
    np.testing.assert_allclose(there, jnp.roll(here, (2, 1), (0, 1)), atol=1e-12)


def test_of_a_strided_map_the_position_is_the_middle_of_its_cell():
    kernel = np.ones((4, 4, 1, 1))
    mass = gradient_mass(lambda w, x: conv(x, w, stride=4))
    found = effective_field(mass, kernel, jnp.ones((2, 16, 24, 1)), (1, 2), (4, 6))
    assert found.centre == (5.5, 9.5)
    assert found.border == 5.5
    assert found.anisotropy == pytest.approx(1)
    np.testing.assert_array_equal(found.radius, [[1.5, 1.5, 1.5]] * 2)  # 4 of 16 pixels lie within 0.5


def test_blocks_keep_the_sum_and_the_grid_its_corners():
    mass = np.random.default_rng(2).random((37, 50))
    small = blocks(mass, 12)
    assert max(small.shape) <= 12
    assert small.sum() == pytest.approx(mass.sum())
    assert small[0, 0] == pytest.approx(mass[:5, :5].sum())
    assert grid((5, 9), 3) == [(y, x) for y in (0, 2, 4) for x in (0, 4, 8)]
    assert grid((1, 2), 3) == [(0, 0), (0, 1)]


@pytest.mark.parametrize("name", ["pspnet", "deeplabv3plus", "segformer", "segnext"])
def test_steps_and_section(name):
    config = tiny_config(name)
    image = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    graph, weights = drawn_weights(config, normalized(image))
    subject = Subject("tiny", config, graph, {"drawn": weights}, ((48, 48), (49, 64)), (64, 128), QUICK)
    found = steps(subject)
    assert len({step.name for step in found}) == len(found) == 2 * (9 + 1)
    results = [step.measure() for step in found[:10]]
    assert all((np.diff(one.radius) >= 0).all() and one.mass.sum() in (0, pytest.approx(1)) for one in results)
    report = section(subject, results)
    assert len(report.tables[0].rows) == 10
    assert "In the middle of the crop" in report.words
    both = Subject("tiny", config, graph, {"a": weights, "b": weights}, ((48, 48),), (64, 128), FULL)
    assert len(steps(both)) > 2 * 9
