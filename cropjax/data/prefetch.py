"""Batches on their way to the devices while a step runs, and an error when they stop coming."""

import multiprocessing
import queue
import threading
from collections.abc import Callable, Iterator

from cropjax.errors import UserError

STARTING = 300.0  # seconds
_END = object()


class Prefetch:
    """Iterates over `place(batch)` of `batches`, `depth` of them ahead, made in a thread of its own.

    What `batches` or `place` raise comes out of `next`, after the batches before it. `UserError` when none has come for
    `patience` seconds; the first may take `STARTING`, for worker processes start. `close` ends the thread, with it
    `batches`, and kills the workers if they hang.
    """

    def __init__(self, batches: Iterator, place: Callable, *, depth: int = 2, patience: float = 60.0):
        self._place, self._patience, self._next_patience = place, patience, max(patience, STARTING)
        self._not_ours = set(multiprocessing.active_children())
        self._ended = False
        self._ready: queue.Queue = queue.Queue(depth)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(batches,), name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self):
        return self

    def __next__(self):
        if self._ended or self._closing.is_set():
            raise StopIteration
        try:
            value, error = self._ready.get(timeout=self._next_patience)
        except queue.Empty:
            raise UserError(
                f"data.patience: no batch has come for {self._next_patience:g} s: a worker process hangs, or the files "
                "are read too slowly; look at both, or raise data.patience"
            ) from None
        self._next_patience = self._patience
        if error is not None:
            self.close()
            raise error
        if value is _END:
            self._ended = True
            raise StopIteration
        return value

    def close(self):
        """Ends the thread within seconds, at the price of the worker processes if need be."""
        self._closing.set()
        self._thread.join(2)
        if self._thread.is_alive():  # it waits for a worker
            for worker in set(multiprocessing.active_children()) - self._not_ours:
                worker.kill()
            self._thread.join(2)

    def _run(self, batches):
        try:
            for batch in batches:
                if not self._put((self._place(batch), None)):
                    return
            self._put((_END, None))
        except BaseException as error:  # whatever it is, it is the consumer's
            self._put((None, error))
        finally:
            getattr(batches, "close", lambda: None)()  # a generator can only be closed by the thread that runs it

    def _put(self, item):
        """Whether the consumer will get it."""
        while not self._closing.is_set():
            try:
                self._ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
