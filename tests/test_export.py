"""The exported files give what the network gives, hold their weights in the type asked for, and run without us."""

import functools
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import onnx
import pytest
from command import command
from tiny import tiny_config

from cropjax import export as module
from cropjax import workdir as run_folder
from cropjax.checkpoint import Checkpoints
from cropjax.config import build_model, build_optimizer
from cropjax.errors import UserError
from cropjax.export import FORMATS, WEIGHTS_DTYPES, export, networks, restored, stored
from cropjax.models.layers import GroupNorm
from cropjax.sharding import make_mesh
from cropjax.step import create_state, split_model

pytestmark = pytest.mark.usefixtures("quick_compile")
SIZE = (37, 75)  # no multiple of any stride
IMAGES = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """`run(network)` -> the config, the folder, the structure and the weights of a run with a checkpoint."""

    @functools.cache
    def make(network):
        config, workdir = tiny_config(network), tmp_path_factory.mktemp(network)
        graph, weights = split_model(build_model(config))
        rng = np.random.default_rng(0)  # scales that start at zero would hide what they scale
        weights = jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape).astype("f") if x.ndim == 1 else x, weights)
        state = create_state(weights, build_optimizer(config)[0], make_mesh(data=-1, space=1))
        run_folder.prepare(workdir, config).close()
        checkpoints = Checkpoints(workdir / "checkpoints", best=config.eval.best)
        checkpoints.save(7, state | {"step": jax.numpy.int32(7)})
        checkpoints.add_metrics(7, {config.eval.best: 0.5})
        checkpoints.close()
        return config, workdir, graph, weights

    return make


def live(config, graph, weights, images, dtype="float32"):
    logits, _ = networks(graph, config, make_mesh(data=-1, space=1), images.shape[1:3])
    return np.asarray(jax.jit(logits)(stored(weights, dtype), images))


@pytest.mark.parametrize(
    ("network", "dtype"),
    [
        ("pspnet", "float32"),
        ("deeplabv3plus", "int8"),
        ("segformer", "bfloat16"),
        ("segnext", "int8"),
    ],
)
def test_files_give_what_the_network_gives(run, tmp_path, network, dtype):
    """With equally rounded weights, of 3 images; they were made to be run on 2."""
    config, workdir, graph, weights = run(network)
    export(config, workdir, out=tmp_path / "net", size=SIZE, weights_dtype=dtype)
    expected = live(config, graph, weights, IMAGES, dtype)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "net.stablehlo"]
    for name, (_, run_file) in FORMATS.items():
        content = (tmp_path / f"net.{name}").read_bytes()
        found = run_file(content, IMAGES)
        assert (found.dtype, found.shape) == (np.float32, (3, *SIZE, 19))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_norm_of_many_positions_is_as_exact_in_onnx_runtime():
    """Which adds 384 thousand numbers one after the other if it is let, and is off by 1e-4 then."""
    size, weights = (256, 512), {"shift": np.float32([3])}
    images = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    norm = GroupNorm(3, groups=1)
    content = module.to_onnx(lambda w, x: norm(x.astype(np.float32) / 255 + w["shift"], train=False), weights, size)
    x = images / 255 + 3.0
    expected = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    np.testing.assert_allclose(module.run_onnx(content, images), expected, atol=1e-5)


def test_files_run_without_us(run, tmp_path, capsys):
    config, workdir, graph, weights = run("segformer")
    export(config, workdir, out=tmp_path / "net", size=SIZE)
    assert f"{workdir} step 7\n{tmp_path}/net.stablehlo: " in capsys.readouterr().out
    image = IMAGES[:1]
    np.savez(tmp_path / "expected.npz", images=image, logits=live(config, graph, weights, image))
    script = Path(__file__).parent / "run_exported.py"
    files = [tmp_path / f"net.{name}" for name in FORMATS]
    subprocess.run([sys.executable, script, tmp_path / "expected.npz", *files], check=True, capture_output=True)
    model = onnx.load(files[1])
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"images": ["n", *SIZE, 3], "output": ["n", *SIZE, 19]}


def test_ids_are_those_of_the_largest_logits(run, tmp_path):
    config, workdir, graph, weights = run("segformer")
    export(config, workdir, out=tmp_path / "net", size=SIZE, output="ids")
    logits = live(config, graph, weights, IMAGES)
    for name, (_, run_file) in FORMATS.items():
        found = run_file((tmp_path / f"net.{name}").read_bytes(), IMAGES)
        assert (found.dtype, found.shape) == (np.uint8, (3, *SIZE))
        assert (found == logits.argmax(-1)).mean() > 0.999


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_as_large_as_its_weights(name):
    write, run_file = FORMATS[name]
    kernel = np.random.default_rng(0).normal(size=(48, 8192)).astype(np.float32)
    images = np.random.default_rng(1).integers(0, 256, (2, 4, 4, 3), np.uint8)

    def network(weights, images):
        return images.astype(np.float32).reshape(images.shape[0], 48) @ restored(weights)["kernel"]

    for dtype, size in (("float32", kernel.size * 4), ("bfloat16", kernel.size * 2), ("int8", kernel.size + 4 * 8192)):
        weights = stored({"kernel": kernel}, dtype)
        content = write(network, weights, (4, 4))
        assert size < len(content) < size + 20_000, dtype
        expected = images.reshape(2, 48) @ restored(weights)["kernel"]
        np.testing.assert_allclose(run_file(content, images), expected, rtol=1e-5, atol=1e-2)


def test_kernels_are_rounded_by_channel_and_nothing_else_is():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 4, 5)).astype(np.float32) * np.float32([1e-3, 1, 0, 10, 1])
    weights = {"conv": {"kernel": kernel, "bias": rng.normal(size=5).astype(np.float32)}}
    for dtype, error in (("float32", 0), ("bfloat16", 2**-8), ("int8", 0.5 / 127)):
        found = restored(stored(weights, dtype))["conv"]
        largest = np.abs(kernel).max((0, 1, 2))
        assert found["kernel"].dtype == np.float32
        assert (np.abs(found["kernel"] - kernel) <= largest * error * (1 + 1e-6)).all()
        np.testing.assert_array_equal(found["bias"], weights["conv"]["bias"])
    assert WEIGHTS_DTYPES == ("float32", "bfloat16", "int8")


def test_a_file_that_is_off_is_not_written(run, tmp_path, monkeypatch):
    config, workdir, *_ = run("segformer")
    monkeypatch.setattr(module, "BOUND", -1.0)
    with pytest.raises(UserError, match=r"net\.stablehlo is not written: it is off the network by .* more than -1\.0"):
        export(config, workdir, out=tmp_path / "net", size=SIZE, formats=["stablehlo"])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(run, tmp_path, monkeypatch):
    config, workdir, *_ = run("segformer")
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(UserError, match=r"ONNX needs jax2onnx: pip install 'cropjax\[onnx\]', or .*--formats stable"):
        export(config, workdir, out=tmp_path / "net", size=SIZE)


def test_files_that_are_there_stay(tmp_path):
    there = tmp_path / "net.onnx"
    there.write_bytes(b"precious")
    for out, wanted in (
        (tmp_path / "net", "net.onnx exists already"),
        (tmp_path / "no/net", "there is no folder"),
        (f"{tmp_path}/new/", "is a folder: name files in it"),
        (tmp_path, "is a folder: name files in it"),
        (tmp_path / "other", "run has no checkpoint"),
    ):
        with pytest.raises(UserError, match=wanted):
            export(tiny_config(), tmp_path / "run", out=out, size=SIZE)
    assert there.read_bytes() == b"precious"


def test_an_absurd_size_is_refused_untried(tmp_path):
    with pytest.raises(UserError, match=r"--size=200000x200000: the check of the files needs \d+\.\d GiB of memory"):
        export(tiny_config(), tmp_path / "run", out=tmp_path / "net", size=(200_000, 200_000), formats=("stablehlo",))


def test_the_command(run, tmp_path):
    _, workdir, *_ = run("segformer")
    given = ["cropjax.export", "--workdir", workdir]
    out = ["--out", tmp_path / "net"]
    for args, wanted in (
        ([*out, "--size=512"], "--size=512: give HEIGHTxWIDTH in pixels"),
        ([*out, "--size=37x75", "--formats=onnx,tflite"], "--formats=onnx,tflite: give one or both of stablehlo,onnx"),
        (out, "--out and --size are missing"),
    ):
        result = command(*given, *args)
        assert (result.returncode, result.stdout) == (2, "")
        (line,) = result.stderr.splitlines()
        assert line.startswith("cropjax: ")
        assert wanted in line
    assert list(tmp_path.iterdir()) == []
    result = command(*given, *out, "--size=37x75", "--formats=stablehlo", "--weights_dtype=int8")
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    first, second, third = result.stdout.splitlines()
    assert first == f"{workdir} step 7"
    assert second.startswith("weights in int8: logits move by up to ")
    assert third.startswith(f"{tmp_path}/net.stablehlo: ")
