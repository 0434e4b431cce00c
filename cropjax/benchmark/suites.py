"""What is measured. A suite is a generator of rows; every one works for every config."""

import contextlib
import itertools
import math
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np

from cropjax.benchmark.machine import Others, peak_bytes
from cropjax.benchmark.measure import OURS, WARM_UPS, Line, Party, Times, alternate, matrix_peak, timer
from cropjax.benchmark.opponents import Opponents
from cropjax.benchmark.programs import Programs
from cropjax.benchmark.report import Row
from cropjax.benchmark.startup import first_dispatch, self_contained, without_cache
from cropjax.config import build_augment, build_batches, build_source
from cropjax.data.pipeline import made_ahead
from cropjax.errors import UserError
from cropjax.models.repeat import KEEP
from cropjax.progress import Progress

IMAGES_A_ROUND = 128  # of `input`, at least


@dataclass
class Session:
    """What the suites share. Sizes are (height, width)."""

    programs: Programs
    opponents: Opponents
    rounds: int
    matrix: int  # side of the matrices whose product gives the peak
    forward_batch: int
    image_size: tuple
    crops: tuple
    batches: tuple
    memory_bytes: float
    rival_root: Path | None = None

    def __post_init__(self):
        self.peaks = {}  # FLOP/s by dtype
        self.measured_peaks = {}  # bytes of memory by party, of the training step if it ran

    def peak(self, dtype):
        if dtype not in self.peaks:
            self.peaks[dtype] = matrix_peak(dtype, self.matrix)
        return self.peaks[dtype]

    @property
    def config(self):
        return self.programs.config

    @property
    def crop(self):
        return tuple(self.config.data.crop_size)


def compilation(session):
    config = self_contained(session.config)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for kind in ("cold", "warm"):
            with Others() as others:
                seconds = first_dispatch(config, folder)
            times = Times({OURS: [[seconds]]}, others=others.share)
            yield Row("compile", f"start to first dispatch, {kind}", times)
    began = time.perf_counter()
    traced = session.programs.train_forms(config.train.batch_size, session.crop)
    trace = time.perf_counter() - began
    lower = timer(traced.lower)()
    with without_cache():
        compiling = timer(traced.lower().compile)()
    values = {"trace_seconds": trace, "lower_seconds": lower, "compile_seconds": compiling}
    yield Row("compile", "the training step", values=values)


def forward(session, suite="forward", n=None, size=None):
    n, size, dtype = n or session.forward_batch, size or session.crop, session.config.train.dtype
    batch = session.programs.batch(n, size)
    program = session.programs.forward(batch, dtype)
    yield _timed(session, suite, f"forward {_shape(n, size)}", program, "forward", batch, dtype)


def train(session, suite="train", n=None, size=None):
    n, size, dtype = n or session.config.train.batch_size, size or session.crop, session.config.train.dtype
    batch = session.programs.batch(n, size)
    row = _timed(session, suite, f"train {_shape(n, size)}", session.programs.train(batch), "train", batch, dtype)
    if suite == "train":
        session.measured_peaks = row.memory
    yield row


def memory(session):
    """By the compiler's plan, `temp + arguments + outputs - aliased`, of two batches: a fixed part and one an image.

    As configured, and with each of `KEEP` for all stages.
    """
    if session.measured_peaks:
        values = {f"measured_{name}_bytes": value for name, value in session.measured_peaks.items()}
        yield Row("memory", f"train {_size(session.crop)}", values=values)
    configured = tuple(session.config.train.keep)
    if len(set(configured)) > 1:
        yield _plan(session, session.programs, ", ".join(configured))
    for keep in KEEP:
        yield _plan(session, session.programs.keeping(keep), keep)


def _plan(session, programs, keep):
    first = session.config.train.batch_size
    small, large = (_planned_bytes(programs, n, session.crop) for n in (first, 2 * first))
    an_image = (large - small) / first
    fixed = small - first * an_image
    values = {"batch": first, "planned_bytes": small, "fixed_bytes": fixed, "image_bytes": an_image}
    if an_image > 0:
        devices = programs.mesh.shape["data"]
        most = max(int((session.memory_bytes - fixed) // an_image), 0) // devices * devices
        values |= {"limit_bytes": session.memory_bytes, "largest_batch": most}
    return Row("memory", f"train {_size(session.crop)}, keep {keep}", values=values)


def _planned_bytes(programs, n, size):
    plan = programs.train_forms(n, size).lower().compile().memory_analysis()
    whole = plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes
    return whole - plan.alias_size_in_bytes


def evaluation(session):
    config, size, dtype = session.config, session.image_size, session.config.eval.dtype
    window, stride = tuple(config.eval.window), tuple(config.eval.stride)
    batch = session.programs.batch(1, size)
    for mode in ("whole", "slide"):  # the rivals have no other
        program = session.programs.evaluation(batch, mode)
        what = f"{mode} {_shape(1, size)}"
        asked = dict(mode=mode, window=window, stride=stride)
        yield _timed(session, "evaluate", what, program, "evaluate", batch, dtype, **asked)


def pipeline(session):
    c = session.config
    source = build_source(c, "train")
    batches = build_batches(c, source)
    ahead = made_ahead(c.data.threads, c.data.workers)
    count = -(-IMAGES_A_ROUND // c.train.batch_size)
    images = count * c.train.batch_size

    def read():
        """Those that were made ahead do not count, and the next ones are not made while another party is timed."""
        for _ in itertools.islice(batches, ahead):
            pass
        began = time.perf_counter()
        for _ in itertools.islice(batches, count):
            pass
        seconds = time.perf_counter() - began
        time.sleep(seconds / count * ahead)
        return seconds

    values = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(batches))
        parties = {OURS: Party(read, time.process_time)}
        for name in session.opponents.of("input"):
            process = stack.enter_context(session.opponents.reader(name, session.rival_root))
            values[f"{name}_decoding_share"] = session.opponents.about[name]["decoding_share"]
            parties[name] = Party(partial(process.number, "seconds", "read", images=images), process.cpu)
        with Progress(len(parties) * (WARM_UPS + session.rounds), unit="round", label="input") as progress:
            times = alternate(parties, session.rounds, progress)
    values = {
        "images_per_second": images / times.median(),
        "decoding_share": _decoding_share(source, build_augment(c)),
    } | values
    yield Row("input", f"{c.data.source} {_shape(images, session.crop)}", times, values=values)


class _Watched:
    """An image that adds up how long it takes to give its pixels."""

    def __init__(self, image):
        self._image, self.shape, self.seconds = image, image.shape, 0.0

    def __getitem__(self, window):
        began = time.perf_counter()
        pixels = self._image[window]
        self.seconds += time.perf_counter() - began
        return pixels


def _decoding_share(source, augment, records=16):
    """How much of an example's time is reading and decoding, of some in a row on one thread."""
    rng, decoding, whole = np.random.default_rng(0), 0.0, 0.0
    for i in range(records):
        began = time.perf_counter()
        record = source[i % len(source)]
        decoding += time.perf_counter() - began
        image = record["image"] = _Watched(record["image"])
        augment(record, rng)
        decoding += image.seconds
        whole += time.perf_counter() - began
    return decoding / whole


def scaling(session):
    kinds = {"forward": (forward, session.forward_batch, 1), "train": (train, session.config.train.batch_size, 2)}
    for kind, (suite, usual, least) in kinds.items():
        for axis, points in (
            ("crops", [(usual, (crop, crop)) for crop in session.crops]),
            ("batches", [(n, session.crop) for n in session.batches if n >= least]),
        ):
            rows = []
            for n, size in points:
                (row,) = suite(session, "scaling", n, size)
                row.point = {"kind": kind, "axis": axis, "batch": n, "size": size, "pixels": n * math.prod(size)}
                rows.append(row)
                yield row
            pixels = [row.point["pixels"] for row in rows]
            for name in rows[0].times.seconds if len(set(pixels)) > 1 else ():
                line = Line.fit(pixels, [row.times.median(name) for row in rows])
                values = {"megapixel_seconds": 1e6 * line.seconds_per_pixel, "intercept_seconds": line.intercept}
                yield Row("scaling", f"{kind} over {axis}, {name}", values=values | {"residual_share": line.residual})


# In this order, whatever the user's: traces that came before would shorten those of `compile`, and a GPU's largest
# memory is that of all suites so far.
SUITES = {
    "compile": compilation,
    "forward": forward,
    "train": train,
    "memory": memory,
    "evaluate": evaluation,
    "input": pipeline,
    "scaling": scaling,
}


def _timed(session, suite, what, program, do, batch, dtype, **message):
    """One row: `program` of ours and what rivals take for `do`, in turns."""
    try:
        with contextlib.ExitStack() as stack:
            names = session.opponents.of(suite)
            running = {name: stack.enter_context(session.opponents.process(name, batch, dtype)) for name in names}
            flop = program.flop()
            parties = {OURS: Party(program.seconds, time.process_time)}
            for name, process in running.items():
                parties[name] = Party(partial(process.number, "seconds", do, **message), process.cpu)
            total = len(parties) * (WARM_UPS + session.rounds)
            with Progress(total, unit="run", label=what) as progress:
                times = alternate(parties, session.rounds, progress)
            memory = {name: process.number("peak_bytes", "memory") for name, process in running.items()}
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"{what} does not fit into memory: take a smaller batch or crop") from error
    return Row(suite, f"{what} {dtype}", times, flop, session.peak(dtype), {OURS: peak_bytes()} | memory)


def _shape(n, size):
    return f"{n}x{_size(size)}"


def _size(size):
    return "x".join(map(str, size))
