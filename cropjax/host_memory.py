"""What steps on a CPU, and whoever makes their batches, work in."""

import ctypes
import os
from pathlib import Path

import jax

# glibc's malloc.h, and its default for the second.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, MANY = -1, -3, -4, 65536
KEEP_ALL = -1
GROWTH = 1.2  # times what was held: beyond it a step has taken its buffers elsewhere


class StepMemory:
    """Lets every step on a CPU work in the memory of the one before.

    XLA asks the C library for all buffers of a step at once, gigabytes, and gives them back after it. By default the
    library gives them back to the system, which clears them again page by page during the next step: a quarter of a
    step of DeepLabV3+. Here they are kept. Now and then a step does not fit where the last one was, by a few bytes,
    and takes its buffers elsewhere; so there must be room for twice as much, or nothing is kept, and what is too much
    goes back after the step.

    `program` is the compiled step. Steps must not be dispatched ahead (`jax_cpu_enable_async_dispatch`): the next one
    would ask for memory before the last one gives back. Does nothing on a GPU and where the C library is not glibc.
    """

    def __init__(self, program):
        self._held = None
        self._mallopt, self._trim = _glibc("mallopt"), _glibc("malloc_trim")
        self.kept = False
        if jax.default_backend() == "cpu" and self._mallopt and self._trim and (plan := program.memory_analysis()):
            self._trim(0)  # what another program's steps worked in
            self.kept = 2 * plan.temp_size_in_bytes < available_bytes()
            self._mallopt(M_MMAP_MAX, 0 if self.kept else MANY)
            if self.kept:
                self._mallopt(M_TRIM_THRESHOLD, KEEP_ALL)

    def after_step(self):
        """Gives back what is kept if the process has grown: a step took its buffers elsewhere."""
        if not self.kept:
            return
        held = _held_bytes()
        if self._held is None:
            self._held = held
        elif held > GROWTH * self._held:
            self._trim(0)

    def give_back(self):
        """Gives everything back, where other things than steps ran and left gaps; the next step gets it anew."""
        if self.kept:
            self._trim(0)
            self._held = None


def reuse_image_memory():
    """Lets an example be made in the memory of the one before, in this process.

    Images are of the size that the C library takes from the system and gives back to it each time, which clears them
    page by page: two fifths of the time of an example from a prepared store. Does nothing where it is not glibc.
    """
    if mallopt := _glibc("mallopt"):
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most it allows
        mallopt(M_TRIM_THRESHOLD, 256 << 20)


def _glibc(name):
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None


def available_bytes(group=Path("/sys/fs/cgroup")):
    """Of the machine's memory or, in a container with a limit, of that; what caches files counts as free."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    found = [int(lines["MemAvailable"].split()[0]) * 1024]
    limit = group / "memory.max"
    if limit.exists() and (text := limit.read_text().strip()) != "max":
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = int(stat["inactive_file"]) + int(stat["active_file"])
        found.append(int(text) - int((group / "memory.current").read_text()) + cached)
    return min(found)


def _held_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
