"""One checkpoint on disk: a state under a seal that says whether it is still what was saved.

It is a folder with two Orbax items, committed together by one rename:

    state   the arrays
    seal    JSON: shape, dtype and CRC-32 of every leaf as it was in memory, the metrics of an evaluation, once there
            are any, and the first step of the run that had the best score up to it; a digest of the seal itself

The seal is there because Orbax restores a flipped bit as a wrong value without a word.
"""

import asyncio
import contextlib
import errno
import json
import logging as python_logging
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import orbax.checkpoint as ocp

from cropjax.errors import UserError
from cropjax.workdir import write_text

# Orbax logs every phase of a save, and tracebacks of what it raises anyway, through the logger that is also ours.
python_logging.getLogger("absl").addFilter(lambda record: "/orbax/checkpoint/" not in record.pathname)


class DamagedError(Exception):
    """A checkpoint that cannot be trusted; the message says what is wrong with it."""


def write(path: Path, state: Any) -> None:
    """Writes a tree of NumPy arrays, all or nothing but a folder `<path>.orbax-checkpoint-tmp`.

    OSError, ValueError or RuntimeError if it cannot: tensorstore raises a full disk as a ValueError.
    """
    seal = _digested({"leaves": _leaves(state), "metrics": {}})
    items = ocp.args.Composite(state=ocp.args.StandardSave(state), seal=ocp.args.JsonSave(seal))
    with _checkpointer() as checkpointer:
        checkpointer.save(path.absolute(), args=items)


def copy(path: Path, target: Path) -> None:
    """Copies the checkpoint at `path`, all or nothing but a folder `<target>.tmp`, byte by byte; OSError if it cannot.

    That takes a fraction of the time of a second `write`, and the seal says of either whether it is what was saved.
    """
    unfinished = target.with_name(f"{target.name}.tmp")
    shutil.copytree(path, unfinished)
    unfinished.rename(target)


def read(path: Path, template: Any) -> tuple[Any, int]:
    """The verified state at `path` as NumPy arrays, and a number that equal states share.

    `template` is its tree, with anything that has a shape and a dtype at every leaf. DamagedError; UserError if it is
    the state of another network.
    """
    leaves = read_seal(path)["leaves"]
    _same_network(path, leaves, template)
    with _damage("its arrays cannot be read"), _drained_event_loops(), _checkpointer() as checkpointer:
        empty = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), template)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(empty))
        state = checkpointer.restore(path.absolute(), args=items)["state"]
    wrong = [name for name, leaf in _leaves(state).items() if leaf != leaves[name]]
    if wrong:
        raise DamagedError(f"the values of {_few(wrong)} are not those that were saved")
    return state, _json_digest(leaves)


def read_seal(path: Path) -> dict:
    """`leaves`, {path in the tree: [shape, dtype, CRC-32]}, `metrics`, {name: value}, and with these `best_step`.

    DamagedError.
    """
    with _damage("its seal cannot be read"):
        seal = json.loads(_seal_file(path).read_text())
        digest = seal.pop("digest")
        if digest != _json_digest(seal):
            raise ValueError("it does not match its own digest")
    return seal


def write_seal(path: Path, seal: dict) -> None:
    """Replaces the seal at `path`, all or nothing, by one that `read_seal` has given and the caller changed."""
    write_text(_seal_file(path), json.dumps(_digested(seal)))


def reason(error: BaseException) -> str:
    """What went wrong, in one line. Orbax wraps what tensorstore says in a page on how it asked; tensorstore begins
    with its own layers, ends with the reason, and appends annotations like [os_error_code='28']."""
    root = _root(error)
    line = re.sub(r" \[\w+=.*", "", (str(root).strip() or type(root).__name__).splitlines()[0])
    return line if len(line) <= 160 else "..." + line[-160:]


def no_room(error: BaseException) -> bool:
    """Whether `write` has failed for a full disk or a used up quota. tensorstore says so in words alone."""
    return any(os.strerror(code) in str(_root(error)) for code in (errno.ENOSPC, errno.EDQUOT))


def _root(error):
    while error.__cause__:
        error = error.__cause__
    return error


def _checkpointer():
    """Orbax's, in each process for itself: its processes would wait, ten minutes long, for one that has failed."""
    here = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process_{here}"
    )
    handler = ocp.CompositeCheckpointHandler(
        state=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
        seal=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
    )
    return contextlib.closing(ocp.Checkpointer(handler, multiprocessing_options=alone))


def _seal_file(path):
    return path / "seal" / "metadata"  # where Orbax puts a JSON item


def _digested(seal):
    return seal | {"digest": _json_digest(seal)}


def _json_digest(tree) -> int:
    return zlib.crc32(json.dumps(tree, sort_keys=True).encode())


def _leaves(state) -> dict[str, list]:
    """path -> [shape, dtype, CRC-32 of the bytes] of arrays on the host."""
    return {
        name: [*_form(leaf), zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8))]
        for name, leaf in _by_name(state)
    }


def _by_name(tree):
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in jax.tree.leaves_with_path(tree)
    ]


def _form(leaf):
    return list(leaf.shape), np.dtype(leaf.dtype).name


def _same_network(path, leaves, template):
    saved = {name: f"{dtype}{shape}" for name, (shape, dtype, _) in leaves.items()}
    wanted = {name: "{1}{0}".format(*_form(leaf)) for name, leaf in _by_name(template)}
    differing = [
        f"{name} is {saved.get(name, 'absent')} there and {wanted.get(name, 'absent')} here"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name)
    ]
    if differing:
        raise UserError(
            f"{path} belongs to another network: {_few(differing)}: "
            f"go back to the config of that run or choose another --workdir"
        )


def _few(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return "; ".join(names[:limit]) + more


@contextlib.contextmanager
def _damage(what) -> Iterator[None]:
    """Whatever Orbax, tensorstore or json raise on bad bytes: the kinds are many and none is documented."""
    try:
        yield
    except Exception as error:
        raise DamagedError(f"{what}: {reason(error)}") from error


class _DrainedEventLoop(asyncio.SelectorEventLoop):
    def close(self):
        pending = asyncio.all_tasks(self)
        if pending:
            self.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        super().close()


def _drained_event_loops():
    """At the first array that it cannot read, Orbax closes its event loop under the other reads: they then fail in
    threads of tensorstore and print pages of tracebacks. With these loops they end first."""
    return mock.patch.object(asyncio, "new_event_loop", _DrainedEventLoop)
