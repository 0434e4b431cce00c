"""Masses of linear chains against their closed form, and the law of the square root."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cropjax.instruments.effective_field import deviation, gradient_mass
from cropjax.ops.conv import conv

pytestmark = pytest.mark.usefixtures("x64")


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


@pytest.mark.slow
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
