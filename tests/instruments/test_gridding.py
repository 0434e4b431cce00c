"""Stacks of dilated kernels, counted path by path and compared with what the network's program sees."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_config

from cropjax.config import build_model
from cropjax.instruments.gridding import dilated_stages, section, stack, steps
from cropjax.instruments.reach import trace
from cropjax.instruments.subject import Subject
from cropjax.models.repeat import EVERYTHING
from cropjax.step import merge_model, split_model

DILATIONS = st.lists(st.integers(1, 4), min_size=1, max_size=3)


@settings(max_examples=12)
@given(DILATIONS, st.booleans())
def test_paths_are_all_ways_to_add_up_taps(dilations, shortcuts):
    taps = [[(y * d, x * d) for y in (-1, 0, 1) for x in (-1, 0, 1)] + [(0, 0)] * shortcuts for d in dilations]
    reach = sum(dilations)
    expected = np.zeros((2 * reach + 1,) * 2)
    for path in itertools.product(*taps):
        y, x = np.sum(path, 0)
        expected[reach + y, reach + x] += 1
    found = stack("", dilations, shortcuts=shortcuts)
    np.testing.assert_array_equal(found.paths, expected)
    assert found.coverage == (expected > 0).mean()


@pytest.mark.parametrize("rate", [2, 3, 4])
def test_one_rate_never_leaves_its_grid(rate):
    one = stack("", (rate,) * 3, shortcuts=True)
    assert one.evenness == pytest.approx(1 / rate**2)
    assert one.coverage == pytest.approx((7 / (6 * rate + 1)) ** 2)


def test_a_dense_stack_is_even():
    assert stack("", (1, 1)).evenness == pytest.approx(1)
    assert stack("", (1, 2, 3)).coverage == 1  # Wang et al. 2018, figure 2(b)
    assert stack("", (2, 2, 2)).coverage < 0.3  # and (a)


@pytest.mark.parametrize(("depth", "output_stride"), [(18, 8), (50, 8), (50, 16)])
@pytest.mark.parametrize("size", [64, 97])
def test_the_stages_of_a_network_see_what_their_stack_reaches(depth, output_stride, size):
    """On the map that the first dilated stage is given, and wherever the whole stack is on the map."""
    config = tiny_config()
    config.model.backbone.update(depth=depth, output_stride=output_stride)
    graph, weights = split_model(build_model(config))
    stages = dilated_stages(trace(lambda w, x: merge_model(graph, w)(x).logits, weights, (65, 65)).layers)
    assert sorted(stages) == ([3, 4] if output_stride == 8 else [4])

    def run(weights, x):
        backbone = merge_model(graph, weights).backbone
        for stage in stages:
            for block in backbone.stages[stage - 1]:
                x = block(x, False)
        return x

    first = merge_model(graph, weights).backbone.stages[min(stages) - 1][0]
    channels = first.conv1.conv.kernel.shape[2]
    rows, columns = trace(run, weights, (size, size), channels=channels).maps
    assert rows.shape == (size, size)  # no stride
    # A basic block has its second convolution, of rate 1, in between.
    paths = stack("", sum(stages.values(), ()), shortcuts=True).paths > 0
    reach = len(paths) // 2
    middle = size // 2
    seen = np.multiply.outer(rows[middle], columns[middle])
    np.testing.assert_array_equal(seen[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1], paths)
    assert seen.sum() == paths.sum()
    assert config.train.keep[0] == EVERYTHING


def test_a_section_for_networks_with_dilations_alone():
    for name, output_stride in (("pspnet", 8), ("deeplabv3plus", 16), ("segformer", None), ("segnext", None)):
        config = tiny_config(name)
        if output_stride:
            config.model.backbone.output_stride = output_stride
        graph, weights = split_model(build_model(config))
        subject = Subject("tiny", config, graph, {"drawn": weights}, ((33, 33), (49, 65)), (64, 128))
        (step,) = steps(subject)
        found = section(subject, [step.measure()])
        assert (found is None) == (output_stride is None)
        if found:
            assert "as built" in {row[0].split(", ")[1] for row in found.tables[0].rows}
            assert len(found.tables[1].rows) == 5 * 2
