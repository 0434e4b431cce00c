"""The checks of a config: what cannot work is one line that names the field; tests/test_commandline.py runs some."""

import pytest

from cropjax.config import NETWORKS, defaults
from cropjax.data.labels import MOST_CLASSES
from cropjax.errors import UserError
from cropjax.models import mit, mscan
from cropjax.validation import validate


def mistake(config):
    with pytest.raises(UserError) as error:
        validate(config)
    line = str(error.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("network", NETWORKS)
def test_defaults_are_valid(network):
    config = defaults(network)
    assert validate(config) is config


@pytest.mark.parametrize(("network", "sizes"), [("segformer", mit.SIZES), ("segnext", mscan.SIZES)])
def test_published_sizes_are_valid(network, sizes):
    for size in sizes.values():
        config = defaults(network)
        config.model.backbone.update(size)
        validate(config)


@pytest.mark.parametrize(
    ("network", "field", "value", "wanted"),
    [
        ("segformer", "model.backbone.widths", (32, 64, 161, 256), ["(1, 2, 5, 8)", "heads"]),
        ("segformer", "model.backbone.widths", (32, 64, 160), ["4 values"]),
        ("segformer", "model.backbone.widths", (0, 64, 160, 256), ["0", "at least 1"]),
        ("segformer", "model.backbone.depths", (2, 2, 2, 2, 2), ["4 values"]),
        ("segformer", "model.backbone.depths", (2, 2, 0, 2), ["0", "at least 1"]),
        ("segformer", "model.backbone.drop_path", 1.0, ["1.0", "at most 0.99"]),
        ("segformer", "model.backbone.mlp_ratio", 0, ["whole number"]),
        ("segformer", "model.backbone.norm_eps", 0.0, ["0.0"]),
        ("segformer", "model.head.style", "nvidia", ["mmseg, huggingface"]),
        ("segformer", "model.head.channels", 0, ["at least 1"]),
        ("segformer", "model.head.dropout", -0.1, ["-0.1"]),
        ("segnext", "model.backbone.widths", (32, 64, 160), ["4 values"]),
        ("segnext", "model.backbone.depths", (3, 3, 12.5, 3), ["12.5", "whole number"]),
        ("segnext", "model.head.channels", 48, ["48", "multiple of 32"]),
        ("segnext", "model.head.rank", 0, ["at least 1"]),
        ("segnext", "model.head.train_steps", -1, ["-1"]),
        ("segnext", "model.head.eval_steps", -1, ["-1"]),
        ("segformer", "optim.betas", (0.9,), ["2 values"]),
        ("segformer", "optim.betas", (0.9, 1.0), ["1.0", "at most 0.999999"]),
        ("segformer", "optim.betas", (-0.1, 0.999), ["-0.1"]),
        ("segformer", "optim.eps", -1.0, ["-1.0"]),
        ("segformer", "optim.name", "adam", ["sgd, adamw"]),
        ("segformer", "optim.name", "sgd", ["optim", "no momentum"]),
        ("pspnet", "optim.name", "adamw", ["optim", "no betas"]),
        ("pspnet", "optim.momentum", 1.5, ["1.5"]),
        ("segnext", "eval.size_divisor", 0, ["at least 1"]),
        ("segnext", "eval.pool_window", (512, 512), ["networks that pool", "segnext has no pooled branch"]),
        ("segformer", "eval.pool_window", (512, 512), ["networks that pool", "segformer has no pooled branch"]),
        ("pspnet", "eval.pool_window", (512,), ["2 values"]),
        ("pspnet", "eval.pool_window", (512.0, 512), ["512.0", "whole number"]),
        ("deeplabv3plus", "eval.pool_window", (512, 0), ["at least 1"]),
        ("pspnet", "data.photometric", "gpu", ["host, device, off"]),
        ("pspnet", "data.on_error", "ignore", ["stop, skip"]),
        ("pspnet", "data.patience", 0.0, ["at least 0.1"]),
        ("pspnet", "data.patience", 60.0, ["data.patience = 60.0 is more than train.patience = 45.0"]),
        ("pspnet", "train.on_nan", "ignore", ["stop, rollback"]),
        ("pspnet", "train.ema", 1.5, ["1.5", "at most 1"]),
        ("pspnet", "train.frozen_stages", 5, ["5", "at most 4"]),
        ("pspnet", "train.frozen_stages", -2, ["at least -1"]),
        ("segformer", "optim.layer_decay", 1.1, ["1.1", "at most 1"]),
        ("segformer", "eval.stop_after", -1, ["-1", "at least 0"]),
        ("pspnet", "mesh.space", -2, ["at least -1"]),
        ("pspnet", "data.repeat_rare", 1.5, ["at most 1"]),
        ("pspnet", "loss.terms.dice", -1.0, ["at least 0"]),
        ("pspnet", "loss.terms.cross_entropy", 0.0, ["all 0", "cross_entropy=1.0"]),
        ("pspnet", "loss.label_smoothing", 1.0, ["at most 0.99"]),
        ("pspnet", "loss.focal.gamma", -1.0, ["at least 0"]),
        ("pspnet", "loss.focal.alpha", 1.5, ["at most 1"]),
        ("pspnet", "loss.dice.activation", "relu", ["sigmoid, softmax"]),
        ("pspnet", "loss.ohem.min_kept", -1, ["whole number", "at least 0"]),
        ("pspnet", "loss.ohem.threshold", 1.5, ["at most 1"]),
        ("pspnet", "loss.ohem.threshold", 0.7, ["loss.ohem.min_kept = 0", "100000"]),
        ("pspnet", "loss.average", "mean", ["all, valid"]),
        ("pspnet", "loss.balance", "enet", ["none, log, median"]),
        ("pspnet", "loss.class_weights", (1.0, 2.0), ["2 weights", "19 classes"]),
        ("pspnet", "loss.class_weights", (1.0,) * 18 + (-1.0,), ["-1.0", "at least 0"]),
    ],
)
def test_field(network, field, value, wanted):
    config = defaults(network)
    parent, _, name = field.rpartition(".")
    part = config
    for step in parent.split("."):
        part = part[step]
    part[name] = value
    line = mistake(config)
    assert line.startswith("loss.terms are" if "all 0" in wanted else field)
    for text in wanted:
        assert text in line


@pytest.mark.parametrize(
    "rule",
    [
        ("norm", 1.0),
        ("norm", 1.0, 0.0, 0.0),
        (1.0, "norm", 0.0),
        ("norm", "1.0", 0.0),
        ("norm", 1.0, -0.5),
        ("norm", -1.0, 0.5),
        ("norm", None, 0.0),
        "norm",
    ],
    ids=str,
)
@pytest.mark.parametrize("network", ["pspnet", "segformer"])
def test_rules(network, rule):
    config = defaults(network)
    config.optim.rules = (("head", 10, 1), rule)
    line = mistake(config)
    assert line.startswith("optim.rules")
    assert repr(rule) in line


def test_rules_that_are_three_values_each():
    config = defaults("pspnet")
    config.optim.rules = (("head", 10, 1.0), ("norm", 0.5, 0))
    validate(config)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("other", NETWORKS)
def test_parts_of_another_network(network, other):
    config = defaults(network)
    config.model.name = other
    if network == other:
        validate(config)
    else:
        cnns = {"pspnet", "deeplabv3plus"}
        part = "head" if {network, other} == cnns else "backbone"
        line = mistake(config)
        assert f"model.name = {other!r} does not fit model.{part}" in line
        assert "config file" in line


def folders(classes, colours=()):
    config = defaults("segformer")
    config.data.update(source="folders", classes=classes, colours=colours)
    return config


@pytest.mark.parametrize(
    ("classes", "colours", "wanted"),
    [
        ((), (), "data.classes = () must name two classes or more"),
        (("crack",), (), "as in ('background', 'crack')"),
        (("a", "b", "a"), (), "data.classes has 'a' twice"),
        (("a", " "), (), "data.classes: ' ' is no name"),
        (("a", 1), (), "data.classes: 1 is no name"),
        (tuple(map(str, range(MOST_CLASSES + 1))), (), "data.classes has 255 names; 254 are the most"),
        (("a", "b"), ((0, 0, 0),), "data.colours has 1 colours for the 2 names"),
        (("a", "b"), ((0, 0, 0), (0, 0, 0)), "data.colours has (0, 0, 0) twice"),
        (("a", "b"), ((0, 0, 0), (0, 0)), "data.colours: (0, 0) is no colour"),
        (("a", "b"), ((0, 0, 0), (0, 0, 256)), "data.colours: (0, 0, 256) is no colour"),
        (("a", "b"), ((0, 0, 0), "#ff0000"), "data.colours: ('#ff0000',) is no colour"),
        (("a", "b", "c"), (64, 32, 32), "data.colours: (64,) is no colour"),
    ],
)
def test_classes_of_folders(classes, colours, wanted):
    assert wanted in mistake(folders(classes, colours))


@pytest.mark.parametrize("field", ["classes", "colours"])
def test_classes_of_another_source(field):
    config = defaults("segformer")
    config.data[field] = ("a", "b")
    assert "are for data.source = 'folders'; cityscapes has classes of its own" in mistake(config)


def test_weights_are_as_many_as_the_classes_of_folders():
    config = folders(("a", "b"), ((0, 0, 0), (255, 255, 255)))
    config.loss.class_weights = (1.0, 2.0)
    assert validate(config) is config
    config.loss.class_weights = (1.0,)
    assert "1 weights for the 2 classes of folders" in mistake(config)


def test_a_batchnorm_group_does_not_span_parts_of_a_batch():
    config = defaults("pspnet")
    config.train.accumulate = 2
    assert "model.norm.groups = 1 would span the 2 parts of train.accumulate" in mistake(config)
    config.model.norm.groups = 2
    validate(config)


def test_a_setting_of_a_loss_that_is_left_out():
    config = defaults("pspnet")
    config.loss.terms.update(cross_entropy=0.0, dice=1.0)
    validate(config)
    config.loss.label_smoothing = 0.1
    assert "loss.label_smoothing = 0.1 is of cross entropy, which loss.terms.cross_entropy = 0" in mistake(config)
    config.loss.label_smoothing = 0.0
    config.loss.ohem.update(min_kept=100_000, threshold=0.7)
    assert "loss.ohem.min_kept = 100000 picks pixels of cross_entropy and focal" in mistake(config)
    config.loss.terms.focal = 1.0
    validate(config)


def test_class_weights_and_balance():
    config = defaults("pspnet")
    config.loss.update(class_weights=(1.0,) * 19, balance="log")
    assert "loss.class_weights and loss.balance = 'log'" in mistake(config)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"terms": dict(dice=3.0)}, "loss.terms.dice = 3.0"),
        ({"terms": dict(dice=1.0, lovasz=2.0)}, "loss.terms.dice = 1.0 and loss.terms.lovasz = 2.0"),
        ({"terms": dict(focal=1.0), "balance": "log"}, "loss.terms.focal = 1.0 with weights of classes"),
        ({"terms": dict(focal=1.0), "class_weights": (1.0,) * 19}, "loss.terms.focal = 1.0 with weights of classes"),
        ({"ohem": dict(min_kept=100_000)}, "loss.ohem.min_kept = 100000"),
        ({"terms": dict(focal=1.0)}, None),
        ({"label_smoothing": 0.1, "balance": "log"}, None),
    ],
    ids=str,
)
def test_losses_that_are_not_sums_over_pixels_do_not_accumulate(changes, wanted):
    config = defaults("pspnet")
    config.loss.update(changes)
    validate(config)
    config.train.accumulate = config.model.norm.groups = 2
    if wanted is None:
        validate(config)
    else:
        line = mistake(config)
        assert line.startswith(f"{wanted} would see each of the 2 parts of train.accumulate by itself")
        assert "set train.accumulate = 1" in line
