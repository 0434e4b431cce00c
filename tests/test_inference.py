"""Prediction at any size, against plain loops over windows, scales and mirrored views."""

from types import SimpleNamespace

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict
from test_windows import upstream_windows

from cropjax import compiled
from cropjax.errors import UserError
from cropjax.inference import MODES, Inference
from cropjax.models.layers import Conv
from cropjax.ops.conv import conv
from cropjax.ops.normalize import normalize
from cropjax.ops.resize import resize_bilinear
from cropjax.sharding import make_mesh
from cropjax.step import split_model

SCALES = (0.5, 1.25)
CLASSES = 19


class Coarse(nnx.Module):
    """A network of one convolution, with logits at stride 2."""

    def __init__(self):
        self.conv = Conv(3, CLASSES, 3, rng=np.random.default_rng(0), stride=2)

    def __call__(self, x):
        return SimpleNamespace(logits=self.conv(x))


GRAPH, WEIGHTS = split_model(Coarse())


def config_of(*, scale=(10_000, 10_000), align_corners=False, **changes):
    evaluation = dict(window=(8, 8), stride=(5, 5), blending="flat", window_batch=1, size_divisor=1, dtype="float32")
    evaluation |= dict(tta_scales=SCALES, tta_flip=True) | changes
    return ConfigDict(
        dict(
            model=dict(align_corners=align_corners),
            data=dict(source="streets", scale=scale),
            eval=evaluation,
        )
    )


def inference_of(**changes):
    return Inference(GRAPH, config_of(**changes), make_mesh(data=1, space=1))


def inference_for(images, **changes):
    """One whose scale is the images' own."""
    return inference_of(scale=images.shape[1:3], **changes)


def draw(n, h, w):
    return np.random.default_rng([n, h, w]).integers(0, 256, (n, h, w, 3), np.uint8)


def network(x, align_corners=False):
    """The logits of normalised images at their size."""
    logits = conv(jnp.asarray(x), WEIGHTS["params"]["conv"]["kernel"], stride=2, padding=1)
    return np.asarray(resize_bilinear(logits, x.shape[1:3], align_corners=align_corners), np.float64)


def softmax(logits):
    return np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32)))


def plain_logits(images, mode, *, divisor=1, window=(8, 8), stride=(5, 5), align_corners=False):
    """What the network says of `images` as they are: padded, in windows where the mode says so, cut back."""
    n, h, w, _ = images.shape
    x = np.pad(np.asarray(normalize(images)), ((0, 0), (0, -h % divisor), (0, -w % divisor), (0, 0)))
    if mode.startswith("whole"):
        return network(x, align_corners)[:, :h, :w]
    total, count = np.zeros((*x.shape[:3], CLASSES)), np.zeros((1, *x.shape[1:3], 1))
    for y1, y2, x1, x2 in upstream_windows(*x.shape[1:3], window, stride):
        total[:, y1:y2, x1:x2] += network(x[:, y1:y2, x1:x2], align_corners)
        count[:, y1:y2, x1:x2] += 1
    return (total / count)[:, :h, :w]


def mmcv_size(size, scale):
    """(w, h) that mmcv 2's Resize makes of an image of `size` with scale_factor=scale, keep_ratio=True.

    As `_scale_size` and then `imrescale` of its `image/geometric.py`: what is rounded once is rounded again.
    """
    w, h = size
    wanted = int(w * float(scale) + 0.5), int(h * float(scale) + 0.5)
    factor = min(max(wanted) / max(h, w), min(wanted) / min(h, w))
    return int(w * float(factor) + 0.5), int(h * float(factor) + 0.5)


def test_views_have_the_sizes_that_mmcv_gives_them():
    one = inference_of(tta_scales=(1.25,), tta_flip=False)
    assert one._views((437, 582)) == [((546, 727), False)]  # and not 728
    one = inference_of(tta_scales=(0.5, 0.75, 1.25, 1.75), tta_flip=False)
    for h, w in ((437, 582), (301, 640), (1024, 2048), (333, 333), (7, 500)):
        expected = [mmcv_size((w, h), scale)[::-1] for scale in (0.5, 0.75, 1.25, 1.75)]
        assert [size for size, _ in one._views((h, w))] == expected


def plain_probabilities(images, mode, *, align_corners=False, **how):
    n, h, w, _ = images.shape
    if not mode.endswith("_tta"):
        return softmax(plain_logits(images, mode, align_corners=align_corners, **how))
    views = []
    for scale in SCALES:
        size = mmcv_size((w, h), scale)
        seen = np.stack([cv2.resize(image, size, interpolation=cv2.INTER_LINEAR) for image in images])
        for mirrored in (False, True):
            view = seen[:, :, ::-1] if mirrored else seen
            logits = plain_logits(np.ascontiguousarray(view), mode, align_corners=align_corners, **how)
            logits = logits[:, :, ::-1] if mirrored else logits
            logits = resize_bilinear(jnp.asarray(logits, jnp.float32), (h, w), align_corners=align_corners)
            views.append(softmax(logits))
    return np.mean(views, 0)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("divisor", [1, 7])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_its_plain_definition(mode, divisor, align_corners):
    images = draw(2, 12, 15)
    one = inference_for(images, size_divisor=divisor, align_corners=align_corners)
    expected = plain_probabilities(images, mode, divisor=divisor, align_corners=align_corners)
    found = one.ids_and_probabilities(WEIGHTS, images, mode)
    np.testing.assert_allclose(found[1], expected, atol=1e-5)
    ids = np.asarray(one.ids(WEIGHTS, images, mode))
    np.testing.assert_array_equal(found[0], ids)
    assert (ids.dtype, ids.shape) == (np.uint8, (2, 12, 15))
    order = np.sort(expected, -1)
    sure = order[..., -1] - order[..., -2] > 1e-4
    assert sure.mean() > 0.95
    np.testing.assert_array_equal(ids[sure], expected.argmax(-1)[sure])


SIDES = st.integers(1, 26)


@given(h=SIDES, w=SIDES, window=st.tuples(SIDES, SIDES), cut=st.integers(1, 3), group=st.integers(1, 3))
@settings(max_examples=6, deadline=None)
def test_slide_is_upstreams_loop_at_any_size(h, w, window, cut, group):
    stride = tuple(-(-side // cut) for side in window)
    images = draw(1, h, w)
    one = inference_for(images, window=window, stride=stride, window_batch=group)
    _, found = one.ids_and_probabilities(WEIGHTS, images, "slide")
    np.testing.assert_allclose(found, softmax(plain_logits(images, "slide", window=window, stride=stride)), atol=1e-5)


@pytest.mark.parametrize("blending", ["flat", "gaussian"])
@pytest.mark.parametrize("window", [(12, 17), (40, 50), (12, 50)])
def test_a_window_over_the_whole_image_is_whole(window, blending):
    """To the bit where all of a window counts the same."""
    images = draw(2, 12, 17)
    one = inference_for(images, window=window, blending=blending)
    slide, whole = (np.asarray(one.ids_and_probabilities(WEIGHTS, images, mode)[1]) for mode in ("slide", "whole"))
    np.testing.assert_allclose(slide, whole, atol=1e-6 if blending == "gaussian" else 0)


def test_gaussian_windows_count_less_where_they_end():
    """Far from every window's border but their own middle's, the middle's window alone decides."""
    images = draw(1, 8, 13)
    flat, gaussian = (
        np.asarray(inference_for(images, blending=blending).ids_and_probabilities(WEIGHTS, images, "slide")[1])
        for blending in ("flat", "gaussian")
    )
    first = softmax(plain_logits(np.ascontiguousarray(images[:, :, :8]), "whole"))
    inside = np.s_[:, 2:6, 5]  # two columns from the first window's end, and in the second window its first
    assert np.abs(gaussian[inside] - first[inside]).max() < 0.1 * np.abs(flat[inside] - first[inside]).max()


def test_images_are_fitted_into_the_scale_and_results_have_their_size():
    images = draw(2, 12, 15)
    found = np.asarray(inference_of(scale=(20, 40)).ids_and_probabilities(WEIGHTS, images, "whole")[1])
    fitted = np.stack([cv2.resize(image, (25, 20), interpolation=cv2.INTER_LINEAR) for image in images])
    logits = resize_bilinear(jnp.asarray(network(normalize(fitted)), jnp.float32), (12, 15), align_corners=False)
    np.testing.assert_allclose(found, softmax(logits), atol=1e-5)


class Brightness(nnx.Module):
    """A network whose second logit is how bright the image is, at stride 4."""

    def __init__(self, align_corners):
        self.align_corners = align_corners

    def __call__(self, x):
        size = [-(-side // 4) for side in x.shape[1:3]]
        bright = resize_bilinear(x[..., :1], size, align_corners=self.align_corners)
        return SimpleNamespace(logits=jnp.concatenate([jnp.zeros_like(bright), bright], -1))


def brightest(share):
    """(row, column) around which the values [h,w] that are more than half the largest lie."""
    weights = np.maximum(share - (share.min() + share.max()) / 2, 0)
    rows, columns = np.mgrid[: share.shape[0], : share.shape[1]]
    return (weights * rows).sum() / weights.sum(), (weights * columns).sum() / weights.sum()


@pytest.mark.parametrize(
    ("mode", "sides"), [("whole", range(64, 81)), ("slide", range(64, 81)), ("slide_tta", (64, 71, 77))]
)
@pytest.mark.parametrize("align_corners", [False, True])
def test_an_impulse_stays_where_it_is_at_every_size(mode, sides, align_corners):
    graph, weights = split_model(Brightness(align_corners))
    for side in sides:
        place = side / 2 - 0.5, side / 3
        rows, columns = np.mgrid[:side, : side + 3]
        bright = np.exp(-((rows - place[0]) ** 2 + (columns - place[1]) ** 2) / (2 * 7**2))
        images = np.repeat((255 * bright).astype(np.uint8)[None, ..., None], 3, -1)
        config = config_of(scale=images.shape[1:3], align_corners=align_corners, window=(48, 48), stride=(32, 32))
        config.eval.tta_scales = (0.75, 1.0, 1.5)
        one = Inference(graph, config, make_mesh(data=1, space=1))
        found = brightest(np.asarray(one.ids_and_probabilities(weights, images, mode)[1], np.float64)[0, ..., 1])
        assert np.abs(np.subtract(found, place)).max() < 0.25, side


def test_one_program_serves_all_images_as_large_as_the_window():
    one = inference_of(scale=(40, 40))
    for size in ((20, 30), (10, 12), (30, 20)):
        one.ids(WEIGHTS, draw(1, *size), "slide")
    assert len(one._forward._latest) == 1
    one.ids(WEIGHTS, draw(1, 4, 30), "slide")  # 5x40, less than a window
    assert len(one._forward._latest) == 2


@pytest.mark.parametrize(("mode", "finishing"), [("whole", 1), ("slide", 1), ("whole_tta", 4), ("slide_tta", 4)])
def test_each_program_is_compiled_once(mode, finishing):
    """Also by what asks first how much memory they take; at two scales, as it is and mirrored, four ways to finish."""
    images = draw(1, 12, 15)
    one = inference_for(images)
    for _ in range(2):
        one.ids(WEIGHTS, images, mode)
    assert len(one._softmax._latest if mode.endswith("_tta") else one._ids._latest) == finishing


def test_programs_of_old_sizes_are_forgotten(monkeypatch):
    monkeypatch.setattr(compiled, "MOST_FORMS", 3)
    one = inference_of(scale=(16, 16))
    for side in range(8, 16):
        one.ids(WEIGHTS, draw(1, side, 8), "whole")
    assert len(one._forward._latest) == len(one._ids._latest) == 3


@pytest.mark.parametrize("mode", MODES)
def test_what_has_no_room_says_so_and_is_not_tried(mode, monkeypatch):
    images = draw(1, 40, 30)
    one = inference_for(images)
    needed = one.needed_bytes(WEIGHTS, images.shape, mode)
    assert needed > 40 * 30 * CLASSES * 4
    monkeypatch.setattr(one, "_free_bytes", lambda: needed - 1)
    monkeypatch.setattr(one, "_seen", lambda *_: pytest.fail("was tried"))
    with pytest.raises(UserError, match=rf"^40x30 pixels, {mode}: 1 of them at once need 0\.0 GiB .*parts$"):
        one.ids(WEIGHTS, images, mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_plan_counts_what_is_kept_meanwhile(mode, monkeypatch):
    """Beside a program that runs: the sum over windows that were seen, and that over views."""
    h, w = 12, 15
    one = inference_of(scale=(h, w), tta_scales=(1.0,))
    for name, planned in (("_forward", 1000), ("_ids", 100), ("_softmax", 100), ("_ids_and_softmax", 10**6)):
        monkeypatch.setattr(getattr(one, name), "bytes", lambda *_, planned=planned, **__: planned)
    total = 4 * h * w * CLASSES
    kept = total * (mode.startswith("slide") + mode.endswith("_tta"))
    assert one.needed_bytes(WEIGHTS, (1, h, w, 3), mode) == 1000 + kept
    more = one.needed_bytes(WEIGHTS, (1, h, w, 3), mode, probabilities=True)
    assert more == (1000 + kept if mode.endswith("_tta") else 10**6)
    monkeypatch.setattr(one._softmax, "bytes", lambda *_, **__: 10**6)
    assert one.needed_bytes(WEIGHTS, (1, h, w, 3), mode) == (10**6 + total if mode.endswith("_tta") else 1000 + kept)


def test_the_absurd_is_refused_without_compiling(monkeypatch):
    one = inference_of()
    monkeypatch.setattr(one, "needed_bytes", lambda *_: pytest.fail("was compiled"))
    images = np.broadcast_to(np.zeros(3, np.uint8), (1, 10**6, 10**6, 3))
    with pytest.raises(UserError, match="take mode slide, or cut it into parts"):
        one.ids(WEIGHTS, images, "whole")
