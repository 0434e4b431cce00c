"""BatchNorm's statistics of whole training images: what they are, and that they replace those of training."""

import jax
import numpy as np
import pytest
from tiny import tiny_config

import cropjax
from cropjax.config import build_model, build_source
from cropjax.data.transforms import resize_keep_ratio
from cropjax.errors import UserError
from cropjax.norm_statistics import estimate_statistics
from cropjax.ops.normalize import normalize
from cropjax.step import merge_model, split_model


@pytest.fixture(scope="module")
def drawn():
    config = tiny_config("pspnet")
    config.eval.norm_images = 6
    return config, *split_model(build_model(config))


def test_the_first_norm_has_the_moments_of_what_it_sees(drawn):
    config, graph, weights = drawn
    found = estimate_statistics(config, weights, 6)
    source = build_source(config, "train")
    images = np.stack([resize_keep_ratio(source[i]["image"], (64, 32)) for i in range(6)])
    stem = merge_model(graph, weights).backbone.stem[0]
    seen = np.asarray(stem.conv(normalize(images)), np.float64).reshape(-1, stem.norm.mean.shape[0])
    first = found["backbone"]["stem"][0]["norm"]
    np.testing.assert_allclose(first["mean"], seen.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(first["var"], seen.var(0, ddof=1), rtol=1e-4)


def test_what_training_left_does_not_matter(drawn):
    config, _, weights = drawn
    other = weights | {"batch_stats": jax.tree.map(lambda x: x + 3, weights["batch_stats"])}
    jax.tree.map(
        np.testing.assert_array_equal, estimate_statistics(config, weights, 6), estimate_statistics(config, other, 6)
    )


def test_batches_count_by_their_images(drawn, monkeypatch):
    config, _, weights = drawn
    monkeypatch.setattr("cropjax.norm_statistics.TOGETHER", 4)
    found = estimate_statistics(config, weights, 6)  # every second one: frames in a row are alike
    records = [build_source(config, "train")[i] for i in range(6)]
    monkeypatch.setattr("cropjax.norm_statistics.build_source", lambda *_: records[::2])
    first = estimate_statistics(config, weights, 3)
    monkeypatch.setattr("cropjax.norm_statistics.build_source", lambda *_: records[1::2])
    second = estimate_statistics(config, weights, 3)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, first, second)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, mean)


def test_one_image_has_no_statistics(drawn):
    config, _, weights = drawn
    config = config.copy_and_resolve_references()
    config.eval.norm_images = 1
    with pytest.raises(UserError, match=r"eval.norm_images = 1: statistics need two training images"):
        estimate_statistics(config, weights, 1)


def test_a_run_that_is_read_has_them(saved_run):
    from cropjax.network import Network
    from cropjax.workdir import run_config

    config = run_config(saved_run).copy_and_resolve_references()
    config.eval.norm_images = 6
    anew, plain = Network(config, saved_run), cropjax.load(saved_run)
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    assert np.abs(anew.probabilities(image) - plain.probabilities(image)).max() > 1e-4
