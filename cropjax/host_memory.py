"""What the steps of a CPU work in."""

import ctypes
import os
from pathlib import Path

import jax

# glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
KEEP_ALL = -1
ALIGNMENT = 2 * 64  # what XLA's alignment of buffers to 64 bytes may take besides
GROWTH = 1 / 64  # of the buffers: by so much the heap may grow where they find a place
KEPT = 1.75  # times the buffers: by so much the process may be larger than without what is kept


class StepMemory:
    """Lets every step on a CPU work in the memory of the one before.

    XLA asks the C library for all buffers of a step at once, gigabytes, and gives them back after it. By default the
    library gives them back to the system, which clears them again page by page during the next step: a quarter of a
    step of DeepLabV3+. Here they are kept. Now and then something small has settled where the last step was; the next
    would take its buffers elsewhere, beside what is kept. So `before_step` asks for them on trial, and where there is
    no place, or a step did grow the process, gives all that is free back to the system.

    `program` is the compiled step. Steps must not be dispatched ahead (`jax_cpu_enable_async_dispatch`): the next one
    would ask for memory before the last one gives back. Does nothing on a GPU and where the C library is not glibc.
    """

    def __init__(self, program):
        self._c = None
        plan = program.memory_analysis()
        if plan and jax.default_backend() == "cpu" and os.name == "posix" and (c := _glibc()):
            self._c, self._size = c, plan.temp_size_in_bytes + ALIGNMENT
            c.mallopt(M_MMAP_MAX, 0)
            c.mallopt(M_TRIM_THRESHOLD, KEEP_ALL)
            self.give_back()  # what another program's steps worked in

    def before_step(self):
        """Makes sure that the step will not take its buffers beside what is kept."""
        if self._c and (_held_bytes() > self._most or not self._has_place()):
            self.give_back()

    def give_back(self):
        """Gives what is free back to the system: before something else than a step needs memory."""
        if self._c:
            self._c.malloc_trim(0)
            self._most = _held_bytes() + KEPT * self._size

    def _has_place(self):
        """Memory that is not touched costs nothing: only the heap's end tells whether it had to grow.

        On trial without alignment, for which glibc would cut crumbs off the place.
        """
        end = self._c.sbrk(0)
        self._c.free(self._c.malloc(self._size))
        return self._c.sbrk(0) - end <= GROWTH * self._size


def _held_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _glibc():
    """The C library with its functions' types, or None where it is another one."""
    c = ctypes.CDLL(None)
    if not hasattr(c, "mallopt") or not hasattr(c, "malloc_trim"):
        return None
    c.malloc_trim.argtypes = [ctypes.c_size_t]
    c.free.argtypes, c.free.restype = [ctypes.c_void_p], None
    c.sbrk.argtypes, c.sbrk.restype = [ctypes.c_ssize_t], ctypes.c_void_p
    c.malloc.argtypes, c.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    return c
