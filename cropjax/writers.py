"""What a run records: TensorBoard events and JSON lines, behind CLU's `MetricWriter`.

The only module that touches `clu.metric_writers` and tensorboard. Neither may import TensorFlow, installed or
not, so import this module before `clu.metric_writers` or `clu.periodic_actions`; the rest of CLU can come in
any order.
"""

import contextlib
import io
import json
import math
import os
import sys
import time
import types
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import jax.numpy as jnp
import numpy as np
from absl import logging
from PIL import Image

from cropjax.errors import UserError


def _keep_tensorflow_out():
    """Seed the two modules through which CLU and tensorboard would import TensorFlow.

    `clu.metric_writers` imports its `summary_writer` submodule unconditionally, and that one imports TensorFlow.
    tensorboard takes its file access from TensorFlow where there is one, unless `tensorboard.compat.notf` exists.
    """
    summary_writer = types.ModuleType("clu.metric_writers.summary_writer")
    summary_writer.SummaryWriter = lambda logdir: EventWriter(logdir)  # what CLU's create_default_writer calls
    sys.modules.setdefault(summary_writer.__name__, summary_writer)
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))


_keep_tensorflow_out()

from clu.metric_writers import MetricWriter, MultiWriter  # noqa: E402
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # noqa: E402
from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: E402
from tensorboard.plugins.custom_scalar import layout_pb2  # noqa: E402
from tensorboard.plugins.custom_scalar import metadata as layout_metadata  # noqa: E402
from tensorboard.plugins.histogram import metadata as histogram_metadata  # noqa: E402
from tensorboard.plugins.hparams.summary_v2 import hparams_pb  # noqa: E402
from tensorboard.plugins.image import metadata as image_metadata  # noqa: E402
from tensorboard.plugins.scalar.summary_v2 import scalar_pb  # noqa: E402
from tensorboard.plugins.text.summary_v2 import text_pb  # noqa: E402
from tensorboard.summary.writer import event_file_writer  # noqa: E402
from tensorboard.util.tensor_util import make_tensor_proto  # noqa: E402


def create_writer(workdir, *, first_step=0, enabled=True) -> MetricWriter:
    """Writer of `<workdir>/tensorboard` (all summaries) and `<workdir>/metrics.jsonl` (scalars).

    `first_step` is the step the run starts from, 0 or the restored one: what a killed run recorded after it is
    hidden in TensorBoard and dropped from the JSON lines, and from 0 on everything is gone; so never open a finished
    run with an earlier step.
    `enabled=False`, for every process but the first, gives a writer that writes nothing and touches no file.

    Raises:
      UserError: `workdir` cannot be written to.
    """
    if not enabled:
        return MultiWriter([])
    workdir = Path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        kinds = (EventWriter, workdir / "tensorboard"), (JsonLinesWriter, workdir / "metrics.jsonl")
        if not first_step:  # what is there is of a start that never saved, perhaps with another config
            for old in (*(workdir / "tensorboard").glob("events.out.tfevents.*"), workdir / "metrics.jsonl"):
                old.unlink(missing_ok=True)
        return MultiWriter([_Persistent(kind, path, first_step) for kind, path in kinds])
    except OSError as error:
        raise UserError(f"cannot write to {workdir} ({error.strerror}); name another --workdir") from error


def write_layout(writer, layout) -> None:
    """The page of custom scalars, {category: {chart: patterns of the tags in it}}; one of many charts begins closed."""
    categories = [
        layout_pb2.Category(
            title=title,
            chart=[
                layout_pb2.Chart(title=name, multiline=layout_pb2.MultilineChartContent(tag=patterns))
                for name, patterns in charts.items()
            ],
            closed=len(charts) > 6,
        )
        for title, charts in layout.items()
    ]
    content = np.array(layout_pb2.Layout(category=categories).SerializeToString(), object)
    tag, metadata = layout_metadata.CONFIG_SUMMARY_TAG, layout_metadata.create_summary_metadata()
    writer.write_summaries(0, {tag: content}, {tag: metadata})


class _StillsWriter(MetricWriter):
    """CLU's interface less moving pictures and sound, which a segmentation run has none of."""

    def write_videos(self, step, videos):
        raise TypeError(f"cropjax records no videos, got {sorted(videos)}: write frames with write_images")

    def write_audios(self, step, audios, *, sample_rate):
        raise TypeError(f"cropjax records no audio, got {sorted(audios)}")


class _Persistent(_StillsWriter):
    """A writer that outlives a full disk: what cannot be written is lost, says a warning, and the run goes on.

    At the next write after a failure it begins anew, as a resumed run does.
    """

    def __init__(self, kind, path, first_step):
        self._begin, self._path = kind, path
        self._writer = kind(path, first_step)

    def _do(self, method, *args, **kwargs):
        try:
            if self._writer is None and args and method != "write_hparams":
                self._writer = self._begin(self._path, args[0] - 1)
            if self._writer is not None:
                getattr(self._writer, method)(*args, **kwargs)
        except OSError as error:
            if self._writer is not None:
                logging.warning("%s cannot be written (%s): what comes now is lost", self._path, error.strerror)
                with contextlib.suppress(OSError):
                    self._writer.close()
            self._writer = None

    def write_summaries(self, step, values, metadata=None):
        self._do("write_summaries", step, values, metadata)

    def write_scalars(self, step, scalars):
        self._do("write_scalars", step, scalars)

    def write_images(self, step, images):
        self._do("write_images", step, images)

    def write_texts(self, step, texts):
        self._do("write_texts", step, texts)

    def write_histograms(self, step, arrays, num_buckets=None):
        self._do("write_histograms", step, arrays, num_buckets)

    def write_hparams(self, hparams):
        self._do("write_hparams", hparams)

    def flush(self):
        self._do("flush")

    def close(self):
        self._do("close")


class EventWriter(_StillsWriter):
    """TensorBoard event file in the folder `logdir`.

    It begins with a session start at `first_step + 1`, also in a fresh run: TensorBoard takes the second start
    it reads for a restart, and discards the events from that step on in the files before it, those of a run that
    was killed after its last checkpoint. Its default fast loader (2.21) ignores session starts and discards a
    tag's later events when the resumed run writes that tag again.
    """

    def __init__(self, logdir, first_step=0):
        # TensorBoard reads a run's files in the order of the times in their names. Where the clock was set back since,
        # ours would come first: our time is then ahead of the clock.
        before = list(Path(logdir).glob("events.out.tfevents.*"))
        latest = max((max(int(path.name.split(".")[3]), path.stat().st_mtime) for path in before), default=0)
        self._ahead = max(0, latest + 1 - time.time())
        with mock.patch.object(event_file_writer, "time", types.SimpleNamespace(time=self._now)):
            self._file = event_file_writer.EventFileWriter(str(logdir))
        start = SessionLog(status=SessionLog.START)
        self._file.add_event(Event(wall_time=self._now(), step=int(first_step) + 1, session_log=start))
        self.flush()

    def write_summaries(self, step, values, metadata=None):
        for tag, value in values.items():
            self._write_tensor(step, tag, np.asarray(value), (metadata or {}).get(tag))

    def write_scalars(self, step, scalars):
        values = [scalar_pb(tag, _float(scalar)).value[0] for tag, scalar in scalars.items()]
        self._write(step, Summary(value=values))

    def write_images(self, step, images):
        """Images uint8 or floating in 0..1, [n, h, w, c] or [h, w, c], c = 1 or 3."""
        metadata = image_metadata.create_summary_metadata(None, None)
        for tag, image in images.items():
            image = _uint8(tag, np.asarray(image))
            _, h, w, _ = image.shape
            encoded = [str(w).encode(), str(h).encode(), *map(_png, image)]
            self._write_tensor(step, tag, encoded, metadata)

    def write_texts(self, step, texts):
        for tag, text in texts.items():
            self._write(step, text_pb(tag, text))

    def write_histograms(self, step, arrays, num_buckets=None):
        """Histograms of the finite values: a diverging run is when they are looked at."""
        metadata = histogram_metadata.create_summary_metadata(None, None)
        for tag, array in arrays.items():
            self._write_tensor(step, tag, _buckets(array, (num_buckets or {}).get(tag, 30)), metadata)

    def write_hparams(self, hparams):
        """Hyperparameters, nested or flat; what is no number, bool or string is shown as Python writes it."""
        self._write(0, hparams_pb(_flat(hparams), trial_id=""))  # which is shown as the run's folder

    def flush(self):
        self._file.flush()

    def close(self):
        self._file.close()

    def _write_tensor(self, step, tag, value, metadata):
        tensor = make_tensor_proto(value)
        self._write(step, Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=metadata)]))

    def _write(self, step, summary):
        self._file.add_event(Event(wall_time=self._now(), step=int(step), summary=summary))

    def _now(self):
        return time.time() + self._ahead


class JsonLinesWriter(_StillsWriter):
    """Scalars, one JSON object a write, `{"step": 20, "loss": 1.5}`, on disk when the call returns.

    NaN and the infinities, which JSON lacks, are the strings "NaN", "Infinity" and "-Infinity": Python's `float`
    reads them back. All other kinds of summary are left to TensorBoard.
    """

    def __init__(self, path, first_step=0):
        path = Path(path)
        if path.exists():
            _drop_lines_after(path, first_step)
        self._file = path.open("a", encoding="utf-8")

    def write_scalars(self, step, scalars):
        values = {tag: _json_number(scalar) for tag, scalar in scalars.items()}
        self._file.write(json.dumps({"step": int(step), **values}) + "\n")
        self._file.flush()

    def write_summaries(self, step, values, metadata=None):
        pass

    def write_images(self, step, images):
        pass

    def write_texts(self, step, texts):
        pass

    def write_histograms(self, step, arrays, num_buckets=None):
        pass

    def write_hparams(self, hparams):
        pass

    def flush(self):
        self._file.flush()

    def close(self):
        self._file.close()


def _drop_lines_after(path, step):
    """Drop the lines of later steps, and the line in which a killed run stopped."""
    kept = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if _step(line) <= step]
    rewritten = path.with_name(path.name + ".tmp")
    rewritten.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    os.replace(rewritten, path)


def _step(line):
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _json_number(scalar):
    number = np.asarray(scalar).item()
    return number if math.isfinite(number) else json.dumps(number)


def _float(scalar):
    return np.asarray(scalar, np.float32).reshape(())


def _flat(hparams, prefix=""):
    flat = {}
    for name, value in hparams.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, bool | int | float | str | np.generic) else str(value)
    return flat


def _uint8(tag, image):
    """[n, h, w, c] uint8 of an image or a batch of images, uint8 or floating in 0..1."""
    image = image[None] if image.ndim == 3 else image
    if image.ndim != 4 or image.shape[-1] not in (1, 3):
        raise ValueError(f"image {tag!r} has shape {image.shape}, want [n, h, w, c] or [h, w, c] with c = 1 or 3")
    if image.dtype == np.uint8:
        return image
    if not jnp.issubdtype(image.dtype, jnp.floating):  # NumPy's own does not know bfloat16
        raise TypeError(f"image {tag!r} is {image.dtype}, want uint8 or floating values in 0..1")
    return (np.nan_to_num(np.clip(image.astype(np.float32), 0, 1)) * 255).round().astype(np.uint8)


def _png(image):
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return file.getvalue()


def _buckets(array, count):
    """[count, 3] float64: left edge, right edge, how many of the finite values lie between.

    Ours because tensorboard's own builds a [size, count] table on the way.
    """
    array = np.asarray(array)
    array = array.astype(np.promote_types(array.dtype, np.float32), copy=False)
    array = array[np.isfinite(array)]
    if not array.size:
        return np.zeros((count, 3))
    edges = np.linspace(np.float64(array.min()), np.float64(array.max()), count + 1)
    counts, _ = np.histogram(array, edges)
    return np.stack([edges[:-1], edges[1:], counts], axis=-1)
