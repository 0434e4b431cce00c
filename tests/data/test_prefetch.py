"""Batches ahead of the consumer: all of them in order, and an error where they stop coming."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from cropjax.data import pipeline
from cropjax.data.prefetch import Prefetch
from cropjax.errors import UserError


def test_all_come_in_order_placed_and_a_little_ahead():
    placed = []

    def place(batch):
        placed.append(batch)
        return batch * 10

    batches = Prefetch(iter(range(9)), place, depth=2)
    assert next(batches) == 0
    time.sleep(0.3)
    assert 3 <= len(placed) <= 4  # two ready, one in hand
    assert list(batches) == list(range(10, 90, 10))
    assert list(batches) == []  # it stays at its end
    batches.close()


def test_an_error_comes_after_the_batches_before_it():
    def failing():
        yield 1
        raise UserError("train/broken.png: truncated")

    batches = Prefetch(failing(), lambda batch: batch)
    assert next(batches) == 1
    with pytest.raises(UserError, match="broken"):
        next(batches)


def test_closing_closes_what_it_reads():
    closed = threading.Event()

    def endless():
        try:
            yield from itertools.count()
        finally:
            closed.set()

    batches = Prefetch(endless(), lambda batch: batch)
    next(batches)
    batches.close()
    assert closed.is_set()


def test_no_batch_in_time_is_an_error_that_names_the_field():
    released = threading.Event()

    def stuck():
        yield 1
        released.wait()

    batches = Prefetch(stuck(), lambda batch: batch, patience=0.3)
    next(batches)  # which may take longer
    began = time.monotonic()
    with pytest.raises(UserError, match=r"^data.patience: no batch has come for 0.3 s"):
        next(batches)
    assert time.monotonic() - began < 2
    released.set()
    batches.close()


class Numbers:
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {"value": index}


def identify(record, rng):
    return {"value": np.int64(record["value"]), "process": np.int64(os.getpid())}


def started(**options):
    batches = pipeline.train_batches(Numbers(), identify, seed=0, batch_size=2, workers=1, threads=1)
    batches = Prefetch(batches, lambda batch: batch, **options)
    return batches, int(next(batches)["process"][0])


def assert_soon(batches, error):
    began = time.monotonic()
    with pytest.raises(UserError, match=error):
        list(batches)
    batches.close()
    assert time.monotonic() - began < 15


@pytest.mark.slow
def test_a_worker_that_hangs_is_an_error_within_seconds_and_is_killed():
    batches, worker = started(patience=3.0)
    os.kill(worker, signal.SIGSTOP)
    assert_soon(batches, r"^data.patience: .* a worker process hangs")
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


PARENT = """
import sys, time
sys.path.insert(0, {folder!r})
from test_prefetch import started

if __name__ == "__main__":
    batches, worker = started(patience=60.0)
    print(worker, flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(folder=os.path.dirname(__file__)))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    began = time.monotonic()
    while os.path.exists(f"/proc/{worker}"):
        assert time.monotonic() - began < 10
        time.sleep(0.1)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_an_error_within_seconds():
    batches, worker = started(patience=30.0)
    os.kill(worker, signal.SIGKILL)
    assert_soon(batches, r"^data.workers: a worker process died")
