"""A trained network out of its run folder: every kind of image, and what is said of those that are none."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from saved_run import STEP
from tiny import tiny_config

import cropjax
from cropjax.config import build_source, label_set
from cropjax.data.labels import CITYSCAPES
from cropjax.errors import UserError
from cropjax.evaluate import evaluate
from cropjax.inference import MODES, Inference
from cropjax.network import Network, as_rgb
from cropjax.panels import overlay
from cropjax.restore import restore_run
from cropjax.sharding import make_mesh

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


@pytest.fixture(scope="module")
def net(saved_run):
    return cropjax.load(saved_run)


def test_importing_is_instant():
    code = "import sys, cropjax; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_there_is_not():
    with pytest.raises(AttributeError, match="'lod'"):
        cropjax.lod  # noqa: B018


def test_a_network_knows_its_classes_and_its_step(net):
    assert net.classes == CITYSCAPES.names
    assert net.palette == CITYSCAPES.palette
    assert net.step == STEP


@pytest.mark.parametrize("size", [(24, 40), (32, 64), (41, 23), (1, 1)])
@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_a_mask_has_the_size_of_its_image(net, size, mode):
    mask = net(np.resize(IMAGE, (*size, 3)), mode=mode)
    assert mask.shape == size
    assert mask.dtype == np.uint8
    assert mask.max() < 19


def test_masks_are_what_evaluation_scores(net, saved_run):
    config, mesh = tiny_config(), make_mesh(data=-1, space=-1)
    config.eval.update(modes=MODES, tta_scales=(0.5, 1.0))
    config.eval.best = "whole/miou"
    source = build_source(config, "eval")
    _, graph, state = restore_run(config, saved_run, "best", mesh)
    scores = evaluate(Inference(graph, config, mesh), state, source, config, mesh).scores
    net = Network(config, saved_run)
    for mode in MODES:
        confusion = np.zeros((19, 19), np.int64)
        for record in map(source.__getitem__, range(len(source))):
            label, mask = record["label"][:, :], net(record["image"][:, :], mode=mode)
            np.add.at(confusion, (label[label != 255], mask[label != 255]), 1)
        np.testing.assert_array_equal(scores[mode].confusion, confusion, mode)
        assert (confusion.sum(0) > 0).sum() > 1, "weights of one class would tell nothing"


def test_the_mode_is_the_first_of_the_run_unless_given(net):
    np.testing.assert_array_equal(net(IMAGE), net(IMAGE, mode="whole"))
    assert (net.probabilities(IMAGE, mode="whole") != net.probabilities(IMAGE, mode="slide")).any()
    with pytest.raises(UserError, match="mode = 'hole' is not one of whole, slide"):
        net(IMAGE, mode="hole")


def test_probabilities_add_up_and_the_largest_is_the_mask(net):
    probabilities = net.probabilities(IMAGE)
    assert probabilities.shape == (24, 40, 19)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(-1), net(IMAGE))


def test_one_image_in_every_form_has_one_mask(net, tmp_path):
    mask = net(IMAGE)
    path = tmp_path / "x.png"
    Image.fromarray(IMAGE).save(path)
    for form in (path, str(path), Image.open(path), Image.fromarray(IMAGE).convert("RGBA"), IMAGE[::-1][::-1]):
        np.testing.assert_array_equal(net(form), mask)


def test_grey_is_three_equal_colours():
    grey = IMAGE[..., 0]
    wanted = np.stack([grey] * 3, -1)
    for form in (grey, grey[..., None], Image.fromarray(grey)):
        np.testing.assert_array_equal(as_rgb(form), wanted)


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        (IMAGE / np.float32(255), r"float32.*\(255 \* image\)\.round\(\)\.astype\('uint8'\)"),
        (IMAGE.astype(np.uint16), r"uint16.*\(image // 256\)\.astype\('uint8'\)"),
        (IMAGE[None], r"\(1, 24, 40, 3\).*images\[0\]"),
        (np.zeros((4, 4, 4), np.uint8), r"image\[\.\.\., :3\]"),
        (IMAGE.transpose(2, 0, 1), r"image\.transpose\(1, 2, 0\)"),
        (np.zeros((9, 9, 5), np.uint8), "5 channels"),
        (np.zeros((0, 9, 3), np.uint8), r"\(0, 9, 3\) is no image"),
        (np.zeros(9, np.uint8), r"\(9,\) is no image"),
        (Image.fromarray(np.zeros((4, 4), np.int32)), "mode I: convert it"),
        ("nowhere.png", "nowhere.png: cannot be read"),
    ],
)
def test_what_is_no_image_says_how_to_mend_it(net, image, wanted):
    with pytest.raises(UserError, match=wanted):
        net(image)


def test_the_mends_mend():
    np.testing.assert_array_equal(as_rgb((255 * (IMAGE / np.float32(255))).round().astype("uint8")), IMAGE)
    np.testing.assert_array_equal(as_rgb((IMAGE.astype(np.uint16) * 257 // 256).astype("uint8")), IMAGE)


def test_an_image_that_is_too_large_for_the_memory_is_not_tried(net):
    absurd = np.lib.stride_tricks.as_strided(IMAGE, (2**24, 2**24, 3), (0, 0, 1))
    with pytest.raises(UserError, match="16777216x16777216"):
        net(absurd)


def test_an_overlay_shows_the_image_and_the_mask(net):
    mask = net(IMAGE)
    np.testing.assert_array_equal(net.overlay(IMAGE, mask), overlay(IMAGE, mask, label_set(net.config)))
    with pytest.raises(UserError, match=r"\(24, 39\)"):
        net.overlay(IMAGE, mask[:, 1:])


@pytest.mark.parametrize(
    ("checkpoint", "wanted"),
    [("3", r"no step 3; choose one of \[2\]"), ("first", "first is not best, latest or a step")],
)
def test_a_checkpoint_that_there_is_not(saved_run, checkpoint, wanted):
    with pytest.raises(UserError, match=wanted):
        cropjax.load(saved_run, checkpoint)


def test_any_checkpoint_can_be_named(saved_run, net):
    for checkpoint in ("latest", str(STEP), STEP):
        other = cropjax.load(saved_run, checkpoint)
        np.testing.assert_array_equal(other(IMAGE), net(IMAGE))


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(UserError, match=r"config.json cannot be read"):
        cropjax.load(tmp_path)


def test_a_run_from_before_a_field_has_its_default(saved_run, net, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(saved_run, run)
    config = json.loads((run / "config.json").read_text())
    del config["eval"]["pool_window"], config["model"]["norm"], config["mesh"]
    (run / "config.json").write_text(json.dumps(config))
    np.testing.assert_array_equal(cropjax.load(run)(IMAGE), net(IMAGE))


def test_a_run_of_another_network_than_its_config_says(saved_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(saved_run, run)
    config = json.loads((run / "config.json").read_text())
    config["data"]["source"] = "camvid"
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="head"):
        cropjax.load(run)


def test_the_weights_are_on_one_device_and_without_the_optimiser(net):
    leaves = jax.tree.leaves(net._weights)
    assert all(len(leaf.devices()) == 1 for leaf in leaves)
    assert set(net._weights) == {"params", "batch_stats"}
