"""The checkpoints of a run: on disk before training goes on, verified, and safe from a damaged file or a full disk.

    <folder>/<step>           a checkpoint (sealed.py): the best, and the latest two others
    <folder>/<step>.copy      the newest once more, so that damage to it costs nothing
    <folder>/<step>.corrupt   one that was damaged, set aside
    <folder>/room             noise, which holds the room of three checkpoints from a run's start until it has them

So a run keeps four times its state, and six while it writes. Where there is no room for that, it gives up all but the
newest and the best, and goes on: these two and the next one are the three that it needs.

A run that is stopped, at whatever moment, so loses the steps since its last save and no more. Where a save fails it
goes on, and the save is tried again beside it.

In a run of several processes the first one writes, the whole state; all read, and all hear of each other's errors. The
folder must be on a disk that they share.

Reading never changes the folder: `evaluate` may look at a run that is being trained. Leftovers of a killed save are
removed, and damaged checkpoints set aside, by the first save after them.
"""

import contextlib
import math
import os
import shutil
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from cropjax import sealed
from cropjax.distributed import agree, same, somewhere
from cropjax.errors import UserError
from cropjax.sealed import DamagedError

RETRY = 5.0  # seconds between two attempts to write a checkpoint
DISK_PER_BYTE = 17 / 16  # what a byte of a state that does not compress takes on disk, with Orbax's own files
LOG_BYTES = 2**20  # what a run may log while a checkpoint's room is free
FAILURES = (OSError, ValueError, RuntimeError)  # what `sealed.write` raises where it cannot write


class Checkpoints:
    """The checkpoints in `folder`: the newest twice, one or two before it, and the best.

    `best` names the metric whose largest finite value, among the saves that carry it, makes the best one; of equal
    values the later wins. All processes of a run make the same calls.
    """

    def __init__(self, folder: str | Path, *, best: str):
        self.folder = Path(folder)
        self._best = best
        self._scores: dict[int, float] = {}
        self._damaged: set[Path] = set()
        self._tidy = False
        self._held = 0  # bytes that checkpoints and room take together, at least
        self._pending: Future | None = None  # what is done beside the training
        self._hurry = threading.Event()  # somebody waits for it
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder} is not a folder: move it away or choose another --workdir")

    def steps(self) -> list[int]:
        """The committed steps, in increasing order."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())

    def _path(self, step):
        return self.folder / str(step)

    def _copy_of(self, step):
        return self.folder / f"{step}.copy"

    # ------------------------------------------------------------------------------------------------------------ save
    def save(self, step: int, state: Any) -> None:
        """Writes `state`, and returns when it is on disk: the arrays may be donated then.

        What cannot be written is tried again every `RETRY` seconds, beside the training, until somebody waits for it.
        UserError if the save before this one has failed so, or if `step` is there already.
        """
        state = _on_host(state)
        with self._everywhere():
            self._finish()
            if jax.process_index() == 0:
                self._tidy_up()
                if step in self.steps():
                    raise UserError(f"{self._path(step)} exists already: delete it or choose another --workdir")
                self._scores.pop(step, None)  # of a save of this step that failed or was set aside
                try:
                    self._write(step, state)
                except FAILURES as error:
                    again = f"trying again every {RETRY:.0f} s"
                    logging.warning("%s cannot be saved (%s): %s", self._path(step), sealed.reason(error), again)
                    self._pending = _in_background(self._write_later, step, state)
                else:
                    self._secure(step)

    def _write(self, step, state):
        while True:
            try:
                return sealed.write(self._path(step), state)
            except FAILURES as error:
                self._remove_leftovers()
                if not (sealed.no_room(error) and self._make_room(step)):
                    raise

    def _write_later(self, step, state):
        while True:
            last = self._hurry.wait(RETRY)
            try:
                self._write(step, state)
            except FAILURES:
                if last:
                    raise
            else:
                return self._secure(step)

    def _secure(self, step):
        """The newest, which has just been written, a second time; then older ones go."""
        self._copy(step)
        self._retire()
        self._hold_room()

    def _make_room(self, step):
        """Whether there was anything to give up for the checkpoint of `step`."""
        spare = self._but_the_best(self.steps()[:-1])
        spare += [path for pattern in ("*.copy", "*.corrupt", "room") for path in self.folder.glob(pattern)]
        for path in spare:
            _remove(path)
        if spare:
            names = ", ".join(path.name for path in spare)
            logging.warning("%s: no room for step %d, given up for it: %s", self.folder, step, names)
        return bool(spare)

    def _but_the_best(self, steps):
        """The paths of `steps`, without that of the best of all."""
        best = self._best_of(self.steps())
        return [self._path(step) for step in steps if step != best]

    def _copy(self, step):
        try:
            sealed.copy(self._path(step), self._copy_of(step))
        except OSError as error:
            self._remove_leftovers()
            logging.warning("%s is there once, without a copy (%s)", self._path(step), sealed.reason(error))

    def _retire(self):
        steps = self.steps()
        copies = set(self.folder.glob("*.copy")) - {self._copy_of(steps[-1])}
        for path in [*self._but_the_best(steps)[:-2], *copies]:
            _remove(path)

    def _tidy_up(self):
        """Before the first save after opening or after a fall back: a clean folder, and every step's score."""
        if self._tidy:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers()
        for path in sorted(self._damaged):
            aside = self.folder / f"{path.name.removesuffix('.copy')}.corrupt"
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
        for copy in self.folder.glob("*.copy"):
            original = copy.with_suffix("")
            if original in self._damaged:
                copy.rename(original)
            elif not original.exists():  # deleted by hand
                _remove(copy)
        self._damaged.clear()
        self._read_scores(self.steps())
        self._tidy = True

    def _remove_leftovers(self):
        for pattern in ("*.orbax-checkpoint-tmp*", "*.tmp"):
            for leftover in self.folder.glob(pattern):
                shutil.rmtree(leftover, ignore_errors=True)

    def add_metrics(self, step: int, metrics: dict[str, float], best_step: int | None = None) -> None:
        """Writes into the seal of `step`, all or nothing, what an evaluation of it has found.

        `best_step` is the first step that had the best score up to now, if that is not `step`. UserError if the save
        has failed, or if this cannot be written.
        """
        with self._everywhere():
            self._finish()
            if jax.process_index() == 0:
                self._tidy_up()
                metrics = {name: float(value) for name, value in metrics.items()}
                seal = self._seal_of(step) | {"metrics": metrics, "best_step": step if best_step is None else best_step}
                sealed.write_seal(self._path(step), seal)
                if self._copy_of(step).exists():
                    sealed.write_seal(self._copy_of(step), seal)
                self._scores |= _score(step, seal, self._best)

    def wait(self) -> None:
        """Returns when nothing is under way any more; UserError if the last save is not on disk."""
        with self._everywhere():
            self._finish()

    def close(self) -> None:
        """Waits for what this process writes. Whether it worked is for `wait` to say: this one may end a run that has
        failed for another reason, and alone. A run that leaves no checkpoint leaves no room either."""
        try:
            self._finish()
        except Exception as error:
            logging.warning("%s: the last checkpoint was not saved (%s)", self.folder, sealed.reason(error))
        if self._held and not self.steps():  # no checkpoint that another start would go on from
            self.release_room()

    def _finish(self):
        pending, self._pending = self._pending, None
        if pending:
            self._hurry.set()
            try:
                pending.result()
            finally:
                self._hurry.clear()

    # ------------------------------------------------------------------------------------------------------------ room
    def hold_room(self, template: Any) -> None:
        """Starts to hold the room of three checkpoints of a state like `template`, as far as there is that much.

        Once it is there, a disk that others fill takes no save from the run.
        """
        if jax.process_index() == 0:
            self._finish()
            size = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(template))
            self._held = 3 * (math.ceil(DISK_PER_BYTE * size) + LOG_BYTES)
            self._pending = _in_background(self._hold_at_first)

    def release_room(self) -> None:
        """When the last checkpoint is written. A folder that is empty then goes too."""
        if jax.process_index() == 0:
            self._finish()
            self._held = 0
            with contextlib.suppress(OSError):
                (self.folder / "room").unlink(missing_ok=True)
                self.folder.rmdir()

    def _hold_at_first(self):
        if not self._hold_room():
            room = f"three checkpoints, {self._held / 2**20:.0f} MiB"
            logging.warning("%s: there is no room for %s: a full disk may cost work, make some", self.folder, room)

    def _hold_room(self):
        """Whether there is as much as `_held`."""
        room = self.folder / "room"
        try:
            kept = [*map(self._path, self.steps()), *self.folder.glob("*.copy")]
            taken = sum(file.stat().st_size for path in kept for file in path.rglob("*") if file.is_file())
            lacking = self._held - taken
            if lacking <= 0:
                room.unlink(missing_ok=True)
                return True
            self.folder.mkdir(parents=True, exist_ok=True)
            with room.open("ab", buffering=0) as file:
                file.truncate(min(file.tell(), lacking))
                while (missing := lacking - file.tell()) > 0:
                    file.write(os.urandom(min(missing, 2**16)))  # a disk that compresses would not keep what repeats
        except OSError:
            return False
        return True

    # --------------------------------------------------------------------------------------------------------- restore
    def evaluated(self, step: int) -> bool:
        """Whether the checkpoint of `step` carries metrics; UserError if it is damaged."""
        return bool(self._seal_of(step)["metrics"])

    def best_so_far(self, step: int) -> tuple[float, int]:
        """The best score that the checkpoints up to `step` carry, and the first step that had it; (-inf, 0) for none.

        All processes call it.
        """
        steps = [number for number in self.steps() if number <= step]
        self._scores.clear()  # the first process may have written one anew
        self._read_scores(steps)
        best = self._best_of(steps)
        found = (-math.inf, 0) if best is None else (self._scores[best], self._seal_of(best).get("best_step", best))
        same(zlib.crc32(str(found).encode()), f"metrics in {self.folder}")
        return found

    def _seal_of(self, step):
        path, copy = self._path(step), self._copy_of(step)
        try:
            return sealed.read_seal(copy if path in self._damaged and copy.exists() else path)
        except DamagedError as damage:
            raise UserError(f"{path} is damaged ({damage})") from None

    def restore(self, template: Any, step: int | Literal["latest", "best"] = "latest") -> tuple[int, Any] | None:
        """The step and its state, or None if there is no checkpoint.

        `template` is the state's tree with a `jax.ShapeDtypeStruct` that has a sharding at every leaf; the number of
        devices may differ from that of the save. For a damaged checkpoint its copy is read, with a warning; where that
        is damaged too, or there is none, the latest is skipped for the one before it, and one asked for by number or
        as the best is an error. UserError too for a step that is not there and for a checkpoint of another network.
        """
        self.wait()
        steps = self.steps()
        copies = [number for number in steps if self._copy_of(number).exists()]
        same(zlib.crc32(str((steps, copies)).encode()), f"checkpoints in {self.folder}")
        if not steps:
            return None
        if step == "latest":
            return self._restore_latest(steps, copies, template)
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
            return step, self._restore(step, step in copies, template)
        except DamagedError as damage:
            raise UserError(f"{self._path(step)} is damaged ({damage}): choose another of {steps}") from None

    def _restore_latest(self, steps, copies, template):
        damages = []
        for step in reversed(steps):
            try:
                return step, self._restore(step, step in copies, template)
            except DamagedError as damage:
                logging.warning("%s is damaged (%s): trying the checkpoint before it", self._path(step), damage)
                damages.append(f"{step}: {damage}")
        raise UserError(
            f"{self.folder}: no good checkpoint ({'; '.join(damages)}): delete the folder or choose another --workdir"
        )

    def _restore(self, step, has_copy, template):
        try:
            return self._read(self._path(step), template)
        except DamagedError as damage:
            if not has_copy:
                raise
            logging.warning("%s is damaged (%s): trying its copy", self._path(step), damage)
            return self._read(self._copy_of(step), template)

    def _read(self, path, template):
        """The verified state at `path`; DamagedError on every process if it is on one."""
        damage = mistake = state = digest = None
        try:
            state, digest = sealed.read(path, template)
        except DamagedError as error:
            damage = error
        except UserError as error:
            mistake = error
        agree(mistake)
        if somewhere(damage is not None):
            self._damaged.add(path)
            self._tidy = False
            raise damage or DamagedError("another process cannot read it")
        same(digest, str(path))
        return jax.tree.map(
            lambda x, form: jax.make_array_from_callback(x.shape, form.sharding, lambda i: x[i]), state, template
        )

    def _read_scores(self, steps):
        for step in steps:
            if step not in self._scores:
                try:
                    self._scores |= _score(step, sealed.read_seal(self._path(step)), self._best)
                except DamagedError as damage:
                    logging.warning("%s cannot be the best: %s", self._path(step), damage)

    def _best_of(self, steps):
        scored = [step for step in steps if step in self._scores]
        return max(scored, key=lambda step: (self._scores[step], step), default=None)

    @contextlib.contextmanager
    def _everywhere(self) -> Iterator[None]:
        """Raises in every process what the body raises in one."""
        failure = None
        try:
            yield
        except UserError as error:
            failure = error
        except FAILURES as error:
            failure = UserError(
                f"{self.folder}: a checkpoint cannot be saved ({sealed.reason(error)}): "
                f"make room there or choose another --workdir"
            )
            failure.__cause__ = error
        agree(failure)


def _in_background(function, *args) -> Future:
    """Like an executor's `submit`, in a thread that does not keep a process alive which ends without waiting for it."""
    future = Future()

    def run():
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="checkpoint", daemon=True).start()
    return future


def _on_host(state):
    """Copies of a state's arrays in NumPy, whole, however they are placed; None in a process that writes none."""

    def whole(x):
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            return multihost_utils.process_allgather(x, tiled=True)
        return np.array(x) if jax.process_index() == 0 else None

    return jax.tree.map(whole, state)


def _remove(path):
    """A file or a checkpoint, at once: what is left of it if this is interrupted does not look like one."""
    if path.is_file():
        path.unlink()
        return
    leftover = path.with_name(f"{path.name}.tmp")
    path.rename(leftover)
    shutil.rmtree(leftover, ignore_errors=True)


def _score(step, seal, best) -> dict[int, float]:
    value = seal["metrics"].get(best, math.nan)
    return {step: value} if math.isfinite(value) else {}
