"""One run in several processes: who started them, how they find each other, and how one leaves when others are lost.

A process that runs alone needs none of it. The environment tells who started us, looked at in this order:

    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID    by hand; JOB_COMPLETION_INDEX of a Kubernetes Job
                                                                  stands for the last
    OMPI_COMM_WORLD_SIZE, ...                                     a rank of Open MPI's `mpirun`, within Slurm too
    SLURM_STEP_NODELIST, ...                                      a task of `srun`

JAX_COORDINATOR_ADDRESS, host:port of the first process, overrides what Slurm or Open MPI give. JAX finds such things
too, but gives a process one GPU always, and not its whole node where it is the only one there.
"""

import contextlib
import dataclasses
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping

from cropjax.errors import Stopped, UserError

HEARTBEAT = 30  # seconds without a sign of life, after which JAX's coordinator ends all processes; JAX's own is 100
LOST = 3  # exit status where another process is lost or hangs: start again
GRACE = 3  # seconds that the first process leaves the others to say what is wrong
MEND = "look at its log; the same command goes on from the last checkpoint, also with fewer devices"
EPHEMERAL = 61440  # ports from here on are picked by the number of the job

# What asks a run to stop: schedulers before they take a machine away, and what a job asks for before its time is over.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

# What the libraries that exchange arrays raise when another process has gone, in JAX's words and theirs.
_OF_A_PEER = re.compile(
    r"gloo|nccl|coordination service|distributed service|connection (?:closed|reset|refused)|socket closed", re.I
)


@dataclasses.dataclass(frozen=True)
class Place:
    """This process's among the `count` of a run; the coordinator is in that of index 0."""

    launcher: str
    coordinator: str  # host:port
    index: int
    count: int
    local_index: int = 0
    local_count: int = 1


def find_place(environ: Mapping[str, str]) -> Place | None:
    """The place that the environment gives to this process, or None if it runs alone.

    Raises:
        UserError: variables that are missing or are no numbers.
    """
    address = environ.get("JAX_COORDINATOR_ADDRESS")
    if address and not re.fullmatch(r"[^\s:]+:\d+|\[[\da-fA-F:]+\]:\d+", address):
        raise UserError(f"JAX_COORDINATOR_ADDRESS = {address!r} must be host:port")
    if "JAX_NUM_PROCESSES" in environ:
        index = "JAX_PROCESS_ID" if "JAX_PROCESS_ID" in environ else "JOB_COMPLETION_INDEX"
        launcher = "the environment" if index == "JAX_PROCESS_ID" else "Kubernetes"
        place = Place(launcher, address, _number(environ, index), _number(environ, "JAX_NUM_PROCESSES"))
    elif "OMPI_COMM_WORLD_SIZE" in environ:
        names = [f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")]
        place = Place(
            "Open MPI", address or _open_mpi_coordinator(environ), *(_number(environ, name) for name in names)
        )
    elif "SLURM_STEP_NODELIST" in environ and "SLURM_PROCID" in environ:
        place = Place(
            "Slurm",
            address or _slurm_coordinator(environ),
            _number(environ, "SLURM_PROCID"),
            _number(environ, "SLURM_NTASKS"),
            _number(environ, "SLURM_LOCALID"),
            _tasks_here(environ),
        )
    else:
        return None
    if not 0 <= place.index < place.count:
        raise UserError(f"{place.launcher} says that this is process {place.index} of {place.count}: count from 0")
    if place.count == 1:
        return None
    if not place.coordinator:
        raise UserError(
            f"JAX_COORDINATOR_ADDRESS is missing: {place.launcher} starts {place.count} processes, which meet at the "
            "host:port of the first"
        )
    return place


def join(environ: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes of the run, if there are any, before anything else is asked of JAX.

    Says in the first process who started them. Several processes of a node take one GPU each, unless
    JAX_LOCAL_DEVICE_IDS or CUDA_VISIBLE_DEVICES gives each its own; the only one of a node takes all.
    """
    place = find_place(environ)
    if place is None:
        return
    import jax

    # The signals that end a run are ours (preemption.py); JAX would take SIGTERM.
    jax.config.update("jax_enable_preemption_service", False)
    host, _, port = place.coordinator.rpartition(":")
    if place.local_count == place.count:
        host = "127.0.0.1"
    # No other machine need reach a coordinator whose processes are all here.
    local = host in ("127.0.0.1", "localhost", "[::1]")
    alone = place.local_count == 1 or len(environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")) == 1
    try:
        jax.distributed.initialize(
            f"{host}:{port}",
            num_processes=place.count,
            process_id=place.index,
            local_device_ids=None if alone or "JAX_LOCAL_DEVICE_IDS" in environ else [place.local_index],
            cluster_detection_method="deactivate",
            coordinator_bind_address=f"{host}:{port}" if local else None,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        print(
            f"cropjax: process {place.index} of {place.count} did not meet the others at {place.coordinator} "
            f"({reason}): are all there, and is the port free and open?",
            file=sys.stderr,
        )
        sys.exit(LOST)
    if jax.default_backend() == "cpu":
        take_turns()
    if place.index == 0:
        print(
            f"{place.count} processes, started by {place.launcher}, coordinator {host}:{port}; if one is lost, "
            f"all stop within {2 * HEARTBEAT} s, and the same command goes on from the last checkpoint",
            flush=True,
        )


def take_turns() -> None:
    """Threads of this process, and those that they start, do not take a core from another by waking up; on Linux.

    Gloo's own thread, woken while the sender holds the connection's lock, asks for it again and again until its time
    on the core is up, 4 ms for each message. With a core for each process a step took five to twenty times as long.
    """
    if not hasattr(os, "SCHED_BATCH"):
        return
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has ended, or must not change
            os.sched_setscheduler(int(thread), os.SCHED_BATCH, os.sched_param(0))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Joins the others for the body, and lets go of them, if that ends well, when all have ended it."""
    join()
    try:
        yield
    except Stopped:
        for number in SIGNALS:  # it is stopping: a scheduler that repeats itself must not change how it ends
            signal.signal(number, signal.SIG_IGN)
        _part()
        raise
    _part()


def _part():
    if several():
        sys.modules["jax"].distributed.shutdown()


def several() -> bool:
    """Whether the run has other processes, without starting JAX's devices."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def somewhere(happened: bool) -> bool:
    """Whether it has happened in any process; all call it."""
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.array(happened)))) if several() else happened


def agree(failure: UserError | None) -> None:
    """Raises in every process what has failed in one; all call it."""
    if somewhere(failure is not None):
        raise failure or UserError("another process has failed, see its message")


def sum_over_processes(counts):
    """Of an int64 array in each process; by halves, for JAX's own integers have 32 bits. All call it."""
    if not several():
        return counts
    import numpy as np
    from jax.experimental import multihost_utils

    halves = multihost_utils.process_allgather(np.atleast_1d(np.ascontiguousarray(counts)).view(np.uint32))
    return np.ascontiguousarray(halves).view(np.int64).sum(0).reshape(np.shape(counts))


def union_over_processes(pairs):
    """The set of all processes' pairs of numbers, of up to 32 bits and not negative. All call it."""
    if not several():
        return set(pairs)
    import numpy as np
    from jax.experimental import multihost_utils

    most = multihost_utils.process_allgather(np.int32(len(pairs))).max()
    ours = np.full((most, 2), -1, np.int32)
    ours[: len(pairs)] = sorted(pairs)
    everyones = multihost_utils.process_allgather(ours).reshape(-1, 2).tolist()
    return {tuple(pair) for pair in everyones if pair[0] >= 0}


def same(values, what: str) -> None:
    """Raises in every process if `values`, numbers of up to 32 bits, are not the same in all; all call it."""
    if several():
        import numpy as np
        from jax.experimental import multihost_utils

        found = multihost_utils.process_allgather(np.asarray(values, np.uint32))
        if (found != found[0]).any():
            raise UserError(f"the processes of the run do not see the same {what}: put it on a disk that all share")


def leave(status: int) -> None:
    """Ends this process. One of several does it at once: at a usual exit JAX would wait for the others.

    They hear of it from their next exchange, or by the missing heartbeat.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if several():
        if sys.modules["jax"].process_index() == 0:
            time.sleep(GRACE)  # with the coordinator gone JAX ends them at once, whatever they were about to say
        os._exit(status)
    sys.exit(status)


def leave_after(error: Exception) -> None:
    """Ends one process of several that cannot go on: the traceback, and a line if it says that others are lost."""
    traceback.print_exception(error)
    if not _OF_A_PEER.search(str(error)):
        leave(1)
    line = next(line for line in str(error).splitlines() if _OF_A_PEER.search(line))
    print(f"cropjax: {whoami()}: another process is lost ({line.strip()}); {MEND}", file=sys.stderr)
    leave(LOST)


def whoami() -> str:
    """This process among all, as messages name it."""
    import jax

    return f"process {jax.process_index()} of {jax.process_count()}"


def _number(environ, name):
    value = environ.get(name)
    if value is None or not value.isdecimal():
        raise UserError(f"{name} = {value!r} must be a number: it says which process of how many this is")
    return int(value)


def _slurm_coordinator(environ):
    """The first host of the step, and a port by the job's number: a[003-007,010],b1 -> a003."""
    first = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\]([^,]*))?", environ["SLURM_STEP_NODELIST"])
    host = "".join(part or "" for part in first.groups())
    return f"{host}:{EPHEMERAL + _number(environ, 'SLURM_JOB_ID') % 4096}"


def _tasks_here(environ):
    """How many tasks the step has on this node: of 4(x2),2 those of SLURM_NODEID."""
    counts = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", environ.get("SLURM_STEP_TASKS_PER_NODE", "1")):
        counts += [int(count)] * int(times or 1)
    return counts[min(int(environ.get("SLURM_NODEID", "0")), len(counts) - 1)]


def _open_mpi_coordinator(environ):
    """Where mpirun itself runs, `1531576320.0;tcp://10.96.0.1,10.148.0.1:34911`; Open MPI 5 does not tell."""
    found = re.match(r"(\d+)\..*?tcp6?://(?:\[([^\],]+)|([^,:]+))", environ.get("OMPI_MCA_orte_hnp_uri", ""))
    if not found:
        return None
    job, six, four = found.groups()
    host = f"[{six}]" if six else four
    return f"{host}:{EPHEMERAL + int(job) // 4096 % 4096}"
