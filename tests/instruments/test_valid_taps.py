"""Taps counted one by one, and each tap's energy from a convolution with that tap alone."""

from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_config

from cropjax.config import build_model
from cropjax.instruments.subject import Subject
from cropjax.instruments.valid_taps import dilated_convolutions, section, steps, tap_energy, valid_taps
from cropjax.ops.conv import conv
from cropjax.ops.depthwise import depthwise_conv
from cropjax.step import split_model

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")

PAIR = st.tuples(st.integers(3, 12), st.integers(3, 12))


def same(dilation):
    return {"kernel": (3, 3), "dilation": (dilation,) * 2, "padding": ((dilation,) * 2,) * 2}


@settings(max_examples=20)
@given(PAIR, st.integers(1, 13), st.integers(1, 2))
def test_taps_are_counted_as_a_convolution_of_ones_counts_them(size, dilation, stride):
    found = valid_taps(size, stride=(stride,) * 2, **same(dilation))
    ones = jnp.ones((1, *size, 1))
    counted = conv(ones, jnp.ones((3, 3, 1, 1)), stride=stride, dilation=dilation, padding=dilation)[0, :, :, 0]
    np.testing.assert_array_equal(found.inside, counted)
    assert found.mean == np.mean(found.inside)
    assert found.full == np.mean(found.inside == 9)
    assert found.centre == np.mean(found.inside == 1)  # with this padding the centre is always inside
    assert found.share.sum() == pytest.approx(1)


def test_chen_et_al_2017_figure_4():
    """A 3x3 kernel on a map of 65x65: from all taps for small rates to the centre alone as the rate nears the size."""
    shares = [valid_taps((65, 65), **same(rate)) for rate in range(1, 65)]
    assert shares[0].full > 0.9
    assert shares[-1].centre > 0.9
    for a, b in pairwise(shares):
        assert b.full <= a.full
        assert b.centre >= a.centre
    assert valid_taps((65, 65), **same(65)).centre == 1


def test_a_centre_that_lies_outside_is_none():
    found = valid_taps((5, 5), kernel=(3, 3), dilation=(4, 4), padding=((8, 8), (8, 8)))
    assert (found.inside == 1).mean() > found.centre > 0
    assert found.share[0] == 0


@settings(max_examples=4)
@given(PAIR, st.integers(1, 5), st.booleans())
def test_energy_is_that_of_the_convolution_with_one_tap(size, dilation, depthwise):
    rng = np.random.default_rng(dilation)
    x = jnp.asarray(rng.normal(size=(2, *size, 4)))
    kernel = jnp.asarray(rng.normal(size=(3, 3, 1, 4) if depthwise else (3, 3, 4, 2)))
    form = same(dilation)
    form.pop("kernel")
    found = tap_energy(x, kernel, **form)
    for y, k in np.ndindex(3, 3):
        alone = jnp.zeros_like(kernel).at[y, k].set(kernel[y, k])
        if depthwise:
            result = depthwise_conv(x, alone[:, :, 0], dilation=dilation, padding=(dilation,) * 2)
        else:
            result = conv(x, alone, dilation=dilation, padding=dilation)
        np.testing.assert_allclose(found[y, k], jnp.square(result).sum(), rtol=1e-10, atol=1e-12)


def test_a_kernel_as_large_as_the_map_is_its_centre():
    x, kernel = jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 2, 2))
    energy = tap_energy(x, kernel, dilation=(5, 5), padding=((5, 5), (5, 5)))
    assert energy[1, 1] == energy.sum() > 0


def test_the_convolutions_of_a_network_and_the_section():
    for name in ("deeplabv3plus", "segformer"):
        config = tiny_config(name)
        graph, weights = split_model(build_model(config))
        subject = Subject("tiny", config, graph, {"drawn": weights}, ((33, 33), (48, 64)), (64, 128))
        found = dilated_convolutions(subject.logits, weights, np.random.default_rng(0).random((2, 33, 49, 3)))
        rates = {"deeplabv3plus": [2, 12, 24, 36], "segformer": []}[name]
        assert sorted({taps.dilation for taps in found}) == rates
        for taps in found:
            assert taps.energy.sum() == pytest.approx(1)
            assert taps.size == (3, 4)
            if taps.dilation > 4:
                assert taps.energy[1, 1] == taps.valid.centre == 1
        results = [step.measure() for step in steps(subject)]
        assert [result.image_size for result in results] == [(33, 33), (48, 64), (64, 128)]
        report = section(subject, results)
        assert (report is None) == (not rates)
        if report:
            assert f"rate {max(rates)}" in report.words
            assert len(report.tables[0].rows) == len(report.tables[1].rows) == 3 * len(found)
