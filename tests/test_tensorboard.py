"""What TensorBoard finds in a run's events, read back by its own code."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import TENSORS, EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.util.tensor_util import make_ndarray
from tiny import tiny_config

from cropjax import tensorboard
from cropjax.loop import Loop
from cropjax.metrics import Scores
from cropjax.step import TrainMetrics
from cropjax.writers import create_writer


def introduced(tmp_path, config):
    writer = create_writer(tmp_path)
    tensorboard.introduce(writer, config)
    writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={TENSORS: 0})
    events.Reload()
    return events


def test_the_layout_is_what_tensorboard_reads(tmp_path):
    config = tiny_config()
    events = introduced(tmp_path, config)
    assert layout_metadata.CONFIG_SUMMARY_TAG in events.PluginTagToContent(layout_metadata.PLUGIN_NAME)
    (event,) = events.Tensors(layout_metadata.CONFIG_SUMMARY_TAG)
    found = layout_pb2.Layout.FromString(make_ndarray(event.tensor_proto).item())
    read = {c.title: {chart.title: list(chart.multiline.tag) for chart in c.chart} for c in found.category}
    assert read == tensorboard.layout(config)
    assert {c.title for c in found.category if c.closed} == {"IoU by class"}


@pytest.mark.parametrize(
    ("network", "on_error", "auxiliary"), [("deeplabv3plus", "stop", True), ("segformer", "skip", False)]
)
def test_every_curve_has_a_chart_and_every_chart_a_curve(network, on_error, auxiliary):
    config = tiny_config(network, on_error=on_error)
    tags = {f"train/{name}" for name in TrainMetrics.__annotations__} | {"train/images_per_second"}
    tags |= reported(config).keys() - {"best/whole/miou"} | ({"train/skipped"} if on_error == "skip" else set())
    if not auxiliary:  # of one head, which are the whole and nothing
        tags -= {"train/loss_decode", "train/loss_auxiliary"}
    patterns = [p for charts in tensorboard.layout(config).values() for chart in charts.values() for p in chart]
    assert [p for p in patterns if not any(re.match(p, tag) for tag in tags)] == []
    assert [tag for tag in sorted(tags) if not any(re.match(p, tag) for p in patterns)] == []


def reported(config, best=(-np.inf, 0)):
    """What `Loop` writes after an evaluation."""
    written = {}
    loop = Loop.__new__(Loop)
    loop.config, loop.class_names = config, tensorboard.label_set(config).names
    loop.scores = {mode: Scores.of(np.eye(19, dtype=int)) for mode in config.eval.modes}
    loop.writer = SimpleNamespace(write_scalars=lambda step, values: written.update(values), flush=lambda: None)
    (loop.best_score, loop.best_step), loop.total, loop.say = best, 1, lambda text: None
    loop._report(1, {}, saved=False)
    return written


def test_the_five_metrics_that_tensorboard_shows_first_are_scores():
    """It sorts them by name; see `backend_context._compute_metric_names` of its hparams plugin."""
    config = tiny_config()
    tags = sorted([*reported(config), "eval/location_prior/miou", "train/loss"])
    assert tags[0] == "best/whole/miou"
    assert all(tag.startswith(("best/", "eval/")) for tag in tags[:5])


@pytest.mark.parametrize(("before", "best"), [((-np.inf, 0), 1.0), ((0.5, 1), 1.0), ((1.5, 1), 1.5)])
def test_the_best_score_is_that_of_all_evaluations(before, best):
    assert reported(tiny_config(), before)["best/whole/miou"] == best


def test_the_table_has_what_runs_are_compared_by(tmp_path):
    config = tiny_config()
    content = introduced(tmp_path, config).SummaryMetadata(hparams_metadata.SESSION_START_INFO_TAG).plugin_data.content
    session = hparams_metadata.parse_session_start_info_plugin_data(content)
    assert session.group_name == ""  # so that the run's folder names the row
    shown = {name: getattr(value, value.WhichOneof("kind")) for name, value in session.hparams.items()}
    assert shown["data.crop_size"] == "(33, 33)"
    assert shown["train.steps"] == config.train.steps
    assert shown["model.name"] == "deeplabv3plus"
    assert not {"data.workers", "data.threads", "train.log_every", "mesh.data"} & shown.keys()


def test_the_config_can_be_read(tmp_path):
    (event,) = introduced(tmp_path, tiny_config()).Tensors("config")
    assert "\ndata.crop_size = (33, 33)\n" in make_ndarray(event.tensor_proto).item().decode()
