"""Distortion on the device is the host's."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cropjax.data import transforms
from cropjax.ops.photometric import distort


def test_distortion_on_the_device_is_the_hosts_to_one_grey_level():
    """All that may be drawn: 160 draws on noise, in which every colour is as likely."""
    images = np.random.default_rng(0).integers(0, 256, (160, 24, 24, 3), np.uint8)
    drawn = np.stack([transforms.draw_distortion(np.random.default_rng(seed)) for seed in range(160)])
    host = np.stack([transforms.distort(*pair) for pair in zip(images, drawn, strict=True)])
    device = np.asarray(jax.jit(distort)(images, drawn))
    assert device.dtype == np.uint8
    difference = np.abs(device.astype(int) - host)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
    assert (host != images).mean() > 0.5
    left_out = np.isnan(drawn[:, 1:]).all(1)
    assert 0 < left_out.sum() < 160
    np.testing.assert_array_equal(device[left_out], images[left_out])


@settings(max_examples=50, deadline=None)
@given(
    colour=st.tuples(*[st.integers(0, 255)] * 3),
    saturation=st.floats(0.5, 1.5, width=32),
    hue=st.integers(-18, 17),
)
def test_one_colour_as_on_the_host(colour, saturation, hue):
    image = np.full((1, 1, 3), colour, np.uint8)
    drawn = np.array([1, np.nan, np.nan, saturation, hue], np.float32)
    device = np.asarray(jax.jit(distort)(image[None], drawn[None]))[0]
    assert np.abs(device.astype(int) - transforms.distort(image, drawn)).max() <= 1
