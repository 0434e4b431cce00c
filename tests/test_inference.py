"""Sliding windows against a plain loop over them, and prediction at any size."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from cropjax.inference import make_predict, slide, window_starts
from cropjax.models.layers import Conv
from cropjax.ops.conv import conv
from cropjax.ops.normalize import normalize
from cropjax.ops.resize import resize_bilinear
from cropjax.sharding import make_mesh
from cropjax.step import split_model

SIDES = st.integers(1, 30)
KERNEL = np.random.default_rng(0).standard_normal((3, 3, 3, 4), np.float32)


def forward(x):
    """Logits that depend on the window's border, as a network's do."""
    return conv(x, KERNEL, padding=1)


def draw(n, h, w):
    return np.random.default_rng([n, h, w]).standard_normal((n, h, w, 3), np.float32)


def upstream_windows(h, w, window, stride):
    """The double loop of upstream's `slide_inference`, as (y1, y2, x1, x2)."""
    boxes = []
    for i in range(max(h - window[0] + stride[0] - 1, 0) // stride[0] + 1):
        for j in range(max(w - window[1] + stride[1] - 1, 0) // stride[1] + 1):
            y2, x2 = min(i * stride[0] + window[0], h), min(j * stride[1] + window[1], w)
            boxes.append((max(y2 - window[0], 0), y2, max(x2 - window[1], 0), x2))
    return boxes


@pytest.mark.parametrize(
    ("size", "window", "stride", "starts"),
    [
        (2049, 769, 513, [0, 513, 1026, 1280]),
        (1025, 769, 513, [0, 256]),
        (2048, 1024, 768, [0, 768, 1024]),
        (1024, 1024, 768, [0]),
        (1025, 1024, 768, [0, 1]),
        (512, 769, 513, [0]),
    ],
)
def test_window_starts_of_the_published_settings(size, window, stride, starts):
    assert window_starts(size, window, stride).tolist() == starts


@given(size=st.integers(1, 3000), window=st.integers(1, 1100), share=st.floats(0.01, 1))
def test_windows_cover_the_axis_from_inside(size, window, share):
    stride = max(int(window * share), 1)
    starts = window_starts(size, window, stride)
    assert starts[0] == 0
    assert starts[-1] == max(size - window, 0)
    assert ((np.diff(starts) > 0) & (np.diff(starts) <= stride)).all()


@given(n=st.integers(1, 2), h=SIDES, w=SIDES, window=st.tuples(SIDES, SIDES), cut=st.integers(1, 4))
@settings(max_examples=12)
def test_slide_is_upstreams_loop(n, h, w, window, cut):
    stride = tuple(-(-side // cut) for side in window)
    x = draw(n, h, w)
    total, count = np.zeros((n, h, w, 4)), np.zeros((1, h, w, 1))
    for y1, y2, x1, x2 in upstream_windows(h, w, window, stride):
        total[:, y1:y2, x1:x2] += forward(x[:, y1:y2, x1:x2])
        count[:, y1:y2, x1:x2] += 1
    got = jax.jit(lambda x: slide(forward, x, window=window, stride=stride))(x)
    np.testing.assert_allclose(got, total / count, atol=1e-5)


@pytest.mark.parametrize("window", [(12, 17), (40, 50), (12, 50)])
def test_a_window_over_the_whole_image_is_whole_to_the_bit(window):
    x = draw(2, 12, 17)
    got, expected = jax.jit(lambda x: (slide(forward, x, window=window, stride=(5, 5)), forward(x)))(x)
    np.testing.assert_array_equal(got, expected)


def test_windows_that_see_one_pixel_each_change_nothing():
    x = draw(1, 9, 11)
    got = jax.jit(lambda x: slide(lambda x: 2 * x, x, window=(4, 5), stride=(2, 3)))(x)
    np.testing.assert_allclose(got, 2 * x, rtol=1e-6)


# Prediction ------------------------------------------------------------------------------------------------


class Coarse(nnx.Module):
    """A network of one convolution, with logits at stride 2."""

    def __init__(self):
        self.conv = Conv(3, 5, 3, rng=np.random.default_rng(0), stride=2)

    def __call__(self, x):
        return SimpleNamespace(logits=self.conv(x))


def coarse(align_corners=False, size_divisor=1):
    """`Coarse`'s weights, its logits at full size, and a jitted `predict`."""
    config = ConfigDict(
        dict(
            model=dict(align_corners=align_corners),
            eval=dict(window=(8, 8), stride=(5, 5), size_divisor=size_divisor, dtype="float32"),
        )
    )
    graph, weights = split_model(Coarse())

    def full(x):
        y = conv(x, weights["params"]["conv"]["kernel"], stride=2, padding=1)
        return resize_bilinear(y, x.shape[1:3], align_corners=align_corners)

    return weights, full, jax.jit(make_predict(graph, config, make_mesh(data=1, space=1)), static_argnums=(2, 3))


@pytest.mark.parametrize("align_corners", [False, True])
def test_predict_resizes_logits_to_the_input_and_then_to_the_size(align_corners):
    weights, full, predict = coarse(align_corners)
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 15, 3), np.uint8)
    x = normalize(images)
    for mode, logits in (("whole", full(x)), ("slide", slide(full, x, window=(8, 8), stride=(5, 5)))):
        ids = predict(weights, images, (24, 29), mode)
        assert ids.dtype == jnp.uint8
        assert ids.shape == (2, 24, 29)
        logits = np.sort(resize_bilinear(logits, (24, 29), align_corners=align_corners), -1)
        sure = logits[..., -1] - logits[..., -2] > 1e-4  # compiled as one program the sums may round otherwise
        assert sure.mean() > 0.99
        expected = jnp.argmax(resize_bilinear(full(x), (24, 29), align_corners=align_corners), -1)
        if mode == "whole":
            np.testing.assert_array_equal(ids[sure], expected[sure])
        else:
            assert (np.asarray(ids) != np.asarray(expected)).any()  # its windows see borders inside the image


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_predict_pads_to_the_size_divisor_and_cuts_back(mode):
    """Zeros behind the normalised image, at its right and bottom, before windows are laid."""
    weights, full, predict = coarse(size_divisor=7)
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 15, 3), np.uint8)
    padded = np.pad(normalize(images), ((0, 0), (0, 2), (0, 6), (0, 0)))
    logits = full(padded) if mode == "whole" else slide(full, padded, window=(8, 8), stride=(5, 5))
    logits = np.asarray(logits)[:, :12, :15]
    order = np.sort(logits, -1)
    sure = order[..., -1] - order[..., -2] > 1e-4
    assert sure.mean() > 0.99
    ids = predict(weights, images, (12, 15), mode)
    np.testing.assert_array_equal(ids[sure], logits.argmax(-1)[sure])
    unpadded = coarse()[2](weights, images, (12, 15), mode)
    assert (np.asarray(ids) != np.asarray(unpadded)).any()  # the padding is seen, at the border


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_a_size_divisor_of_the_size_changes_nothing(mode):
    images = np.random.default_rng(0).integers(0, 256, (1, 12, 18, 3), np.uint8)
    weights, _, predict = coarse(size_divisor=6)
    np.testing.assert_array_equal(
        predict(weights, images, (12, 18), mode), coarse()[2](weights, images, (12, 18), mode)
    )
