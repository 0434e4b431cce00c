"""The depth of every parameter of a tiny network of each family, and the learning rate that follows from it."""

import jax
import pytest
from tiny import tiny_config

from cropjax.config import build_model
from cropjax.depth import depths, part
from cropjax.optim import parameter_factors
from cropjax.step import split_model

RESNET = {
    "backbone.stem.": (0, 0),
    "backbone.stages.0.0.": (1, 1),
    "backbone.stages.0.1.": (1, 2),
    "backbone.stages.1.0.": (2, 3),
    "backbone.stages.1.1.": (2, 4),
    "backbone.stages.2.0.": (3, 5),
    "backbone.stages.2.1.": (3, 6),
    "backbone.stages.3.0.": (4, 7),
    "backbone.stages.3.1.": (4, 8),
    "head.": (5, 9),
    "auxiliary.": (5, 9),
}
# Beginning of a parameter's path -> part and depth, of networks with (1, 2, 1, 1) blocks in the transformers' stages.
EXPECTED = {
    "pspnet": RESNET,
    "deeplabv3plus": RESNET,
    "segformer": {
        "backbone.stages.0.embed.": (0, 0),
        "backbone.stages.0.embed_norm.": (0, 0),
        "backbone.stages.0.blocks.0.": (1, 1),
        "backbone.stages.0.norm.": (1, 1),
        "backbone.stages.1.embed.": (2, 2),
        "backbone.stages.1.embed_norm.": (2, 2),
        "backbone.stages.1.blocks.0.": (2, 2),
        "backbone.stages.1.blocks.1.": (2, 3),
        "backbone.stages.1.norm.": (2, 3),
        "backbone.stages.2.embed": (3, 4),
        "backbone.stages.2.blocks.0.": (3, 4),
        "backbone.stages.2.norm.": (3, 4),
        "backbone.stages.3.embed": (4, 5),
        "backbone.stages.3.blocks.0.": (4, 5),
        "backbone.stages.3.norm.": (4, 5),
        "head.": (5, 6),
    },
    "segnext": {
        "backbone.embeds.0.0.": (0, 0),
        "backbone.embeds.0.1.": (0, 0),
        "backbone.blocks.0.0.": (1, 1),
        "backbone.norms.0.": (1, 1),
        "backbone.embeds.1.0.": (2, 2),
        "backbone.blocks.1.0.": (2, 2),
        "backbone.blocks.1.1.": (2, 3),
        "backbone.norms.1.": (2, 3),
        "backbone.embeds.2.0.": (3, 4),
        "backbone.blocks.2.0.": (3, 4),
        "backbone.norms.2.": (3, 4),
        "backbone.embeds.3.0.": (4, 5),
        "backbone.blocks.3.0.": (4, 5),
        "backbone.norms.3.": (4, 5),
        "head.": (5, 6),
    },
}


def network(name):
    config = tiny_config(name)
    if "depths" in config.model.backbone:
        config.model.backbone.depths = (1, 2, 1, 1)
    return config


def by_path(tree):
    return {jax.tree_util.keystr(keys, simple=True, separator="."): x for keys, x in jax.tree.leaves_with_path(tree)}


def expected(name, path):
    (found,) = {place for start, place in EXPECTED[name].items() if path.startswith(start)}
    return found


@pytest.mark.parametrize("name", EXPECTED)
def test_each_parameter_has_the_part_and_the_depth_of_the_table(name):
    paths = by_path(split_model(build_model(network(name)))[1]["params"])
    found, top = depths(paths)
    assert top == EXPECTED[name]["head."][1]
    assert {path: (part(path), found[path]) for path in paths} == {path: expected(name, path) for path in paths}
    assert all(any(path.startswith(start) for path in paths) for start in EXPECTED[name])


def test_the_one_convolution_of_a_plain_stem_is_the_stem():
    config = network("pspnet")
    config.model.backbone.deep_stem = False
    paths = by_path(split_model(build_model(config))[1]["params"])
    found, _ = depths(paths)
    stem = {path for path, depth in found.items() if depth == 0}
    assert stem == {path for path in paths if path.startswith("backbone.conv1.")}
    assert len(stem) == 3


@pytest.mark.parametrize("name", EXPECTED)
def test_the_learning_rate_falls_by_a_factor_from_depth_to_depth_and_rules_stay(name):
    config = network(name)
    params = split_model(build_model(config))[1]["params"]
    rules = (("backbone", 3.0, 0.5), ("head", 10.0, 1.0))
    rates, decays = map(by_path, parameter_factors(params, rules, layer_decay=0.5))
    top = EXPECTED[name]["head."][1]
    for path in by_path(params):
        rule = (3.0, 0.5) if path.startswith("backbone") else (10.0, 1.0)
        assert rates[path] == rule[0] * 0.5 ** (top - expected(name, path)[1]), path
        assert decays[path] == rule[1], path


@pytest.mark.parametrize("frozen_stages", range(-1, 5))
@pytest.mark.parametrize("name", EXPECTED)
def test_frozen_parts_have_no_learning_rate_and_no_decay(name, frozen_stages):
    params = split_model(build_model(network(name)))[1]["params"]
    factors = map(by_path, parameter_factors(params, frozen_stages=frozen_stages))
    wanted = {path: float(expected(name, path)[0] > frozen_stages) for path in by_path(params)}
    assert list(factors) == [wanted, wanted]
