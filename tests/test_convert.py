"""Weights to upstream's names and back, every way in which a file can be the wrong one, and the command."""

import functools
import json
import re
import runpy
import shlex

import jax
import numpy as np
import pytest
import safetensors
from command import command
from hypothesis import given
from hypothesis import strategies as st

from cropjax import workdir as run_folder
from cropjax.checkpoint import Checkpoints
from cropjax.config import build_model, build_optimizer, defaults
from cropjax.convert import convert, load_torch_state, parts_of, torch_state, upstream_state, write_safetensors
from cropjax.errors import UserError
from cropjax.huggingface import to_hub
from cropjax.models import mit, mscan
from cropjax.sharding import make_mesh
from cropjax.step import create_state, split_model
from cropjax.weights import read_weights

# Entries of the state dicts that mmsegmentation 1.2.2 makes of these networks, BatchNorm's counters among them.
ENTRIES = {
    ("pspnet", 50): 370,
    ("deeplabv3plus", 50): 424,
    ("deeplabv3plus", 18): 226,
    ("segformer", "b0"): 192,
    ("segformer", "b3"): 548,
    ("segnext", "t"): 550,
    ("segnext", "b"): 854,
}
SMALL = {"pspnet": 18, "deeplabv3plus": 18, "segformer": "b0", "segnext": "t"}
NETWORKS = pytest.mark.parametrize("network", SMALL)


def narrow(network, size=None, seed=0):
    """A config of the network of that size, with few channels."""
    size = size or SMALL[network]
    config = defaults(network)
    config.seed = seed
    if network == "segformer":
        config.model.backbone.update(depths=mit.SIZES[size]["depths"], widths=(1, 2, 5, 8), mlp_ratio=1)
        config.model.head.channels = 4
    elif network == "segnext":
        config.model.backbone.update(depths=mscan.SIZES[size]["depths"], widths=(2, 2, 4, 4))
        config.model.head.channels = 32
    else:
        config.model.backbone.update(depth=size, width=2)
        config.model.head.channels = 4
        config.model.auxiliary.channels = 2
    return config


@functools.cache  # nothing here changes its arguments
def weights(network, size=None, seed=0, **backbone):
    """The network's, with statistics and scales that tell every leaf from the others."""
    config = narrow(network, size, seed)
    config.model.backbone.update(backbone)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.random(x.shape, x.dtype), split_model(build_model(config))[1])


def backbone_of(state_dict):
    return {k.removeprefix("backbone."): v for k, v in state_dict.items() if k.startswith("backbone.")}


def assert_equal(got, expected):
    jax.tree.map(np.testing.assert_array_equal, got, expected)


# ------------------------------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize(("network", "size"), ENTRIES)
def test_there_and_back_is_the_identity(network, size):
    tree = weights(network, size)
    state_dict = torch_state(tree)
    assert len(state_dict) == ENTRIES[network, size]  # so every name is unique
    assert len(upstream_state(tree)) == len(jax.tree.leaves(tree))
    filled = load_torch_state(weights(network, size, seed=1), state_dict)
    assert_equal(filled, tree)
    again = torch_state(filled)
    assert again.keys() == state_dict.keys()
    assert_equal(again, state_dict)


def test_counters_of_batch_norm():
    counters = {k: v for k, v in torch_state(weights("segnext"), 7).items() if k.endswith(".num_batches_tracked")}
    assert len(counters) == 2 * (3 + 3 + 5 + 2) + 5  # two a block, one an embedding's convolution
    assert {(v.dtype, v.shape, int(v)) for v in counters.values()} == {(np.dtype(np.int64), (), 7)}


@NETWORKS
def test_a_module_is_filled_in_place(network):
    tree = weights(network)
    model = build_model(narrow(network, seed=1))
    load_torch_state(model, torch_state(tree))
    assert_equal(split_model(model)[1], tree)


def test_filling_keeps_types_and_leaves_the_arguments_alone():
    tree = weights("pspnet", seed=1)
    before = jax.tree.map(np.copy, tree)
    state_dict = {key: value.astype(np.float16) for key, value in upstream_state(weights("pspnet")).items()}
    filled = load_torch_state(tree, state_dict)
    assert {leaf.dtype for leaf in jax.tree.leaves(filled)} == {np.dtype(np.float32)}
    assert_equal(tree, before)


# ------------------------------------------------------------------------------------------------------ kinds of files


@NETWORKS
@pytest.mark.parametrize("classifier", [None, "fc", "head", "classifier"])
def test_a_backbone_file_fills_the_backbone(network, classifier):
    tree, start = weights(network), weights(network, seed=1)
    state_dict = backbone_of(torch_state(tree))
    if classifier:
        state_dict |= {f"{classifier}.weight": np.zeros((1000, 16)), f"{classifier}.bias": np.zeros(1000)}
    assert parts_of(state_dict) == ("backbone",)
    filled = load_torch_state(start, state_dict, parts=("backbone",))
    for kind in ("params", "batch_stats"):
        for part, leaves in filled[kind].items():  # MiT has no statistics, SegNeXt's head neither
            assert_equal(leaves, (tree if part == "backbone" else start)[kind][part])


def test_torchvisions_resnet():
    tree = weights("pspnet", 50, deep_stem=False)
    state_dict = backbone_of(torch_state(tree)) | {"fc.weight": np.zeros((1000, 64)), "fc.bias": np.zeros(1000)}
    assert len(state_dict) == 320  # as torchvision's resnet50 has
    assert state_dict["conv1.weight"].shape == (2, 3, 7, 7)
    assert {"bn1.running_var", "layer1.0.downsample.0.weight", "layer3.5.bn3.bias"} < state_dict.keys()
    filled = load_torch_state(weights("pspnet", 50, seed=1, deep_stem=False), state_dict, parts=("backbone",))
    assert_equal(filled["params"]["backbone"], tree["params"]["backbone"])


def test_backbones_of_mscans_authors():
    tree = weights("segnext")
    state_dict = {k.replace(".mlp.dwconv.", ".mlp.dwconv.dwconv."): v for k, v in torch_state(tree).items()}
    assert "block1.0.mlp.dwconv.dwconv.weight" in backbone_of(state_dict)
    filled = load_torch_state(weights("segnext", seed=1), backbone_of(state_dict), parts=("backbone",))
    assert_equal(filled["params"]["backbone"], tree["params"]["backbone"])


def test_bases_of_a_factorisation_are_drawn_not_read():
    tree = weights("segnext")
    state_dict = torch_state(tree) | {"decode_head.hamburger.ham.bases": np.zeros((1, 32, 16), np.float32)}
    assert_equal(load_torch_state(weights("segnext", seed=1), state_dict), tree)


def test_parts_left_out_keep_their_values_and_may_have_any_shape():
    tree, start = weights("pspnet"), weights("pspnet", seed=1)
    state_dict = torch_state(tree)
    state_dict["decode_head.conv_seg.weight"] = np.zeros((150, 4, 1, 1), np.float32)
    state_dict = {key: value for key, value in state_dict.items() if not key.startswith("auxiliary_head")}
    filled = load_torch_state(start, state_dict, parts=("backbone",))
    assert_equal(filled["params"]["backbone"], tree["params"]["backbone"])
    for part in ("head", "auxiliary"):
        assert_equal(filled["params"][part], start["params"][part])
        assert_equal(filled["batch_stats"][part], start["batch_stats"][part])


@NETWORKS
def test_the_classifiers_can_stay_as_drawn(network):
    tree, start = weights(network), weights(network, seed=1)
    state_dict = with_150_classes(torch_state(tree))
    without = {key: value for key, value in state_dict.items() if ".conv_seg." not in key}
    for values in (state_dict, without):
        filled = load_torch_state(start, values, classifier=False)
        for part, layers in filled["params"].items():
            for name, layer in layers.items():
                source = start if name == "classifier" else tree
                assert_equal(layer, source["params"][part][name])


def with_150_classes(state_dict):
    return {
        key: np.zeros((150, *value.shape[1:]), np.float32) if ".conv_seg." in key else value
        for key, value in state_dict.items()
    }


# ------------------------------------------------------------------------------------------------------ the wrong file


def refusal(state_dict, network="pspnet", **args):
    with pytest.raises(UserError, match=r"^file\.pth ") as error:
        load_torch_state(weights(network), state_dict, source="file.pth", **args)
    assert "\n" not in str(error.value)
    return str(error.value)


@given(st.sampled_from(list(SMALL)), st.data())
def test_any_one_change_is_refused_and_named(network, data):
    """A key less, a key more, a renamed key, another shape, another kind of number."""
    state_dict = torch_state(weights(network))
    key = data.draw(st.sampled_from([key for key in state_dict if not key.endswith("num_batches_tracked")]))
    value = state_dict[key]
    change = data.draw(st.sampled_from(["less", "more", "renamed", "longer", "deeper", "integers"]))
    match change:
        case "less":
            del state_dict[key]
        case "more":
            state_dict[f"{key}.more"] = value
        case "renamed":
            state_dict[f"{key}.more"] = state_dict.pop(key)
        case "longer":
            state_dict[key] = np.concatenate([value, value], -1)
        case "deeper":
            state_dict[key] = value[..., None]
        case "integers":
            state_dict[key] = value.astype(np.int8)
    assert key in refusal(state_dict, network)


def test_many_names_are_counted():
    state_dict = {k: v for k, v in torch_state(weights("pspnet")).items() if "psp_modules.0" not in k}
    assert " and 2 more; is config.model the same network?" in refusal(state_dict)


def test_another_shape_is_named_in_torchs_layout():
    state_dict = torch_state(weights("pspnet"))
    state_dict["backbone.stem.0.weight"] = np.zeros((1, 3, 7, 7), np.float32)
    assert "backbone.stem.0.weight [1, 3, 7, 7], wanted [1, 3, 3, 3]" in refusal(state_dict)


@pytest.mark.parametrize("value", [np.nan, np.inf, np.float64(1e39)], ids=str)
def test_a_value_that_is_not_finite_is_refused(value):
    state_dict = torch_state(weights("pspnet"))
    state_dict["backbone.stem.0.weight"] = state_dict["backbone.stem.0.weight"].astype(np.float64)
    state_dict["backbone.stem.0.weight"][0, 0, 0, 0] = value
    assert "has nan or infinite values in backbone.stem.0.weight" in refusal(state_dict)


def test_a_negative_variance_is_refused():
    state_dict = torch_state(weights("pspnet"))
    state_dict["backbone.stem.1.running_var"] = -state_dict["backbone.stem.1.running_var"]
    assert "has negative values in backbone.stem.1.running_var" in refusal(state_dict)


def test_a_message_about_a_strange_key_is_one_short_line():
    state_dict = torch_state(weights("pspnet")) | {"backbone.\n\x1b[31m" + 9000 * "x": np.zeros(1, np.float32)}
    message = refusal(state_dict)
    assert "\n" not in message
    assert "\x1b" not in message
    assert len(message) < 300


def test_another_kind_of_number_is_named():
    state_dict = torch_state(weights("pspnet"))
    state_dict["decode_head.conv_seg.bias"] = np.zeros(19, np.int8)
    assert "decode_head.conv_seg.bias int8 [19], wanted [19]" in refusal(state_dict)


@NETWORKS
def test_another_number_of_classes_names_the_mend(network):
    message = refusal(with_150_classes(torch_state(weights(network))), network)
    assert "has 150 classes, the network 19: --config.init_classifier=False" in message
    assert "init_parts" in message


def test_another_width_of_the_head_is_no_matter_of_classes():
    state_dict = with_150_classes(torch_state(weights("segformer")))
    state_dict["decode_head.conv_seg.weight"] = np.zeros((150, 8, 1, 1), np.float32)
    assert "decode_head.conv_seg.weight [150, 8, 1, 1], wanted [19, 4, 1, 1]" in refusal(state_dict, "segformer")


@pytest.mark.parametrize(("network", "other"), [(a, b) for a in SMALL for b in SMALL if a != b])
def test_another_network_is_refused(network, other):
    refusal(torch_state(weights(other)), network)


@pytest.mark.parametrize(("network", "size"), [("pspnet", 50), ("segformer", "b3"), ("segnext", "b")])
def test_a_deeper_backbone_is_refused(network, size):
    state_dict = torch_state(weights(network, size))
    assert refusal(state_dict, network).endswith("is config.model the same network?")
    message = refusal(backbone_of(state_dict), network, parts=("backbone",))
    assert "backbone." not in message  # the names are those of the file


def test_a_part_that_the_file_lacks():
    state_dict = torch_state(weights("pspnet"))
    assert "has no head: leave 'head' out of init_parts" in refusal(backbone_of(state_dict))
    state_dict = {k: v for k, v in state_dict.items() if not k.startswith("auxiliary_head.")}
    assert "has no auxiliary head: leave 'auxiliary' out of init_parts" in refusal(state_dict)


def test_a_part_that_the_network_lacks():
    config = narrow("pspnet")
    config.loss.auxiliary_weight = 0.0
    start, state_dict = split_model(build_model(config))[1], torch_state(weights("pspnet"))
    with pytest.raises(UserError, match=r"its auxiliary head: leave 'auxiliary' out of init_parts, or set loss\.aux"):
        load_torch_state(start, state_dict)
    load_torch_state(start, state_dict, parts=("backbone", "head"))


def test_one_parameter_under_two_names():
    state_dict = torch_state(weights("segnext"))
    key = "backbone.block1.0.mlp.dwconv.bias"
    state_dict[key.replace("dwconv", "dwconv.dwconv")] = state_dict[key]
    assert "two names" in refusal(state_dict, "segnext")


# --------------------------------------------------------------------------------------------------------- the command


def save(path, state_dict):
    np.savez(path, **state_dict)
    return path


def header(path):
    with safetensors.safe_open(path, "numpy") as file:
        return file.metadata()


@NETWORKS
def test_a_published_file_becomes_ours(tmp_path, network):
    state_dict, config, out = torch_state(weights(network)), narrow(network), tmp_path / "net.safetensors"
    convert(config, None, weights=save(tmp_path / "in.npz", state_dict), out=out)
    found = read_weights(out)
    assert found.keys() == state_dict.keys()
    assert_equal(found, state_dict)
    assert {value.dtype for key, value in found.items() if "batches" not in key} == {np.dtype(np.float32)}
    assert header(out)["format"] == "pt"
    assert json.loads(header(out)["config"])["model"]["name"] == network
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npz", "net.safetensors"]


def test_what_the_file_lacks_is_not_written(tmp_path):
    state_dict, config = torch_state(weights("pspnet")), narrow("pspnet")
    convert(config, None, weights=save(tmp_path / "in.npz", backbone_of(state_dict)), out=tmp_path / "a.safetensors")
    assert backbone_of(read_weights(tmp_path / "a.safetensors")).keys() == backbone_of(state_dict).keys()
    config.init_classifier = False
    whole = save(tmp_path / "in.npz", with_150_classes(state_dict))
    convert(config, None, weights=whole, out=tmp_path / "b.safetensors")
    expected = {key for key in state_dict if ".conv_seg." not in key}
    assert read_weights(tmp_path / "b.safetensors").keys() == expected


def test_huggingfaces_style_is_written_in_the_hubs_names(tmp_path):
    config, out = narrow("segformer"), tmp_path / "net.safetensors"
    config.model.head.style = "huggingface"
    state_dict = to_hub(torch_state(split_model(build_model(config))[1]))
    convert(config, None, weights=save(tmp_path / "in.npz", state_dict), out=out)
    found = read_weights(out)
    assert found.keys() == state_dict.keys()
    assert_equal(found, state_dict)
    assert "segformer.encoder.block.0.0.attention.self.query.weight" in found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of `narrow("segformer")` with checkpoints after steps 3, the best, and 5; the states."""
    workdir, config = tmp_path_factory.mktemp("run"), narrow("segformer")
    run_folder.prepare(workdir, config)
    checkpoints, states = Checkpoints(workdir / "checkpoints", best=config.eval.best), {}
    for step, score in ((3, 0.5), (5, 0.25)):
        state = create_state(weights("segformer", seed=step), build_optimizer(config)[0], make_mesh(**config.mesh))
        states[step] = state | {"step": jax.numpy.int32(step)}
        checkpoints.save(step, states[step])
        checkpoints.add_metrics(step, {config.eval.best: score})
    checkpoints.close()
    return workdir, states


@pytest.mark.parametrize(("which", "step"), [("best", 3), ("latest", 5), ("5", 5)])
def test_a_run_is_written(trained, tmp_path, which, step):
    workdir, states = trained
    convert(narrow("segformer"), workdir, checkpoint=which, out=tmp_path / "net.safetensors")
    found = read_weights(tmp_path / "net.safetensors")
    expected = torch_state({kind: states[step][kind] for kind in ("params", "batch_stats")}, step)
    assert_equal(found, expected)
    assert found["decode_head.fusion_conv.bn.num_batches_tracked"] == step


@pytest.mark.parametrize(
    ("which", "config", "wanted"),
    [
        ("first", narrow("segformer"), "--checkpoint=first is not best, latest or a step"),
        ("4", narrow("segformer"), "there is no step 4; choose one of [3, 5]"),
        ("best", narrow("segformer", "b3"), "holds a run of another config: model.backbone.depths"),
    ],
)
def test_a_run_that_does_not_fit(trained, tmp_path, which, config, wanted):
    with pytest.raises(UserError, match=re.escape(wanted)):
        convert(config, trained[0], checkpoint=which, out=tmp_path / "net.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_the_output_is_new_and_of_its_kind(tmp_path):
    there = tmp_path / "there.safetensors"
    there.write_bytes(b"precious")
    for out, wanted in (
        (tmp_path / "net.pth", "ends in .safetensors"),
        (there, "exists already"),
        (tmp_path / "nowhere/net.safetensors", "there is no folder"),
    ):
        with pytest.raises(UserError, match=wanted) as error:
            convert(narrow("pspnet"), tmp_path / "run", out=out)
        assert f"--out={out}" in str(error.value)
    assert there.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [there]


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match=r"net\.safetensors cannot be written \(No space left on device\)"):
        write_safetensors(tmp_path / "net.safetensors", {"a": np.zeros(3)}, {})
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path):
    """A line and exit status 2 for a mistake, with nothing written; a line for a success."""
    convert = "cropjax.convert", "--config", "configs/demo.py"
    out, broken = tmp_path / "net.safetensors", tmp_path / "net.pth"
    broken.write_bytes(b"PK\x03\x04 cut short")
    for args, wanted in (
        ([], "--out is missing: name the .safetensors file"),
        (["--out", out], "has no checkpoint"),
        (["--out", out, "--weights", broken], f"{broken}: broken or cut short"),
        (["--out", out, "--weights", broken, "--checkpoint=best"], "leave out --workdir and --checkpoint"),
    ):
        result = command(*convert, *args, *([] if "--weights" in args else ["--workdir", tmp_path / "run"]))
        assert (result.returncode, result.stdout) == (2, "")
        (line,) = result.stderr.splitlines()
        assert line.startswith("cropjax: ")
        assert wanted in line
    assert list(tmp_path.iterdir()) == [broken]
    state_dict = torch_state(split_model(build_model(runpy.run_path("configs/demo.py")["get_config"]()))[1])
    asked = *convert, "--out", out, "--weights", save(tmp_path / "in.npz", state_dict)
    result = command(*asked)
    assert result.stdout == f"{out}: {len(state_dict)} tensors of backbone, head, auxiliary\n", result.stderr
    assert header(out)["command"] == shlex.join(["python", "-m", *map(str, asked)])
    assert_equal(read_weights(out), state_dict)
