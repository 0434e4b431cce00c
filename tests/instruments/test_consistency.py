"""Crops of a network that looks no further than it should give what the whole image gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config

from cropjax.instruments.consistency import BIN, Agreement, agreement, distance_to_cut, section, steps
from cropjax.instruments.subject import Subject, drawn_weights, normalized
from cropjax.ops.conv import conv

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")


def local(kernels, x):
    for kernel in kernels:
        x = conv(x, kernel, dilation=2, padding=2)
    return np.asarray(jax.nn.softmax(x)[0])


def test_a_local_network_agrees_from_half_its_field_on():
    rng = np.random.default_rng(0)
    kernels = [rng.normal(size=(3, 3, 2, 2)) / 4 for _ in range(6)]  # a field of 25: 12 to each side
    image = jnp.asarray(rng.normal(size=(1, 60, 70, 2)))
    label = rng.integers(0, 2, (60, 70))
    crop, whole = local(kernels, image[:, 8:48, 24:]), local(kernels, image)
    distance = distance_to_cut((40, 46), (8, 24), (60, 70))
    difference = np.abs(crop - whole[8:48, 24:]).sum(-1)
    assert (difference[distance >= 12] == 0).all()
    assert (difference[distance < 12] > 0).all()
    found = agreement(crop, whole, label, (8, 24))
    assert found.difference[0] > 0
    assert (found.difference[2:] == 0).all()
    assert found.difference[found.context_radius // BIN] <= found.difference[0] / 10 <= found.difference[0]
    assert found.stride == 40 - 2 * found.context_radius
    np.testing.assert_array_equal(found.crop[2:], found.whole[2:])


def test_distance_is_to_the_nearest_border_that_is_a_cut():
    found = distance_to_cut((3, 4), (0, 2), (5, 6))  # cuts at the bottom and at the left
    np.testing.assert_array_equal(found, [[0, 1, 2, 2], [0, 1, 1, 1], [0, 0, 0, 0]])
    assert np.isinf(distance_to_cut((5, 6), (0, 0), (5, 6))).all()


def test_a_crop_that_is_the_image_has_no_cut():
    probabilities = np.full((5, 6, 2), 0.5)
    found = agreement(probabilities, probabilities, np.zeros((5, 6), int), (0, 0))
    assert len(found.count) == 0


def test_differences_and_accuracies_are_means_of_the_bins_pixels():
    rng = np.random.default_rng(1)
    whole = rng.dirichlet(np.ones(3), (40, 40))
    crop = rng.dirichlet(np.ones(3), (32, 40))
    label = np.where(rng.random((40, 40)) < 0.3, 255, rng.integers(0, 3, (40, 40)))
    found = agreement(crop, whole, label, (8, 0))  # one cut, at the top
    for i in range(4):
        rows = slice(i * BIN, (i + 1) * BIN)
        ours, theirs, truth = crop[rows], whole[8:][rows], label[8:][rows]
        assert found.count[i] == BIN * 40
        assert found.difference[i] == pytest.approx(np.abs(ours - theirs).sum(-1).mean() / 2)
        assert found.changed[i] == (ours.argmax(-1) != theirs.argmax(-1)).mean()
        assert found.crop[i] == pytest.approx((ours.argmax(-1) == truth)[truth != 255].mean())
        assert found.whole[i] == pytest.approx((theirs.argmax(-1) == truth)[truth != 255].mean())


@pytest.mark.parametrize(
    ("difference", "radius", "stride"),
    [
        ([1, 0.5, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1], 24, 128 - 48),
        ([0.1] * 8, None, None),
        ([0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4], None, None),
        ([8, 7, 6, 5, 4, 3, 2, 1], 48, 32),
        ([9, 9, 9, 9, 9, 9, 9, 1], 56, 16),
    ],
)
def test_context_radius(difference, radius, stride):
    nothing = np.zeros(8)
    found = Agreement((128, 130), (0, 0), np.ones(8), np.array(difference, float), nothing, nothing, nothing)
    assert (found.context_radius, found.stride) == (radius, stride)


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
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    graph, weights = drawn_weights(config, normalized(image))
    subject = Subject("tiny", config, graph, {"trained": weights}, ((64, 64), (96, 128)), (96, 192))
    (step,) = steps(subject)
    result = step.measure()
    first, second = result.crops
    assert first.place == (0, 64)  # of the borders three are cuts
    assert len(first.count) == 4
    assert second.place == (0, 32)  # two
    assert first.count.sum() == 64 * 64
    assert 0 <= np.nanmin(first.difference) <= np.nanmax(first.difference) <= 1
    report = section(subject, [result])
    assert len(report.tables[0].rows) == 2
    assert len(report.tables[1].rows) == len(first.count) + len(second.count)
    assert "Accuracy is" in report.words
    everything = Subject("tiny", config, graph, {"drawn": weights}, ((96, 192),), (96, 192))
    assert section(everything, [steps(everything)[0].measure()]) is None
