"""Ends a process whose run has come to a stand: better an end with a message than a hang."""

import contextlib
import os
import sys
import threading
import time

from cropjax.distributed import LOST, MEND, several, whoami

SLOWER = 10  # times the longest wait so far


class Watchdog:
    """Context manager around a loop that calls `beat` after every turn.

    When no beat comes for `patience` seconds, which is the config's `field`, and for ten times the longest wait between
    two before, the process says so and ends with status 3; the others of a run then stop too. Without others nothing
    can hang but this machine, and nobody but its user waits: then it does nothing.
    """

    def __init__(self, patience, field, *, enabled=None, end=os._exit, clock=time.monotonic):
        self._patience, self._field, self._end, self._clock = patience, field, end, clock
        self._enabled = several() if enabled is None else enabled
        self._longest = 0.0
        self._beat = None  # none is expected
        self._done = threading.Event()

    def __enter__(self):
        if self._enabled:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *exception):
        self._done.set()

    def beat(self):
        now, before = self._clock(), self._beat
        if before is not None:
            self._longest = max(self._longest, now - before)
        self._beat = now

    @contextlib.contextmanager
    def pause(self, *, counts=False):
        """For what may take any time: expects no beat within. `counts` says that other waits may become as long."""
        began, self._beat = self._clock(), None
        yield
        self._beat = self._clock()
        if counts:
            self._longest = max(self._longest, self._beat - began)

    def _watch(self):
        while not self._done.wait(min(1.0, self._patience / 4)):
            beat = self._beat
            allowed = max(self._patience, SLOWER * self._longest)
            if beat is not None and self._clock() - beat > allowed:
                print(
                    f"cropjax: {whoami()}: nothing has moved for {allowed:.0f} s ({self._field}): another process "
                    f"or a device hangs; {MEND}",
                    file=sys.stderr,
                    flush=True,
                )
                self._end(LOST)
                return
