"""How far a loop has come: a bar on a terminal, a line now and then in a log file."""

import contextlib
import numbers
import os
import sys
import time

from tqdm import tqdm

QUIET_SECONDS = 5.0  # a loop shorter than this says one line, its last


class Progress:
    """Context manager around a loop from `start` to `total` units.

    On a terminal a bar with rate, elapsed time, time left and the latest values. Elsewhere a line at most every
    `every_seconds`, for example `train  120/400  30 %  2.41 steps/s  eta 1:56  loss 1.234`. `stream` is standard
    error unless given; `enabled=False`, for every process but the first, writes nothing and still counts.
    """

    def __init__(
        self,
        total,
        start=0,
        unit="step",
        stream=None,
        label="train",
        *,
        every_seconds=30.0,
        enabled=True,
        clock=time.monotonic,
    ):
        self._total, self._unit, self._label = total, unit, label
        self._stream = sys.stderr if stream is None else stream
        self._enabled = enabled
        self._bar = self._stream.isatty()
        self._interval = 0.1 if self._bar else every_seconds
        self._clock = clock
        self._began = clock()
        self._paused = 0.0  # seconds
        self._done, self._at = start, 0.0
        self._rate_from = (start, 0.0)
        self._updates = 0
        self._next = QUIET_SECONDS
        self._drawn = False
        self._values = {}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._updates:
            self._print(self._line(f"after {_clock_time(self.elapsed)}"))

    def update(self, done, **values):
        """Say that `done` units of `total` are done.

        Values are kept until they change. They are numbers, strings or scalars on a device; the last are fetched
        only when they are shown.
        """
        self._count(done, values)
        if self.elapsed >= self._next:
            if self._bar:
                self._draw()
            else:
                self._print(self._line(self._eta()))
            self._next = self.elapsed + self._interval

    def line(self, done, **values):
        """As `update`, and print a line now, above the bar on a terminal; nothing in the first `QUIET_SECONDS`."""
        self._count(done, values)
        if self.elapsed >= QUIET_SECONDS:
            self._print(self._line(self._eta()))
            self._next = self.elapsed + self._interval

    @contextlib.contextmanager
    def pause(self):
        """Stop the clock, and clear the bar: what happens within counts neither in the rate nor in the time left."""
        self._clear()
        began, paused = self._clock(), self._paused
        try:
            yield
        finally:
            self._paused = paused + self._clock() - began

    @property
    def elapsed(self):
        """Seconds since the start, without the pauses."""
        return self._clock() - self._began - self._paused

    @property
    def rate(self):
        """Units a second between the first and the latest update (the first waits for compilation), 0 if unknown."""
        done, at = self._rate_from
        return (self._done - done) / (self._at - at) if self._at > at else 0.0

    def _count(self, done, values):
        if self._updates == 1:
            self._rate_from = (self._done, self._at)
        self._updates += 1
        self._done, self._at = done, self.elapsed
        self._values |= values

    def _line(self, time_text):
        return "  ".join([self._label, self._counter(), self._percent(), self._rate(), time_text, *self._shown()])

    def _draw(self):
        tail = "  ".join([self._counter(), self._rate(), _clock_time(self.elapsed), self._eta(), *self._shown()])
        bar = tqdm.format_meter(
            self._done,
            self._total,
            self.elapsed,
            ncols=_columns(self._stream) - 1,  # the last column would wrap
            ascii="utf" not in (self._stream.encoding or "").lower(),
            bar_format="{head} |{bar}| {tail}",
            head=f"{self._label}  {self._percent()}",
            tail=tail,
        )
        self._write("\r\x1b[K" + bar)
        self._drawn = True

    def _print(self, line):
        self._clear()
        self._write(line + "\n")

    def _clear(self):
        if self._drawn:
            self._write("\r\x1b[K")
            self._drawn = False

    def _write(self, text):
        if self._enabled:
            self._stream.write(text)
            self._stream.flush()

    def _counter(self):
        return f"{self._done}/{self._total}"

    def _percent(self):
        return f"{100 * self._done // self._total} %"

    def _rate(self):
        if 0 < self.rate < 1:
            return f"{_three_digits(1 / self.rate)} s/{self._unit}"
        return f"{_three_digits(self.rate)} {self._unit}s/s"

    def _eta(self):
        return f"eta {_clock_time((self._total - self._done) / self.rate) if self.rate else '?'}"

    def _shown(self):
        return [f"{name} {_text(value)}" for name, value in self._values.items()]


def _clock_time(seconds):
    """1:56, 12:03:04."""
    return tqdm.format_interval(round(seconds)).removeprefix("0")


def _three_digits(number):
    return f"{number:.2f}" if number < 10 else f"{number:.1f}" if number < 100 else f"{number:.0f}"


def _text(value):
    return str(value) if isinstance(value, str | numbers.Integral) else f"{float(value):.4g}"


def _columns(stream):
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80
