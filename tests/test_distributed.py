"""Which process of how many this is, by what launchers put into the environment; and what ends one that is stuck."""

import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from jax.experimental import multihost_utils

from cropjax import distributed
from cropjax.distributed import LOST, Place, find_place
from cropjax.errors import UserError
from cropjax.preemption import Preemption
from cropjax.sharding import make_mesh
from cropjax.watchdog import SLOWER, Watchdog

BY_HAND = {"JAX_COORDINATOR_ADDRESS": "host0:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
KUBERNETES = {"JAX_COORDINATOR_ADDRESS": "x-0.x:1", "JAX_NUM_PROCESSES": "2", "JOB_COMPLETION_INDEX": "1"}
# As `srun env` prints them (Slurm 22.05).
SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "n[0-1]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}
# As `mpirun env` prints them (Open MPI 4.1).
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_MCA_orte_hnp_uri": "941686784.0;tcp://192.0.2.2:50269;tcp6://[fd00::2]:40699",
}
ADDRESS = {"JAX_COORDINATOR_ADDRESS": "there:5"}


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, None),  # a batch script, not a step of srun
        (BY_HAND, Place("the environment", "host0:1234", 3, 4)),
        (BY_HAND | SLURM, Place("the environment", "host0:1234", 3, 4)),
        (BY_HAND | {"JAX_COORDINATOR_ADDRESS": "[fd00::2]:80"}, Place("the environment", "[fd00::2]:80", 3, 4)),
        (BY_HAND | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, None),
        (KUBERNETES, Place("Kubernetes", "x-0.x:1", 1, 2)),
        (SLURM, Place("Slurm", "n0:61441", 1, 2, 0, 1)),
        (SLURM | ADDRESS, Place("Slurm", "there:5", 1, 2, 0, 1)),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        (OPEN_MPI, Place("Open MPI", "192.0.2.2:61968", 1, 2, 1, 2)),
        (SLURM | OPEN_MPI, Place("Open MPI", "192.0.2.2:61968", 1, 2, 1, 2)),  # which starts its daemons by srun
        (OPEN_MPI | ADDRESS, Place("Open MPI", "there:5", 1, 2, 1, 2)),
        (
            OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "941686784.0;tcp6://[fd00::2,fe80::1]:40699"},
            Place("Open MPI", "[fd00::2]:61968", 1, 2, 1, 2),
        ),
    ],
)
def test_place(environ, place):
    assert find_place(environ) == place


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("a", "a"),
        ("a,b", "a"),
        ("gpu[003-007,010]", "gpu003"),
        ("gpu[12]", "gpu12"),
        ("gpu[8,11-12],cpu[1-2]", "gpu8"),
        ("login1,gpu[1-2]", "login1"),
        ("r1n[01-02].cluster.org", "r1n01.cluster.org"),
        ("node-a-[1-3]", "node-a-1"),
    ],
)
def test_first_host_of_a_node_list(nodes, first):
    assert find_place(SLURM | {"SLURM_STEP_NODELIST": nodes}).coordinator == f"{first}:61441"


@pytest.mark.parametrize(
    ("tasks", "node", "here"), [("2(x3),1", 0, 2), ("2(x3),1", 2, 2), ("2(x3),1", 3, 1), ("8", 0, 8), ("1,4(x2)", 2, 4)]
)
def test_tasks_of_a_node(tasks, node, here):
    environ = SLURM | {"SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NODEID": str(node)}
    assert find_place(environ).local_count == here


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        (BY_HAND | {"JAX_PROCESS_ID": "4"}, "process 4 of 4: count from 0"),
        (BY_HAND | {"JAX_PROCESS_ID": "one"}, "JAX_PROCESS_ID = 'one' must be a number"),
        (BY_HAND | {"JAX_NUM_PROCESSES": "-1"}, "JAX_NUM_PROCESSES = '-1'"),
        (BY_HAND | {"JAX_COORDINATOR_ADDRESS": "host"}, "JAX_COORDINATOR_ADDRESS = 'host' must be host:port"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "JAX_COORDINATOR_ADDRESS is missing"),
        (ADDRESS | {"JAX_NUM_PROCESSES": "2"}, "JOB_COMPLETION_INDEX = None"),
        (
            {name: value for name, value in OPEN_MPI.items() if "uri" not in name},  # as Open MPI 5 does
            "JAX_COORDINATOR_ADDRESS is missing: Open MPI starts 2 processes",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_named(environ, wanted):
    with pytest.raises(UserError, match=wanted):
        find_place(environ)


def test_processes_that_see_other_things_stop(monkeypatch):
    gathered = []
    monkeypatch.setattr(distributed, "several", lambda: True)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda x: gathered.append(x) or np.stack([x, x]))
    distributed.same((1, 2**32 - 1), "data")
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda x: np.stack([x, x + 1]))
    with pytest.raises(UserError, match="do not see the same data: put it on a disk that all share"):
        distributed.same(7, "data")


@pytest.mark.parametrize("counts", [np.int64(2**40 + 3), np.arange(6).reshape(2, 3) * 2**33 + 2**31])
def test_sums_over_processes_do_not_overflow(monkeypatch, counts):
    def of_32_bits(x):
        assert x.dtype == np.uint32
        return np.stack([x, x, x])

    assert distributed.sum_over_processes(counts) is counts
    monkeypatch.setattr(distributed, "several", lambda: True)
    monkeypatch.setattr(multihost_utils, "process_allgather", of_32_bits)
    np.testing.assert_array_equal(distributed.sum_over_processes(counts), 3 * counts)


def test_what_fails_in_one_process_is_raised_in_all(monkeypatch):
    monkeypatch.setattr(distributed, "several", lambda: True)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda x: np.stack([x, np.array(True)]))
    with pytest.raises(UserError, match="another process has failed"):
        distributed.agree(None)
    with pytest.raises(UserError, match="mine"):
        distributed.agree(UserError("mine"))


def test_all_threads_take_turns():
    """In a process of its own, which stays so."""
    code = """
import os, threading
from cropjax.distributed import take_turns
ended = threading.Event()
threading.Thread(target=ended.wait).start()
take_turns()
print({os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")} == {os.SCHED_BATCH})
ended.set()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_watchdog_ends_a_process_that_is_stuck(capfd):
    ended = threading.Event()
    with Watchdog(
        0.2, "train.patience", enabled=True, end=lambda status: ended.set() or statuses.append(status)
    ) as watchdog:
        statuses = []
        watchdog.beat()
        assert ended.wait(5)
    assert statuses == [LOST]
    assert "nothing has moved for 0 s (train.patience)" in capfd.readouterr().err


def test_watchdog_waits_for_what_has_always_been_slow_and_in_pauses():
    now, ended = [0.0], []
    with Watchdog(0.04, "train.patience", enabled=True, end=ended.append, clock=lambda: now[0]) as watchdog:

        def ends_after(seconds):
            now[0] += seconds
            time.sleep(0.1)
            return bool(ended)

        watchdog.beat()
        with watchdog.pause():
            assert not ends_after(1000)
        assert not ends_after(0.03)
        watchdog.beat()
        assert not ends_after(SLOWER * 0.03 - 0.01)
        assert ends_after(0.02)
    assert ended == [LOST]


def test_watchdog_waits_as_long_after_a_pause_that_counts():
    now, ended = [0.0], []
    with Watchdog(0.04, "data.patience", enabled=True, end=ended.append, clock=lambda: now[0]) as watchdog:
        watchdog.beat()
        with watchdog.pause(counts=True):
            now[0] += 7
        for seconds, late in ((SLOWER * 7 - 1, False), (2, True)):
            now[0] += seconds
            time.sleep(0.1)
            assert bool(ended) == late


def test_watchdog_of_a_process_alone_does_nothing():
    with Watchdog(0.01, "train.patience", end=lambda status: pytest.fail("ended")) as watchdog:
        watchdog.beat()
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_heard_within_and_only_there(number):
    before = signal.getsignal(number)
    with Preemption(make_mesh(data=-1, space=1)) as preemption:
        assert not preemption.agreed()
        signal.raise_signal(number)
        signal.raise_signal(number)  # schedulers repeat themselves
        assert preemption.agreed()
        assert preemption.asked == number.name
    assert signal.getsignal(number) == before


def test_outside_the_main_thread_nothing_is_heard():
    def hear():
        with Preemption(make_mesh(data=-1, space=1)) as preemption:
            heard.append(preemption.agreed())

    heard = []
    thread = threading.Thread(target=hear)
    thread.start()
    thread.join()
    assert heard == [False]
