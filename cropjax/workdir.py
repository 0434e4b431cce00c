"""The run folder: which config it belongs to, and where its results came from.

    config.json       the whole config; a later run in the folder must agree with it
    provenance.json   commit, versions, devices and command of the run that began
    metrics.jsonl     scalars, one object a line
    rollbacks.json    [step gone back to, step gone back from] of each time that values were not finite
    lock              which process is at work here; locked as long as it lives

In a run of several processes only the first one writes.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path

import jax
from absl import logging
from ml_collections import ConfigDict

from cropjax.config import LABELS, defaults, set_optimizer
from cropjax.distributed import agree
from cropjax.errors import UserError
from cropjax.provenance import provenance

# What a resumed run may change, a field or a group of fields: nothing here alters the state after a given step, but for
# train.steps, which the learning rate's schedule looks at and which one raises to train longer.
MAY_DIFFER = (
    "train.steps",
    "train.keep",
    "train.log_every",
    "train.checkpoint_every",
    "train.patience",
    "train.on_nan",
    "optim.shard_state",
    "eval.every",
    "eval.stop_after",
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


# Of these, what all the same decides what a run that is over has found.
DECIDE_TOO = ("train.steps", "data.root", "data.on_error", "eval.every", "eval.stop_after")


def prepare(workdir: str | Path, config: ConfigDict, *, started: bool = True) -> contextlib.ExitStack:
    """Makes `workdir` the folder of a run of `config`, and this process's until what is returned is closed.

    Creates it, or checks that it is one. UserError in all processes, before anything is written, if another run is
    going on there, or if the folder holds a run whose config differs in a field that `MAY_DIFFER` does not name; a run
    that has not `started`, that is, has no checkpoint yet, may differ in all.
    """
    workdir, lock, failure = Path(workdir), contextlib.ExitStack(), None
    try:
        new = not (workdir / "config.json").exists()
        if not new and started:
            _check_same(workdir, stored_fields(workdir), fields_of(config))
        if jax.process_index() == 0:
            workdir.mkdir(parents=True, exist_ok=True)
            lock.enter_context(locked(workdir / "lock"))
            if new or not started:  # config.json comes last: where it is, the folder is complete
                (workdir / "rollbacks.json").unlink(missing_ok=True)
                _write_json(workdir / "provenance.json", provenance())
            _write_json(workdir / "config.json", config.to_dict())
    except OSError as error:
        failure = UserError(f"{workdir} cannot be used as run folder ({error.strerror}): choose another --workdir")
        failure.__cause__ = error
    except UserError as error:
        failure = error
    agree(failure)
    return lock


@contextlib.contextmanager
def locked(path, option="--workdir", *, wait=False):
    """Holds the lock of the folder that `option` names. It is the system's, and gone with the process anyhow.

    Where another process has it: UserError, or `wait` for that process.
    """
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                logging.warning(
                    "%s: this file system has no locks (%s): start one process there only", path, error.strerror
                )
                yield
                return
            file.seek(0)
            raise UserError(
                f"{path.parent}: another process is at work there ({file.read().strip() or 'it has just begun'}): wait "
                f"for it, stop it, or choose another {option}"
            ) from error
        file.truncate(0)
        began = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {began}\n")
        file.flush()
        yield
        file.truncate(0)


def data_position(workdir: str | Path, step: int) -> int:
    """How many global batches a run has taken that goes on after `step`: as many, and those it went back from."""
    return step + sum(bad - good for good, bad in _rollbacks(workdir) if good <= step)


def add_rollback(workdir: str | Path, good: int, bad: int) -> int:
    """Notes that the run has gone back from step `bad` to `good`; how often it has to `good`. All processes call it."""
    rollbacks = [*_rollbacks(workdir), [good, bad]]
    agree(None)  # all have read
    _write_rollbacks(workdir, rollbacks)
    return sum(step == good for step, _ in rollbacks)


def forget_rollbacks(workdir: str | Path, after: int) -> None:
    """Those to steps after `after`, where the run goes on: they are of checkpoints that were lost."""
    rollbacks = _rollbacks(workdir)
    kept = [pair for pair in rollbacks if pair[0] <= after]
    if kept != rollbacks:
        agree(None)
        _write_rollbacks(workdir, kept)


def _write_rollbacks(workdir, rollbacks):
    if jax.process_index() == 0:
        _write_json(Path(workdir) / "rollbacks.json", rollbacks)
    agree(None)


def _rollbacks(workdir):
    path = Path(workdir) / "rollbacks.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it, or choose another --workdir") from error


def check_network(workdir: str | Path, config: ConfigDict) -> None:
    """UserError if the run in `workdir` has another network or other classes than `config`, by its stored config.

    Another data set with the same classes is none of its business: a network may be scored on it.
    """
    stored, given = stored_fields(workdir), fields_of(config)
    of_data = () if _classes(stored) == _classes(given) else ("data.source", "data.classes")

    def network(fields):
        return {name: value for name, value in fields.items() if name.startswith("model.") or name in of_data}

    _check_same(workdir, network(stored), network(given))


def _classes(fields):
    source = fields.get("data.source")
    return LABELS[source].names if source in LABELS else fields.get("data.classes")


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


def run_config(workdir: str | Path) -> ConfigDict:
    """As `load_config`, with the fields that came later than the run, at their defaults: what builds its network."""
    stored = load_config(workdir).to_dict()
    try:
        standard = defaults(stored["model"]["name"])
        set_optimizer(standard, stored["optim"]["name"])
        filled = _filled_up(stored, standard.to_dict())
    except (KeyError, TypeError, UserError):
        raise UserError(
            f"{workdir}/config.json is not that of a run of ours: restore it, or name another folder"
        ) from None
    return ConfigDict(_with_tuples(filled)).lock()


def _filled_up(values, standard):
    """`values` and what only `standard` has, also in the dicts within; TypeError if it has a dict where they do not."""
    if not isinstance(standard, dict):
        return values
    if not isinstance(values, dict):
        raise TypeError(f"{values!r} is no group of fields")
    return standard | {name: _filled_up(value, standard.get(name)) for name, value in values.items()}


def stored_fields(workdir: str | Path) -> dict:
    """`fields_of` the run in `workdir`, with those that came later than it, which had their defaults then."""
    return fields_of(run_config(workdir))


def compared(fields: dict) -> dict:
    """Of `fields_of` a config, those that two runs are compared by: all on which a result depends."""
    return {name: value for name, value in fields.items() if name in DECIDE_TOO or not _may_differ(name)}


def _may_differ(name):
    return any(name == free or name.startswith(free + ".") for free in MAY_DIFFER)


def _check_same(workdir, stored, given):
    differing = [
        f"{name} is {_shown(stored, name)} there and {_shown(given, name)} here"
        for name in sorted(stored.keys() | given.keys())
        if (name in stored, stored.get(name)) != (name in given, given.get(name)) and not _may_differ(name)
    ]
    if differing:
        raise UserError(
            f"{workdir} holds a run of another config: {'; '.join(differing)}: "
            f"choose another --workdir, or set {'it' if len(differing) == 1 else 'them'} back"
        )


def _shown(fields, name):
    return repr(fields[name]) if name in fields else "absent"


def fields_of(config: ConfigDict) -> dict:
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


def _write_json(path: Path, values: dict) -> None:
    write_text(path, json.dumps(values, indent=2, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """All or nothing, also under a kill."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """All or nothing, also under a kill."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
