"""How this process gets memory from the system."""

import ctypes
import os
from pathlib import Path

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory():
    """On a CPU, keeps the memory of a step for the next one, where the C library is glibc. Before threads start.

    XLA asks for all of a step's buffers at once, gigabytes, and gives them back after it. By default the system then
    takes them away, and clears them again page by page at the next step: a third of a transformer's time.
    """
    gpu = os.environ.get("JAX_PLATFORMS", "cpu") != "cpu" or Path("/dev/nvidiactl").exists()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt and not gpu:
        for option, value in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)):
            mallopt(option, value)
