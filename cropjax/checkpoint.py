"""Checkpoints of a run: asynchronous, atomic, verified.

A checkpoint is one folder `<folder>/<step>` with two Orbax items, committed together by one rename:

    state   the arrays
    seal    JSON: shape, dtype and CRC-32 of every leaf as it was in memory, the metrics of an evaluation, once there
            are any, and a digest of the seal itself

The seal is there because Orbax restores a flipped bit as a wrong value without a word. It is computed before `save`
returns, so the caller may donate the state to the next step at once.

In a run of several processes the first one writes, the whole state; all read, and all hear of each other's errors. The
folder must be on a disk that they share.

Reading never changes the folder: `evaluate` may look at a run that is being trained. Leftovers of a killed save are
removed, and damaged checkpoints set aside as `<step>.corrupt`, by the first save after them.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging as python_logging
import math
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from cropjax.distributed import agree, same, somewhere
from cropjax.errors import UserError
from cropjax.workdir import write_text

# Orbax logs every phase of a save, and tracebacks of what it raises anyway, through the logger that is also ours.
python_logging.getLogger("absl").addFilter(lambda record: "/orbax/checkpoint/" not in record.pathname)


class _Damaged(Exception):
    """A checkpoint that cannot be trusted; the message says what is wrong with it."""


@dataclasses.dataclass(kw_only=True)
class _LatestTwoAndBest(PreservationPolicy):
    """Over scores from our seals: with metrics of its own, Orbax does not open a folder in which one is damaged."""

    best: Callable[[list[int]], int | None]

    def should_preserve(self, checkpoints, *, context):
        steps = [info.step for info in checkpoints]
        kept = {*steps[-2:], self.best(steps)}
        return [step in kept for step in steps]


class Checkpoints:
    """The checkpoints in `folder`: the latest, the one before it to fall back to, and the best.

    `best` names the metric whose largest finite value, among the saves that carry it, makes the best one; of equal
    values the later wins. All processes of a run make the same calls.
    """

    def __init__(self, folder: str | Path, *, best: str):
        self.folder = Path(folder)
        self._best = best
        self._scores: dict[int, float] = {}
        self._damaged: set[int] = set()
        self._ready_to_save = False
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder} is not a folder: move it away or choose another --workdir")
        self._manager = self._open()

    def _open(self, tries=5):
        here = jax.process_index()
        options = ocp.CheckpointManagerOptions(
            create=False,
            save_root_metadata=False,
            preservation_policy=_LatestTwoAndBest(best=self._best_of),
            # Each process for itself: Orbax's processes would wait, ten minutes long, for one that has failed.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process_{here}"
            ),
        )
        try:
            return ocp.CheckpointManager(self.folder.absolute(), options=options)
        except FileNotFoundError:  # a run that is going on there has removed a step between two looks
            if not tries:
                raise
            return self._open(tries - 1)

    def steps(self) -> list[int]:
        """The committed steps, in increasing order."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())

    def save(self, step: int, state: Any) -> None:
        """Starts to write `state`, which is copied to the host before this returns.

        Waits for the save before this one; UserError if that one or this one cannot be written, or if `step` is there
        already.
        """
        state = _on_host(state)
        with self._saving():
            if jax.process_index() == 0:
                self._save(step, state)

    def _save(self, step, state):
        self._prepare_to_save()
        if step in self._manager.all_steps():
            raise UserError(f"{self.folder / str(step)} exists already: delete it or choose another --workdir")
        self._scores.pop(step, None)  # of a save of this step that failed or was set aside
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), seal=ocp.args.JsonSave(_seal(state)))
        self._manager.save(step, args=items, force=True)

    def add_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Writes into the seal of `step`, all or nothing, what an evaluation of it has found.

        Waits for the save; UserError if it failed, or if this cannot be written.
        """
        with self._saving():
            self._manager.wait_until_finished()
            if jax.process_index() == 0:
                with self._undamaged(step):
                    seal = self._read_seal(step) | {"metrics": {name: float(value) for name, value in metrics.items()}}
                write_text(self.folder / str(step) / "seal" / "metadata", json.dumps(_digested(seal)))
                self._scores |= _score(step, seal, self._best)

    def wait(self) -> None:
        """Returns when the last save is on disk; UserError if it is not."""
        with self._saving():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for what this process writes and releases Orbax's threads; UserError as in `wait`, but in it alone."""
        try:
            with self._naming_what_failed():
                self._manager.wait_until_finished()
        finally:
            self._manager.close()

    def evaluated(self, step: int) -> bool:
        """Whether the checkpoint of `step` carries metrics; UserError if it is damaged."""
        with self._undamaged(step):
            return bool(self._read_seal(step)["metrics"])

    @contextlib.contextmanager
    def _undamaged(self, step):
        try:
            yield
        except _Damaged as damage:
            raise UserError(f"{self.folder / str(step)} is damaged ({damage})") from None

    def restore(self, template: Any, step: int | Literal["latest", "best"] = "latest") -> tuple[int, Any] | None:
        """The step and its state, or None if there is no checkpoint.

        `template` is the state's tree with a `jax.ShapeDtypeStruct` that has a sharding at every leaf; the number of
        devices may differ from that of the save. A damaged latest checkpoint is skipped with a warning for the one
        before it; asked for by number or as the best, it is an error. UserError too for a step that is not there and
        for a checkpoint of another network.
        """
        self.wait()
        steps = self.steps()
        same(zlib.crc32(str(steps).encode()), f"checkpoints in {self.folder}")
        if not steps:
            return None
        if step == "latest":
            return self._restore_latest(steps, template)
        if step == "best":
            self._read_scores(steps)
            step = self._best_of(steps)
            if step is None:
                raise UserError(
                    f"{self.folder}: no checkpoint carries {self._best!r}, so there is no best one: "
                    f"restore the latest, or train with evaluation (eval.every)"
                )
        if step not in steps:
            raise UserError(f"{self.folder}: there is no step {step}; choose one of {steps}")
        try:
            return step, self._read(step, template)
        except _Damaged as damage:
            raise UserError(f"{self.folder / str(step)} is damaged ({damage}): choose another of {steps}") from None

    def _restore_latest(self, steps, template):
        damages = []
        for step in reversed(steps):
            try:
                return step, self._read(step, template)
            except _Damaged as damage:
                logging.warning("%s is damaged (%s): trying the checkpoint before it", self.folder / str(step), damage)
                damages.append(f"{step}: {damage}")
                self._damaged.add(step)
                self._ready_to_save = False
        raise UserError(
            f"{self.folder}: no good checkpoint ({'; '.join(damages)}): delete the folder or choose another --workdir"
        )

    def _read(self, step, template):
        """The verified state of `step`; _Damaged on every process if it is on one."""
        damage = mistake = state = None
        try:
            leaves = self._read_seal(step)["leaves"]
            _same_network(self.folder / str(step), leaves, template)
            with _damage("its arrays cannot be read"), _drained_event_loops():
                empty = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), template)
                state = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(empty)))[
                    "state"
                ]
            wrong = [name for name, leaf in _leaves(state).items() if leaf != leaves[name]]
            if wrong:
                raise _Damaged(f"the values of {_few(wrong)} are not those that were saved")
        except _Damaged as error:
            damage = error
        except UserError as error:
            mistake = error
        agree(mistake)
        if somewhere(damage is not None):
            raise damage or _Damaged("another process cannot read it")
        same(zlib.crc32(json.dumps(leaves, sort_keys=True).encode()), str(self.folder / str(step)))
        return jax.tree.map(
            lambda x, form: jax.make_array_from_callback(x.shape, form.sharding, lambda i: x[i]), state, template
        )

    def _read_seal(self, step):
        with _damage("its seal cannot be read"):
            seal = self._manager.restore(step, args=ocp.args.Composite(seal=ocp.args.JsonRestore()))["seal"]
            digest = seal.pop("digest")
            if digest != _json_digest(seal):
                raise ValueError("it does not match its own digest")
        return seal

    def _read_scores(self, steps):
        for step in steps:
            if step not in self._scores:
                try:
                    self._scores |= _score(step, self._read_seal(step), self._best)
                except _Damaged as damage:
                    logging.warning("%s cannot be the best: %s", self.folder / str(step), damage)

    def _best_of(self, steps):
        scored = [step for step in steps if step in self._scores]
        return max(scored, key=lambda step: (self._scores[step], step), default=None)

    def _prepare_to_save(self):
        """Before the first save after opening or after a fall back: a clean folder, and every step's score."""
        if self._ready_to_save:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(leftover)
        for step in self._damaged:
            aside = self.folder / f"{step}.corrupt"
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / str(step)).rename(aside)
        self._damaged.clear()
        self._manager.reload()
        self._read_scores(self.steps())
        self._ready_to_save = True

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Raises in every process what the body raises in one."""
        failure = None
        try:
            with self._naming_what_failed():
                yield
        except UserError as error:
            failure = error
        agree(failure)

    @contextlib.contextmanager
    def _naming_what_failed(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:  # tensorstore raises a full disk as a ValueError
            self._ready_to_save = False
            raise UserError(
                f"{self.folder}: a checkpoint cannot be saved ({_reason(error)}): "
                f"make room there or choose another --workdir"
            ) from error


def _on_host(state):
    """Copies of a state's arrays in NumPy, whole, however they are placed; None in a process that writes none."""

    def whole(x):
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            return multihost_utils.process_allgather(x, tiled=True)
        return np.array(x) if jax.process_index() == 0 else None

    return jax.tree.map(whole, state)


def _seal(state):
    return _digested({"leaves": _leaves(state), "metrics": {}})


def _digested(seal):
    return seal | {"digest": _json_digest(seal)}


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


def _json_digest(tree) -> int:
    return zlib.crc32(json.dumps(tree, sort_keys=True).encode())


def _score(step, seal, best) -> dict[int, float]:
    value = seal["metrics"].get(best, math.nan)
    return {step: value} if math.isfinite(value) else {}


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
        raise _Damaged(f"{what}: {_reason(error)}") from error


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


def _reason(error: BaseException) -> str:
    """One line. Orbax wraps what tensorstore says in a page on how it asked; tensorstore begins with its own layers,
    ends with the reason, and appends annotations like [os_error_code='28']."""
    while error.__cause__:
        error = error.__cause__
    line = re.sub(r" \[\w+=.*", "", (str(error).strip() or type(error).__name__).splitlines()[0])
    return line if len(line) <= 160 else "..." + line[-160:]
