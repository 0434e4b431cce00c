"""Every file under configs/ builds at full size, and a shrunken one of its kind takes a step and is evaluated."""

import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from cropjax import train as train_module
from cropjax.config import NETWORKS, build_model, build_optimizer, label_set
from cropjax.models import mscan
from cropjax.sharding import make_mesh
from cropjax.step import abstract_state, make_train_step, split_model
from cropjax.train import check_step, train
from cropjax.validation import validate

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module.get_config()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_is_valid_and_says_how_to_run_it(path):
    module, config = load(path)
    validate(config)
    assert config.is_locked
    assert f"python -m cropjax.main --config configs/{path.name}" in module.__doc__


@pytest.mark.parametrize("network", NETWORKS)
def test_demo_has_a_small_network_of_each_family(network):
    module, _ = load(next(path for path in CONFIGS if path.stem == "demo"))
    config = validate(module.get_config(network))
    assert config.model.name == network
    assert 1e5 < parameters(config) < 2e6


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_step_of_the_full_size_traces(path):
    _, config = load(path)
    mesh = make_mesh(data=1, space=-1)
    graph, weights = split_model(build_model(config))
    direction, schedule = build_optimizer(config)
    step = make_train_step(graph, direction, schedule, config, mesh)
    check_step(step, abstract_state(weights, direction, mesh), config, mesh)


def shrink(config):
    """The same program in small: widths, sizes and counts change, topology and settings do not."""
    config.init_from = ""
    backbone, head = config.model.backbone, config.model.head
    match config.model.name:
        case "pspnet" | "deeplabv3plus":
            backbone.width, head.channels = 4, 8
            if "dilations" in head:
                head.dilations = tuple(range(1, len(head.dilations) + 1))
        case "segformer":
            backbone.widths, head.channels = (4, 8, 20, 32), 8
        case "segnext":
            backbone.widths, head.channels = (4, 8, 12, 16), 32
    if "depths" in backbone:
        backbone.depths = (2, 2, 2, 2)
    config.model.auxiliary.channels = 4
    config.data.source = "streets"
    config.data.streets.update(size=(32, 64), train_count=2, eval_count=1)
    config.data.scale = (64, 32)
    config.data.crop_size = tuple(min(side, 33) if side % 2 else 32 for side in config.data.crop_size)
    config.train.update(steps=1, batch_size=2)
    config.eval.update(window=(33, 33), stride=(17, 17), batch_size=1, location_prior=0)
    return config


def kind(config):
    """What makes a shrunken program of one crop size another one."""
    return json.dumps([config.model.to_dict(), config.loss.to_dict(), config.optim.name])


def abstract_model(config):
    """The network, whose weights are shapes alone."""
    return nnx.eval_shape(lambda: build_model(config))


def layers(config):
    """{path: kind} of the network's modules; of a transformer's stage the first two blocks stand for all."""
    place = {"segformer": 4, "segnext": 3}.get(config.model.name)  # of a block's number in a path

    def representative(path):
        blocks = place is not None and "blocks" in path[:place] and len(path) > place
        return (*path[:place], min(path[place], 1), *path[place + 1 :]) if blocks else path

    return {representative(path): type(module) for path, module in nnx.iter_modules(abstract_model(config))}


def parameters(config):
    return sum(leaf.size for leaf in jax.tree.leaves(split_model(abstract_model(config))[1]["params"]))


SHRUNKEN = {path: shrink(load(path)[1]) for path in CONFIGS}
DISTINCT = {(kind(config), config.data.crop_size): path for path, config in SHRUNKEN.items()}
OF_A_NETWORK = {config.model.name: path for path, config in SHRUNKEN.items() if "769" in path.stem}


def test_shrunken_configs_are_few_and_have_both_test_modes():
    assert len(DISTINCT) <= 12
    assert {mode for path in DISTINCT.values() for mode in load(path)[1].eval.modes} == {"whole", "slide"}
    assert set(OF_A_NETWORK) == set(NETWORKS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shrunken_config_has_the_layers_of_the_full_one(path):
    full, small = load(path)[1], shrink(load(path)[1])
    if "depths" in full.model.backbone:
        full.model.backbone.depths = tuple(max(depth, 2) for depth in full.model.backbone.depths)
    assert layers(full) == layers(small)
    assert parameters(small) < parameters(full) / 10


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] * (path not in OF_A_NETWORK.values())) for path in DISTINCT.values()],
    ids=lambda path: path.stem,
)
@pytest.mark.usefixtures("quick_compile")
def test_shrunken_config_trains_and_evaluates(path, tmp_path, monkeypatch):
    monkeypatch.setattr(mscan, "STRIPS", (3, 5, 7))  # as many as there are, with fewer taps to compile
    config = shrink(load(path)[1])
    scores = train(config, tmp_path)
    assert set(scores) == set(config.eval.modes)
    for s in scores.values():
        assert s.confusion.sum() == np.sum(train_module.build_source(config, "eval")[0]["label"] != 255)
        assert len(s.iou) == label_set(config).num_classes


PARAMETERS = {
    "pspnet_512": 48_975_494,
    "deeplab_769": 43_589_878,
    "segformer_b0_512": 3_720_051,
    "segformer_b3_512": 44_603_859,
    "segnext_t_512": 4_229_747,
    "segnext_b_512": 27_569_107,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name):
    """mmsegmentation's numbers for 19 classes; tests/test_parity.py has them from its networks."""
    _, config = load(next(path for path in CONFIGS if path.stem == name))
    assert parameters(config) == PARAMETERS[name]


def test_deeplab_without_its_auxiliary_head():
    _, config = load(next(path for path in CONFIGS if path.stem == "deeplab_769"))
    config.loss.auxiliary_weight = 0.0
    assert round(parameters(config) / 1e6, 3) == 41.225
