import mmap
import os
import subprocess
import sys
import time

import pytest

from cropjax.benchmark import machine

SPIN = "import time\nwhile time.process_time() < 0.4: pass"


def test_processor_time_has_that_of_children():
    before = machine.cpu_seconds(os.getpid())
    subprocess.run([sys.executable, "-c", SPIN], check=True)
    assert machine.cpu_seconds(os.getpid()) - before > 0.3
    living = [sys.executable, "-c", SPIN + "\nprint(flush=True)\ninput()"]
    with subprocess.Popen(living, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        used = machine.cpu_seconds(child.pid), machine.cpu_seconds(os.getpid()) - before
        child.communicate(b"\n")
    assert used[0] > 0.3
    assert used[1] > 0.7


def test_share_of_others(monkeypatch):
    moments = iter([(100.0, 10.0, 0.0), (109.0, 12.0, 5.0)])  # busy, ours, wall
    monkeypatch.setattr(machine.Others, "_now", lambda _: next(moments))
    monkeypatch.setattr(machine, "_all_cores", lambda: 4)
    with machine.Others() as others:
        pass
    assert others.share == pytest.approx((9 - 2) / (4 * 5))


def test_own_work_is_not_others():
    began = time.monotonic()
    with machine.Others() as others:
        start = time.process_time()
        while time.process_time() < start + 0.3:
            pass
    own = 0.3 / (machine._all_cores() * (time.monotonic() - began))
    assert 0 <= others.share <= 1
    assert others.share < 1 - own + 0.1  # the system counts in hundredths of a second


def test_peak_is_of_what_ran_since():
    with mmap.mmap(-1, 2**26) as large:
        large.write(b"x" * 2**26)
        held = machine.peak_bytes()
    machine.forget_peak()
    assert machine.peak_bytes() < held - 2**25


def test_description():
    here = machine.describe()
    assert here["cores"] >= 1
    assert here["memory_bytes"] > machine.peak_bytes() > 2**20
    for line in machine.one_line(here).splitlines():
        assert line.strip()
