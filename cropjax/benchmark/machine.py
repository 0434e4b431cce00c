"""The machine: what it is, who uses its processors, and how much memory a process took. Linux's /proc, nothing else."""

import contextlib
import datetime
import os
import platform
import time
from importlib import metadata
from pathlib import Path

import jax

from cropjax.data.ahead import usable_cores
from cropjax.provenance import command, commit

TICKS = os.sysconf("SC_CLK_TCK")  # /proc counts in these
PACKAGES = ("jax", "jaxlib", "flax", "numpy")


def describe():
    """What a number needs beside it to mean something, for the JSON."""
    devices = jax.devices()
    versions = {name: metadata.version(name) for name in PACKAGES} | {"python": platform.python_version()}
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "devices": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "versions": versions,
        "commit": commit(),  # ends in -dirty where the code was edited
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command(),
    }


def one_line(machine):
    """`describe` for the screen."""
    devices, versions = machine["devices"], machine["versions"]
    gpu = "" if devices["platform"] == "cpu" else f"{devices['count']} x {devices['kind']}, "
    known = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB, {gpu}{known}\n"
        f"commit {machine['commit']}, {machine['date']}, {machine['command']}"
    )


class Others:
    """Context manager: `share` of the machine that processes other than ours and its children used meanwhile.

    (busy time of all cores - ours) / (cores x wall time), with what a hypervisor took among the busy; 0...1.
    """

    def __enter__(self):
        self._began = self._now()
        return self

    def __exit__(self, *exception):
        busy, ours, wall = (now - then for now, then in zip(self._now(), self._began, strict=True))
        self.share = min(max((busy - ours) / (wall * _all_cores()), 0.0), 1.0) if wall else 0.0

    @staticmethod
    def _now():
        return _busy_seconds(), cpu_seconds(os.getpid()), time.monotonic()


def cpu_seconds(pid):
    """Processor time of a process, its living descendants, and those that they have waited for."""
    parents, used = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()  # a name may hold anything
            except OSError:
                continue  # gone meanwhile
            parents[int(folder.name)] = int(fields[1])
            used[int(folder.name)] = sum(map(int, fields[11:15])) / TICKS
    children = {}
    for child, parent in parents.items():
        children.setdefault(parent, []).append(child)
    total, waiting = 0.0, [pid]
    while waiting:
        one = waiting.pop()
        total += used.get(one, 0.0)
        waiting += children.get(one, [])
    return total


def peak_bytes():
    """The most memory so far: of the first device, or on a CPU the largest resident size since `forget_peak`."""
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    # Not getrusage: there a process begins with what the one that started it had.
    return 1024 * int(_field("/proc/self/status", "VmHWM").split()[0])


def forget_peak():
    """Begins `peak_bytes` anew where Linux lets a process do so; a GPU's goes on."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _busy_seconds():
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, _stat_lines()[0].split()[1:])
    return (user + nice + system + irq + softirq + steal) / TICKS


def _all_cores():
    """Of the whole machine, also where this process may use only some: its /proc/stat counts all."""
    return sum(line.startswith("cpu") for line in _stat_lines()) - 1


def _stat_lines():
    return Path("/proc/stat").read_text().splitlines()


def _field(path, name):
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return None
