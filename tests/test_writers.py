import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import textwrap
import time
import types
import urllib.request
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.plugin_event_accumulator import TENSORS, EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.summary.writer import event_file_writer
from tensorboard.util.tensor_util import make_ndarray

import cropjax
from cropjax import writers
from cropjax.errors import UserError
from cropjax.writers import JsonLinesWriter, create_writer

ROOT = str(Path(cropjax.__file__).parents[1])


def events(workdir):
    accumulator = EventAccumulator(str(workdir / "tensorboard"), size_guidance={TENSORS: 0})
    accumulator.Reload()
    return accumulator


def scalars(workdir, tag):
    return {event.step: float(make_ndarray(event.tensor_proto)) for event in events(workdir).Tensors(tag)}


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def tensor(workdir, tag):
    (event,) = events(workdir).Tensors(tag)
    return make_ndarray(event.tensor_proto)


def test_scalars(tmp_path):
    writer = create_writer(tmp_path)
    writer.write_scalars(1, {"loss": 1.5, "images": 8})
    writer.write_scalars(2, {"loss": jnp.float32(0.5), "lr": np.float64(0.1), "half": jnp.asarray([2.5], jnp.bfloat16)})
    expected = [{"step": 1, "loss": 1.5, "images": 8}, {"step": 2, "loss": 0.5, "lr": 0.1, "half": 2.5}]
    assert lines(tmp_path) == expected  # before any flush: a killed run keeps them
    writer.close()
    assert scalars(tmp_path, "loss") == {1: 1.5, 2: 0.5}
    assert scalars(tmp_path, "half") == {2: 2.5}
    assert scalars(tmp_path, "lr") == {2: pytest.approx(0.1)}


def test_what_json_has_no_number_for(tmp_path):
    writer = create_writer(tmp_path)
    writer.write_scalars(np.int32(3), {"a": jnp.nan, "b": np.inf, "c": -np.float32(np.inf)})
    writer.close()

    def refuse(constant):
        raise ValueError(constant)

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line == {"step": 3, "a": "NaN", "b": "Infinity", "c": "-Infinity"}
    assert float(line["c"]) == -np.inf
    assert np.isnan(scalars(tmp_path, "a")[3])


@pytest.mark.parametrize("dtype", ["uint8", "float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 3), (3, 5, 3), (3, 5, 1)])
def test_images(tmp_path, dtype, shape):
    pixels = np.where(np.random.default_rng(0).random(shape) < 0.5, 0, 255).astype(np.uint8)
    images = pixels if dtype == "uint8" else jnp.asarray(pixels // 255, dtype)
    writer = create_writer(tmp_path)
    writer.write_images(7, {"panel": images})
    writer.close()
    width, height, *encoded = tensor(tmp_path, "panel").tolist()
    assert (width, height) == (b"5", b"3")
    decoded = np.stack([np.asarray(Image.open(io.BytesIO(png))) for png in encoded])
    np.testing.assert_array_equal(decoded.reshape(shape), pixels)


def test_float_images_are_clipped_and_rounded(tmp_path):
    writer = create_writer(tmp_path)
    writer.write_images(0, {"x": np.array([-1, 0.5, 2, np.nan], np.float32).reshape(1, 4, 1)})
    writer.close()
    *_, png = tensor(tmp_path, "x").tolist()
    assert np.asarray(Image.open(io.BytesIO(png))).tolist() == [[0, 128, 255, 0]]


def test_images_that_cannot_be_shown_are_named(tmp_path):
    writer = create_writer(tmp_path)
    with pytest.raises(TypeError, match="'mask' is int32, want uint8 or floating"):
        writer.write_images(0, {"mask": np.zeros((2, 2, 3), np.int32)})
    with pytest.raises(ValueError, match=r"'mask' has shape \(2, 2\)"):
        writer.write_images(0, {"mask": np.zeros((2, 2), np.uint8)})
    with pytest.raises(TypeError, match=r"no videos, got \['v'\]"):
        writer.write_videos(0, {"v": np.zeros((1, 2, 2, 3))})
    with pytest.raises(TypeError, match=r"no audio, got \['a'\]"):
        writer.write_audios(0, {"a": np.zeros((1, 2, 1))}, sample_rate=1)
    writer.close()


def test_texts_and_summaries(tmp_path):
    writer = create_writer(tmp_path)
    writer.write_texts(1, {"config": "crop_size = (769, 769)"})
    writer.write_summaries(2, {"confusion": np.eye(2, dtype=np.int64)})
    writer.close()
    assert tensor(tmp_path, "config").item() == b"crop_size = (769, 769)"
    np.testing.assert_array_equal(tensor(tmp_path, "confusion"), np.eye(2))


def test_histograms_count_the_finite_values(tmp_path):
    writer = create_writer(tmp_path)
    weights = jnp.asarray([0, 1, 1, 2, jnp.nan, jnp.inf], jnp.bfloat16)
    writer.write_histograms(1, {"w": weights, "same": np.full(5, 3), "none": np.full(2, np.nan)}, {"w": 2})
    writer.close()
    np.testing.assert_allclose(tensor(tmp_path, "w"), [[0, 1, 1], [1, 2, 3]])
    same, none = tensor(tmp_path, "same"), tensor(tmp_path, "none")
    assert same.shape == none.shape == (30, 3)
    assert same[-1].tolist() == [3, 3, 5]
    assert same[:, 2].sum() == 5
    assert not none.any()


def test_hparams(tmp_path):
    writer = create_writer(tmp_path)
    model = {"name": "psp", "dilations": (1, 2), "norm": None}
    writer.write_hparams({"seed": 0, "lr": np.float32(0.5), "flip": True, "model": model})
    writer.close()
    content = events(tmp_path).SummaryMetadata(hparams_metadata.SESSION_START_INFO_TAG).plugin_data.content
    hparams = hparams_metadata.parse_session_start_info_plugin_data(content).hparams
    shown = {name: getattr(value, value.WhichOneof("kind")) for name, value in hparams.items()}
    expected = {"seed": 0, "lr": 0.5, "flip": True}
    expected |= {"model.name": "psp", "model.dilations": "(1, 2)", "model.norm": "None"}
    assert shown == expected


@pytest.mark.parametrize("seconds", [0, -3600, 3600], ids=["at once", "clock set back", "clock set forward"])
@pytest.mark.parametrize("first_step", [0, 4])
def test_a_resumed_run_discards_what_the_killed_one_wrote_later(tmp_path, first_step, seconds, monkeypatch):
    now = time.time()
    clock = types.SimpleNamespace(time=lambda: now)
    monkeypatch.setattr(event_file_writer, "time", clock)
    monkeypatch.setattr(writers, "time", clock)
    writer = create_writer(tmp_path)
    writer.write_hparams({"seed": 0})
    for step in range(0, 10, 2):
        writer.write_scalars(step, {"loss": step})
    writer.write_scalars(8, {"orphan": 1})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')  # killed within a line

    now += seconds
    writer = create_writer(tmp_path, first_step=first_step)
    kept = [step for step in range(0, 10, 2) if step <= first_step] if first_step else []
    assert [line["step"] for line in lines(tmp_path)] == kept
    assert not kept or list(scalars(tmp_path, "loss")) == kept
    writer.write_scalars(first_step + 1, {"loss": -1})
    writer.close()
    assert [line["step"] for line in lines(tmp_path)] == [*kept, first_step + 1]
    assert scalars(tmp_path, "loss") == {**{step: step for step in kept}, first_step + 1: -1}
    tags = events(tmp_path).Tags()["tensors"]
    assert "orphan" not in tags or events(tmp_path).Tensors("orphan") == []
    assert (hparams_metadata.SESSION_START_INFO_TAG in tags) == (first_step > 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_a_run_that_begins_anew_has_the_settings_of_its_last_beginning(tmp_path):
    for lr in (0.01, 0.5):
        writer = create_writer(tmp_path)
        writer.write_hparams({"lr": lr})
        writer.close()
    (file,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    writer = create_writer(tmp_path, first_step=3)
    writer.close()
    assert file.exists()


def test_other_processes_write_nothing(tmp_path):
    writer = create_writer(tmp_path / "run", enabled=False)
    writer.write_scalars(1, {"loss": 1})
    writer.flush()
    writer.close()
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write to .*run \(File exists\); name another --workdir"):
        create_writer(tmp_path / "run")


def test_a_writer_outlives_a_full_disk(tmp_path, monkeypatch, caplog):
    writer = create_writer(tmp_path)
    writer.write_scalars(1, {"loss": 1})
    write = JsonLinesWriter.write_scalars
    monkeypatch.setattr(JsonLinesWriter, "write_scalars", lambda *args: (_ for _ in ()).throw(OSError(28, "no space")))
    writer.write_scalars(2, {"loss": 2})
    writer.write_scalars(3, {"loss": 3})
    monkeypatch.setattr(JsonLinesWriter, "write_scalars", write)
    writer.write_scalars(4, {"loss": 4})
    writer.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 4]
    assert scalars(tmp_path, "loss") == {1: 1, 2: 2, 3: 3, 4: 4}
    assert "metrics.jsonl cannot be written (no space): what comes now is lost" in caplog.text


CLU = "import clu.metrics, clu.parameter_overview, clu.asynclib, clu.values, clu.profiler"


@pytest.mark.parametrize("imports", [f"import cropjax.writers; {CLU}", f"{CLU}; import cropjax.writers"])
@pytest.mark.parametrize("installed", [True, False], ids=["installed", "absent"])
def test_tensorflow_is_never_imported(tmp_path, imports, installed):
    trap = tmp_path / "path" / "tensorflow"
    trap.mkdir(parents=True)
    if installed:
        (trap / "__init__.py").write_text("raise SystemExit('TensorFlow was imported')")
    else:
        (trap / "__init__.py").write_text("raise ModuleNotFoundError('tensorflow', name='tensorflow')")
    script = f"""
        {imports}
        import sys
        from clu import metric_writers, periodic_actions
        for writer in cropjax.writers.create_writer("run"), metric_writers.create_default_writer("default"):
            writer.write_scalars(1, {{"loss": 1.5}})
            writer.write_images(1, {{"x": cropjax.writers.np.zeros((1, 2, 2, 3))}})
            writer.write_hparams({{"seed": 0}})
            writer.close()
        assert "tensorflow" not in sys.modules
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(trap.parent), ROOT])}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert lines(tmp_path / "run") == [{"step": 1, "loss": 1.5}]
    assert any((tmp_path / "default").iterdir())


@pytest.fixture
def serve():
    """A TensorBoard server of a folder, as a function of a path below /data/plugin that gives the answer's bytes."""
    processes = []

    def start(folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "tensorboard.main", f"--logdir={folder}", f"--port={port}"]
        with (folder / "server.log").open("w") as log:
            processes.append(subprocess.Popen([*command, "--host=127.0.0.1"], stdout=log, stderr=log))

        def fetch(path, question=None):
            url = f"http://127.0.0.1:{port}/data/plugin/{path}"
            body = question and json.dumps(question).encode()
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.read()

        return fetch

    yield start
    for process in processes:
        process.terminate()
        process.wait()


def wait_for(answer, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):  # not listening yet
            if answer():
                return
        time.sleep(0.1)
    raise TimeoutError


def test_a_tensorboard_server_shows_a_resumed_run(tmp_path, serve):
    writer = create_writer(tmp_path)
    for step in (2, 4, 6, 8):
        writer.write_scalars(step, {"loss": step})
    writer.close()
    writer = create_writer(tmp_path, first_step=4)
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    writer.write_hparams({"seed": 3, "model": {"name": "psp"}})
    writer.write_scalars(5, {"loss": -1.5})
    writer.write_images(5, {"panel": pixels})
    writer.close()

    fetch = serve(tmp_path)
    # The loader fills its tables one after the other: all four kinds are there once the last tag is.
    wait_for(lambda: "panel" in json.loads(fetch("images/tags")).get("tensorboard", {}))
    loss = json.loads(fetch("scalars/scalars?run=tensorboard&tag=loss"))
    assert [(step, value) for _, step, value in loss] == [(2, 2), (4, 4), (5, -1.5)]

    (image,) = json.loads(fetch("images/images?run=tensorboard&tag=panel&sample=0"))
    assert image["step"] == 5
    shown = Image.open(io.BytesIO(fetch(f"images/individualImage?{image['query']}")))
    np.testing.assert_array_equal(np.asarray(shown), pixels)

    question = {"startIndex": 0, "sliceSize": 9, "allowedStatuses": ["STATUS_UNKNOWN"]}
    (group,) = json.loads(fetch("hparams/session_groups", question))["sessionGroups"]
    assert group["hparams"] == {"seed": 3, "model.name": "psp"}
    assert [(metric["name"]["tag"], metric["value"]) for metric in group["metricValues"]] == [("loss", -1.5)]
