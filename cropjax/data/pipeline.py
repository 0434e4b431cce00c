"""From records to batches.

Training: shuffle (seed, epoch) -> repeat -> augment -> batch -> slice by process, a fixed infinite sequence. Its
position is one integer, the step: resuming is starting at that step, and nothing of the iterator is ever saved.
Example i and its augmentation depend on (seed, i) alone, so the sequence is the same on any number of processes,
worker processes and threads. Evaluation: each record once, in batches of equal shapes.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags, logging

from cropjax.data.ahead import ahead, usable_cores
from cropjax.data.labels import IGNORE
from cropjax.distributed import SIGNALS
from cropjax.errors import UserError
from cropjax.host_memory import reuse_image_memory

ON_ERROR = ("stop", "skip")
_WORKER_BUFFER = 2  # batches between a worker process and this one
_WORKER_DIED = "Worker process was terminated unexpectedly"  # how grain's RuntimeError begins


class Source(Protocol):
    """Records by index: {"image": uint8 [h, w, 3], "label": uint8 [h, w], "name": str}; see `sources`.

    An image or a label may be anything with a `shape` that gives an array for two slices; see `store` and `runs`.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...


def train_batches(
    source: Source,
    augment: Callable[[dict, np.random.Generator], dict],
    *,
    seed: int,
    batch_size: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    threads: int = 4,
    on_error: str = "stop",
    repeats: np.ndarray | None = None,
) -> Iterator[dict]:
    """This process's part of the global batches start_step, start_step + 1, ... without end.

    `batch_size` is the global one. Process p has the p-th of `process_count` contiguous parts, so that the parts
    one after the other are the global batch. Every epoch has each record once, or as often as `repeats` (int [records])
    says, and a batch may span two epochs.
    `workers` = 0 reads in `threads` threads of this process, or in one a core if those are fewer; otherwise each worker
    process has as many (and `source` and `augment` must be picklable). A thread is at one batch.

    Batches are what `augment` returns, stacked: {"image", "label", "size"}. A `UserError` of the source comes out
    of `next`, whichever thread or process met it. With `on_error` "skip" the next record that can be read takes the
    place of one that cannot, a line in the log says so, and "skipped", int32 [n], how many were passed over.
    """
    if batch_size % process_count:
        raise UserError(
            f"train.batch_size: {batch_size} does not divide among {process_count} processes; make it a multiple"
        )
    # Grain shuffles epoch e with seed + e: without the hash, seed 0's second epoch would be seed 1's first.
    shuffle_seed, augment_seed = np.random.SeedSequence(seed).generate_state(2).tolist()
    make = _Batches(source, augment, on_error, augment_seed)
    records = grain.MapDataset.source(np.repeat(np.arange(len(source)), 1 if repeats is None else repeats))
    # The remainder of an endless sequence is nothing, but keeping it overflows grain's length for a batch of 1.
    parts = records.shuffle(shuffle_seed).repeat().batch(batch_size // process_count, drop_remainder=True)
    reuse_image_memory()
    batches = parts.map_with_index(make)[process_index::process_count][start_step:].to_iter_dataset(
        grain.ReadOptions(num_threads=min(threads, usable_cores()), prefetch_buffer_size=_buffered(threads))
    )
    if workers:
        _check_main_is_guarded()
        if not flags.FLAGS.is_parsed():  # grain reads its own flags; outside absl's app.run nobody parses them
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=_WORKER_BUFFER)
        batches = batches.mp_prefetch(options, worker_init_fn=_start_worker)
    return _closing(iter(batches))


def made_ahead(threads: int, workers: int) -> int:
    """How many batches `train_batches` makes, at the most, before they are asked for."""
    return (_buffered(threads) + _WORKER_BUFFER) * max(workers, 1)


def _buffered(threads: int) -> int:
    return 2 * min(threads, usable_cores())


class _Batches:
    """The batch of the records of some indices; each example goes to its place while the cache still has it."""

    def __init__(self, source: Source, augment: Callable, on_error: str, seed: int):
        self._source, self._augment, self._on_error, self._seed = source, augment, on_error, seed

    def __call__(self, index: int, records: np.ndarray) -> dict:
        batch = {}
        for i, record in enumerate(records.tolist()):
            for key, value in self._example(record, index * len(records) + i).items():
                if i == 0:
                    batch[key] = np.empty((len(records), *np.shape(value)), value.dtype)
                batch[key][i] = value
        return batch

    def _example(self, record: int, position: int) -> dict:
        """That of a record at a position of the endless sequence, which has its own draws."""

        def rng() -> np.random.Generator:
            return np.random.Generator(np.random.Philox(self._seed, counter=[0, 0, 0, position]))

        if self._on_error == "stop":
            return self._augment(self._source[record], rng())
        for skipped in range(len(self._source)):
            try:
                example = self._augment(self._source[(record + skipped) % len(self._source)], rng())
            except UserError as error:
                logging.warning("data.on_error = skip: %s", error)
            else:
                return example | {"skipped": np.int32(skipped)}
        raise UserError("data.on_error = skip: not one record can be read; set it to stop to see why")


def _check_main_is_guarded() -> None:
    # A worker is importing the main module, and that module starts workers.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UserError("data.workers: a script that uses workers must start under `if __name__ == '__main__':`")


def _start_worker(worker: int, count: int) -> None:
    """Run in a worker process. One whose parent was killed would otherwise wait for it for ever.

    A scheduler that stops a run signals all its processes; the one that saves still needs its batches.
    """
    reuse_image_memory()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _closing(iterator: Any) -> Iterator[dict]:
    """The iterator's batches; its workers end with the generator, not when the garbage is collected."""
    try:
        yield from iterator
    except UserError as error:
        raise UserError(str(error)) from error  # without the note on tracebacks that grain adds
    except RuntimeError as error:
        if not str(error).startswith(_WORKER_DIED):
            raise
        raise UserError(
            "data.workers: a worker process died, out of memory or in a script that does not start under "
            "`if __name__ == '__main__':`; use fewer workers, or 0"
        ) from error
    finally:
        iterator.close()


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    on_record: Callable[[], None] = lambda: None,
) -> Iterator[dict]:
    """The records process_index, process_index + process_count, ... once each, in batches of equal shapes.

    Yields {"image": uint8 [n, h, w, 3], "label": uint8 [n, h, w], "names": list of str}, n = `batch_size` (of this
    process). A shape's last batch is filled up with zero images and all-ignored labels, which have no name and which no
    metric counts.
    `on_record` is called after each record: where shapes are many, a batch may take many to fill.
    """
    indices = range(process_index, len(source), process_count)
    waiting: dict[tuple, list[dict]] = {}
    for record in ahead(lambda index: _whole(source[index]), indices):
        on_record()
        group = waiting.setdefault(record["label"].shape, [])
        group.append(record)
        if len(group) == batch_size:
            yield _stack(group, batch_size)
            del waiting[record["label"].shape]
    for group in waiting.values():
        yield _stack(group, batch_size)


def _whole(record: dict) -> dict:
    return record | {"image": record["image"][:, :], "label": record["label"][:, :]}


def _stack(records: list[dict], batch_size: int) -> dict:
    size = records[0]["label"].shape
    image = np.zeros((batch_size, *size, 3), np.uint8)
    label = np.full((batch_size, *size), IGNORE, np.uint8)
    for i, record in enumerate(records):
        image[i], label[i] = record["image"], record["label"]
    return {"image": image, "label": label, "names": [record["name"] for record in records]}
