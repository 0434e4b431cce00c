"""The run folder: which config it belongs to, and where its results came from.

    config.json       the whole config; a later run in the folder must agree with it
    provenance.json   commit, versions, devices and command of the run that began
    metrics.jsonl     scalars, one object a line

In a run of several processes only the first one writes.
"""

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jax
from ml_collections import ConfigDict

from cropjax.errors import UserError

# What a resumed run may change, a field or a group of fields: nothing here alters the state after a given step, but for
# train.steps, which the learning rate's schedule looks at and which one raises to train longer.
MAY_DIFFER = (
    "train.steps",
    "train.keep",
    "train.log_every",
    "train.checkpoint_every",
    "eval.every",
    "eval.panels",
    "eval.batch_size",
    "data.root",
    "data.in_memory",
    "data.on_error",
    "data.patience",
    "data.workers",
    "data.threads",
    "mesh",
)


def prepare(workdir: str | Path, config: ConfigDict, *, started: bool = True) -> None:
    """Makes `workdir` the folder of a run of `config`: creates it, or checks that it is one.

    UserError, before anything is written, if the folder holds a run whose config differs in a field that
    `MAY_DIFFER` does not name; a run that has not `started`, that is, has no checkpoint yet, may differ in all.
    """
    workdir = Path(workdir)
    try:
        new = not (workdir / "config.json").exists()
        if not new and started:
            _check_same(workdir, _fields(load_config(workdir)), _fields(config))
        if jax.process_index() == 0:
            workdir.mkdir(parents=True, exist_ok=True)
            if new or not started:  # config.json comes last: where it is, the folder is complete
                _write_json(workdir / "provenance.json", _provenance())
            _write_json(workdir / "config.json", config.to_dict())
    except OSError as error:
        raise UserError(
            f"{workdir} cannot be used as run folder ({error.strerror}): choose another --workdir"
        ) from error


def check_network(workdir: str | Path, config: ConfigDict) -> None:
    """UserError if the run in `workdir` has another network or other classes than `config`, by its stored config."""

    def network(fields):
        return {name: value for name, value in fields.items() if name.startswith("model.") or name == "data.source"}

    _check_same(workdir, network(_fields(load_config(workdir))), network(_fields(config)))


def load_config(workdir: str | Path) -> ConfigDict:
    """The locked config of the run in `workdir`; UserError if there is none. Sequences are tuples, as in our files."""
    path = Path(workdir) / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): --workdir must name the folder of a run") from error
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged: restore it, or choose another --workdir")
    return ConfigDict(_with_tuples(values)).lock()


def _check_same(workdir, stored, given):
    differing = [
        f"{name} is {_shown(stored, name)} there and {_shown(given, name)} here"
        for name in sorted(stored.keys() | given.keys())
        if (name in stored, stored.get(name)) != (name in given, given.get(name))
        and not any(name == free or name.startswith(free + ".") for free in MAY_DIFFER)
    ]
    if differing:
        raise UserError(
            f"{workdir} holds a run of another config: {'; '.join(differing)}: "
            f"choose another --workdir, or set {'it' if len(differing) == 1 else 'them'} back"
        )


def _shown(fields, name):
    return repr(fields[name]) if name in fields else "absent"


def _fields(config: ConfigDict) -> dict:
    """Dotted name -> value, sequences as tuples."""

    def walk(values, prefix):
        for name, value in values.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield prefix + name, _with_tuples(value)

    return dict(walk(config.to_dict(), ""))


def _with_tuples(value):
    if isinstance(value, dict):
        return {name: _with_tuples(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_with_tuples(item) for item in value)
    return value


def _provenance():
    devices = jax.devices()
    return {
        "command": [sys.executable, *sys.argv],
        "commit": commit(),
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("jax", "flax", "numpy")},
        "devices": {"kind": devices[0].device_kind, "count": len(devices)},
    }


def commit() -> str | None:
    """The commit of the code that runs, `-dirty` if it was edited; None outside a checkout of ours or without git."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():  # git would go up to a repository that happens to be around us
        return None
    command = ["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _write_json(path: Path, values: dict) -> None:
    write_text(path, json.dumps(values, indent=2, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """All or nothing, also under a kill."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
