"""What is made of a mass, and the instrument on each network; its laws are in test_effective_field_laws.py."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config

from cropjax.errors import UserError
from cropjax.instruments.effective_field import (
    blocks,
    effective_field,
    gradient_mass,
    grid,
    radius,
    section,
    steps,
)
from cropjax.instruments.subject import FULL, QUICK, Subject, check_map, drawn_weights, normalized
from cropjax.ops.conv import conv

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")


def chain(weights, x):
    for kernel in weights:
        x = conv(x, kernel, padding=1)
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


def test_a_function_that_gives_no_map_is_an_error():
    images = jnp.ones((1, 8, 8, 1))
    for function in (lambda w, x: x.mean((1, 2)), lambda w, x: {"a": x}, lambda w, x: x[0], lambda w, x: x[:, :0]):
        with pytest.raises(UserError, match=r"needs one map|without positions"):
            check_map(function, (), images)


def test_blocks_keep_the_sum_and_the_grid_its_corners():
    mass = np.random.default_rng(2).random((37, 50))
    small = blocks(mass, 12)
    assert max(small.shape) <= 12
    assert small.sum() == pytest.approx(mass.sum())
    assert small[0, 0] == pytest.approx(mass[:5, :5].sum())
    assert grid((5, 9), 3) == [(y, x) for y in (0, 2, 4) for x in (0, 4, 8)]
    assert grid((1, 2), 3) == [(0, 0), (0, 1)]


@pytest.mark.parametrize(
    "name",
    [
        "pspnet",
        "deeplabv3plus",
        pytest.param("segformer", marks=pytest.mark.slow),
        pytest.param("segnext", marks=pytest.mark.slow),
    ],
)
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
