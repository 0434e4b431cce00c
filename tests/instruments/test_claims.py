"""Claims against loops and formulas of the text book, none of which asks an instrument."""

import dataclasses
import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cropjax.instruments.claims.claim import HOLDS, UNDECIDED, Finding, compared, is_so
from cropjax.instruments.claims.network import TEST_SIZE, Networks
from cropjax.instruments.claims.page import CLAIMS, page
from cropjax.instruments.claims.training import in_images, order
from cropjax.instruments.gradient_noise import NoiseScale

PAGE = Path(__file__).parents[2] / "docs" / "claims.md"
SECTIONS = re.findall(
    r"\S+", "1.1 1.2 1.3 2.1 2.2 2.3 2.4 3.1 3.2 3.3 3.4 4.1 4.2 4.3 4.4 5.1 5.2 5.3 6.1 6.2 6.3 7.1 7.2 7.3"
)


@pytest.fixture(scope="module")
def networks():
    return Networks()


def found(networks, words):
    """The only claim that has these words, decided."""
    (claim,) = [claim for claim in CLAIMS if words in claim.words]
    return claim.find(networks)


def after(side, *convolutions):
    """A map's side after convolutions or poolings (kernel, stride, padding), by torch's formula."""
    for kernel, stride, padding in convolutions:
        side = (side + 2 * padding - kernel) // stride + 1
    return side


def map_side(side):
    """ResNet-50-D8: the stem's first 3x3 and the pooling have stride 2, and so has the first 3x3 of stage 2."""
    return after(side, (3, 2, 1), (3, 2, 1), (3, 2, 1))


def cells(side, scale):
    return [math.ceil((i + 1) * side / scale) - i * side // scale for i in range(scale)]


def taps(side, rate):
    """Mean share of nine taps inside, and the share of positions with all of them, tap by tap."""
    counts = [
        sum(0 <= y + a * rate < side and 0 <= x + b * rate < side for a in (-1, 0, 1) for b in (-1, 0, 1))
        for y in range(side)
        for x in range(side)
    ]
    return np.mean(counts) / 9, np.mean(np.array(counts) == 9)


def test_fields(networks):
    size = jump = 1
    sizes = []
    stem, pool = [(3, 2), (3, 1), (3, 1)], [(3, 2)]
    stages = [[1] * 3, [1] * 4, [1] + [2] * 5, [2, 4, 4]]  # dilations of the 3x3s, contracted
    for kernel, stride in stem + pool:
        size, jump = size + (kernel - 1) * jump, jump * stride
    for number, stage in enumerate(stages):
        for k, dilation in enumerate(stage):
            size += 2 * dilation * jump
            jump *= 2 if number == 1 and k == 0 else 1
        sizes.append(size)
    assert found(networks, "stages 1 to 4 of ResNet").value == ", ".join(map(str, sizes)) + " pixels"
    assert sizes == [networks["deeplabv3plus"].fields[f"stage {i}"].size[0] for i in (1, 2, 3, 4)]
    steps = [2 * stage[-1] * jump for stage, jump in zip(stages, (4, 8, 8, 8), strict=True)]
    expected = "; ".join(f"stage {i}: {step}" for i, step in enumerate(steps, 1))
    assert found(networks, "grows linearly with depth").value == "pixels that a block adds: " + expected


@pytest.mark.parametrize("crop", [512, 769])
def test_maps_and_cells(networks, crop):
    side = map_side(crop)
    assert found(networks, f"A crop of {crop} gives").value == f"{side} rows"
    largest = [max(cells(side, scale)) ** 2 for scale in (1, 2, 3, 6)]
    words = "At 512 the cells" if crop == 512 else "At 769 they have"
    assert found(networks, words).value == ", ".join(map(str, largest)) + " positions"


@pytest.mark.parametrize(("words", "rate"), [("rate 12: 100 %", 12), ("Rate 24: 85", 24), ("Rate 36: 60", 36)])
def test_valid_taps(networks, words, rate):
    value = found(networks, words).value
    for crop in (512, 769):
        mean, full = taps(map_side(crop), rate)
        assert f"{mean:.0%} (all taps at {full:.0%})" in value


def test_tokens(networks):
    queries = after(512, (7, 4, 3)) ** 2
    assert found(networks, "stage 1 has 4096 queries").value == str(queries)
    assert found(networks, "And 64 keys").value == str((after(512, (7, 4, 3)) // 8) ** 2)


def test_keys(networks):
    """Of each stage: as many times fewer a side as the convolution before the keys has for a stride."""
    sides = [after(512, (7, 4, 3))]
    for _ in range(3):
        sides.append(after(sides[-1], (3, 2, 1)))
    kept = [side / after(side, (stride, stride, 0)) for side, stride in zip(sides, (8, 4, 2, 1), strict=True)]
    assert found(networks, "in stages 1 to 4.").value == ", ".join(f"{share:.0f}" for share in kept) + " times"


def test_cells_that_a_car_lies_in(networks):
    """Pixel by pixel, at every place."""
    values = []
    for crop in (512, 769):
        side = map_side(crop)
        owners = [{i for i in range(6) if i * side // 6 <= x // 8 < math.ceil((i + 1) * side / 6)} for x in range(crop)]
        counts = [len(set().union(*owners[left : left + 80])) for left in range(crop - 80 + 1)]
        values.append((min(counts), max(counts), np.mean(counts)))
    ranges = " and ".join(f"{low} to {high} at {crop}" for (low, high, _), crop in zip(values, (512, 769), strict=True))
    means = " and ".join(f"{mean:.2f}" for *_, mean in values)
    assert found(networks, "A car of 80 pixels").value == f"{ranges}, {means} on average"


def test_layers_are_those_of_the_weights(networks):
    """Kernels as they are stored, [kh,kw,i,o]."""

    def kernel(network, *path):
        leaf = networks[network].weights["params"]
        for name in path:
            leaf = leaf[name]
        return leaf["conv"]["kernel"].shape

    head = partial(kernel, "deeplabv3plus", "head")
    assert found(networks, "The branch of rate 1").value == "{}x{}".format(*head("branches", 0)[:2])
    assert found(networks, "The skip takes").value == "{}, {}".format(*head("skip")[2:])
    branches = [kernel("pspnet", "head", "pools", k)[2:] for k in range(4)]
    assert found(networks, "each branch makes 512").value == ", ".join(f"{i} to {o}" for i, o in branches)


def test_gridding(networks):
    reached = {(a * 4, b * 4) for a in (-1, 0, 1) for b in (-1, 0, 1)}
    assert found(networks, "misses three quarters").value == f"{1 - len(reached) / 81:.4g}"
    for words in ("Gridding is worse", "helps less where"):
        assert found(networks, words).verdict.startswith("does not hold")


def test_every_section_has_claims_and_none_twice():
    assert sorted({claim.section for claim in CLAIMS}) == sorted(SECTIONS)
    assert len({(claim.section, claim.words) for claim in CLAIMS}) == len(CLAIMS)


def test_numbers_are_compared_with_what_is_stated():
    assert compared((10, 20), (10.1, 20), "x").verdict == HOLDS
    assert compared((10, 20), (10, 30)).verdict == "off: 30 and not 20, 1.50 times"
    assert compared(96, 97, within=0).verdict.startswith("off: 97 and not 96")
    assert compared((1, 2), (1, 2)).value == "1, 2"
    assert is_so(False, "x", "it is not").verdict == "does not hold: it is not"


def test_noise_scales_are_ordered_where_they_are_apart():
    large, small, none = (
        NoiseScale("all", scale, error, 1, scale) for scale, error in ((60, 20), (8, 1), (np.inf, np.inf))
    )
    assert [in_images(one) for one in (large, none)] == ["60.0 ± 20.0 images", "no signal above the noise"]
    assert order(large, small) == HOLDS
    assert order(small, large).startswith("does not hold")
    for pair in ((large, none), (none, small), (large, dataclasses.replace(large, scale=30))):
        assert order(*pair).startswith("cannot be decided")


def test_page_has_a_row_for_each_claim():
    text = page([Finding("1", HOLDS), Finding("-", UNDECIDED), *[Finding("2", "off")] * (len(CLAIMS) - 2)])
    assert f"Of {len(CLAIMS)} statements 1 hold, 1 cannot be decided" in text
    assert len(re.findall(r"^\| \d", text, re.MULTILINE)) == len(CLAIMS)


MEASURED = ("drawn weights", "PSPNet")


@pytest.mark.slow
def test_the_page_says_what_is_computed(networks):
    """Every row that no measurement on images is behind."""
    text = PAGE.read_text()
    for claim in CLAIMS:
        row = f"| {claim.section} | {claim.words} | "
        assert row in text
        if not any(word in claim.how for word in MEASURED):
            finding = claim.find(networks)
            assert f"{row}{finding.value} | {claim.how} | {finding.verdict} |" in text


def test_what_is_measured_says_so():
    assert {claim.section for claim in CLAIMS if any(word in claim.how for word in MEASURED)} >= {"1.2", "7.2", "7.3"}
    assert TEST_SIZE == (1024, 2048)
