"""Where a number came from: the code, the command, the versions and the devices that made it."""

import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jax


def provenance():
    """What a run's folder keeps of all four, for its JSON."""
    devices = jax.devices()
    return {
        "command": command(),
        "commit": commit(),
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("jax", "flax", "numpy")},
        "devices": {"kind": devices[0].device_kind, "count": len(devices)},
    }


def command() -> str:
    """The command that runs, as it is typed: a module by its name, so that no folder of this machine is told."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["-m", module.name.removesuffix(".__main__")] if module else sys.argv[:1]
    return shlex.join(["python", *program, *sys.argv[1:]])


def commit() -> str | None:
    """The commit of the code that runs, `-dirty` if it was edited; None outside a checkout of ours or without git."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():  # git would go up to a repository that happens to be around us
        return None
    describe = ["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
