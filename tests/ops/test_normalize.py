"""Normalisation: the colour statistics, and the padding behind them."""

import jax.numpy as jnp
import numpy as np
import pytest

from cropjax.ops.normalize import MEAN, STD, normalize

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), np.uint8)
EXPECTED = (IMAGES - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])


def test_images_are_normalised_by_channel():
    np.testing.assert_allclose(normalize(IMAGES), EXPECTED, atol=1e-6)


def test_mean_colour_is_zero_and_one_deviation_is_one():
    colours = np.stack([MEAN, MEAN + STD]).reshape(1, 1, 2, 3)
    y = normalize(colours)
    np.testing.assert_allclose(y[0, 0, 0], 0, atol=1e-6)
    np.testing.assert_allclose(y[0, 0, 1], 1, atol=1e-6)


def test_pixels_past_the_size_are_zero_and_the_others_untouched():
    sizes = np.array([[5, 7], [3, 2], [0, 4]], np.int32)
    y = np.asarray(normalize(IMAGES, sizes))
    for image, expected, (h, w) in zip(y, EXPECTED, sizes, strict=True):
        inside = np.zeros((5, 7), bool)
        inside[:h, :w] = True
        np.testing.assert_allclose(image[inside], expected[inside], atol=1e-6)
        assert (image[~inside] == 0).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_result_has_the_asked_type_and_is_rounded_once(dtype):
    y = normalize(IMAGES, dtype=dtype)
    assert y.dtype == dtype
    np.testing.assert_allclose(np.asarray(y, np.float64), EXPECTED, rtol=float(jnp.finfo(dtype).eps), atol=1e-6)
