"""The laying of windows against upstream's loop over them, and what they add up to."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropjax.windows import Windows, add_windows, window_starts, window_weights

SIDES = st.integers(1, 30)


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


@given(h=SIDES, w=SIDES, window=st.tuples(SIDES, SIDES), cut=st.integers(1, 4), count=st.integers(1, 5))
@settings(max_examples=15)
def test_windows_are_those_of_upstream_whatever_the_group(h, w, window, cut, count):
    stride = tuple(-(-side // cut) for side in window)
    windows = Windows((h, w), window, stride)
    boxes = upstream_windows(h, w, window, stride)
    assert [tuple(start) for start in windows.starts] == [(y1, x1) for y1, _, x1, _ in boxes]
    seen = np.zeros((h, w))
    for y1, y2, x1, x2 in boxes:
        assert (y2 - y1, x2 - x1) == windows.window
        seen[y1:y2, x1:x2] += 1
    np.testing.assert_array_equal(np.outer(*windows.seen), seen)
    groups = list(windows.groups(count))
    assert {len(starts) for starts, _ in groups} == {count}
    np.testing.assert_array_equal(np.concatenate([starts[:used] for starts, used in groups]), windows.starts)


@pytest.mark.parametrize("blending", ["flat", "gaussian"])
def test_added_windows_are_a_weighted_loop(blending):
    rng = np.random.default_rng(0)
    windows = Windows((11, 14), (6, 5), (4, 3), blending)
    total, expected = np.zeros((2, 11, 14, 3), np.float32), np.zeros((2, 11, 14, 3))
    rows, columns = (weights.astype(np.float32) for weights in windows.weights)
    for starts, used in windows.groups(4):
        logits = rng.standard_normal((2, 4, 6, 5, 3), np.float32)
        total = jax.jit(add_windows)(total, logits, starts, used, rows, columns)
        for i, (y, x) in enumerate(starts[:used]):
            expected[:, y : y + 6, x : x + 5] += np.outer(*windows.weights)[..., None] * logits[:, i]
    np.testing.assert_allclose(total, expected, atol=1e-5)


@given(side=st.integers(1, 200))
def test_a_gaussian_window_counts_most_in_its_middle_and_everywhere_something(side):
    weights = window_weights(side, "gaussian")
    np.testing.assert_allclose(weights, weights[::-1])
    assert weights.argmax() in ((side - 1) // 2, side // 2)
    assert (weights.astype(np.float32) ** 2 > 0).all()
    assert weights.max() > 0.1
