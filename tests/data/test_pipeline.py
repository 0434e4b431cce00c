"""Batches: the same ones whatever reads them, from any step on, and each record once an epoch."""

import functools
import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropjax.data import pipeline, transforms
from cropjax.data.labels import IGNORE
from cropjax.errors import UserError


class Numbered:
    """Record i is an image and a label full of i; `shapes` repeat over the records."""

    def __init__(self, count: int, shapes=((6, 8),), broken: int | None = None):
        self.count, self.shapes, self.broken = count, shapes, broken

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == self.broken:
            raise UserError("train/broken.png: truncated or damaged; copy or download it again")
        h, w = self.shapes[index % len(self.shapes)]
        image = np.full((h, w, 3), index, np.uint8)
        return {"image": image, "label": image[..., 0].copy(), "name": f"r{index}"}


def tag(record, rng):
    """No augmentation, but a trace of the record and of its generator."""
    return {"record": record["label"][0, 0], "draw": rng.integers(2**40)}


augment = functools.partial(
    transforms.augment,
    scale=(16, 12),
    ratio_range=(0.5, 2.0),
    crop_size=(9, 11),
    cat_max_ratio=0.75,
    flip=0.5,
    photometric="host",
)


def take(count: int, source, augment_, **kwargs) -> list[dict]:
    batches = pipeline.train_batches(source, augment_, **kwargs)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def assert_same(actual: list[dict], expected: list[dict]):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_a_batch_keeps_the_contract():
    (batch,) = take(1, Numbered(5), augment, seed=0, batch_size=4)
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
        "image": ((4, 9, 11, 3), np.uint8),
        "label": ((4, 9, 11), np.uint8),
        "size": ((4, 2), np.int32),
    }


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 12), batch_size=st.integers(1, 7), seed=st.integers(0, 2**40))
def test_each_epoch_has_each_record_once(count, batch_size, seed):
    """Also where a batch spans epochs, or is larger than the data set."""
    batches = take(-(-3 * count // batch_size), Numbered(count), tag, seed=seed, batch_size=batch_size, threads=0)
    assert all(batch["record"].shape == (batch_size,) for batch in batches)
    records = np.concatenate([batch["record"] for batch in batches])[: 3 * count].reshape(3, count)
    np.testing.assert_array_equal(np.sort(records), np.tile(np.arange(count), (3, 1)))


def test_epochs_and_seeds_differ_in_order_and_augmentation():
    first, second = (take(2, Numbered(50), tag, seed=seed, batch_size=50) for seed in (0, 1))
    orders = [tuple(batch["record"].tolist()) for batch in first + second]
    assert len(set(orders)) == 4  # seed 0's second epoch is not seed 1's first either
    draws = np.concatenate([batch["draw"] for batch in first + second])
    assert len(np.unique(draws)) == 200


@settings(max_examples=15, deadline=None)
@given(start=st.integers(0, 9), seed=st.integers(0, 99))
def test_starting_at_a_step_continues_the_sequence(start, seed):
    kwargs = {"seed": seed, "batch_size": 3, "threads": 1}
    whole = take(11, Numbered(7), augment, **kwargs)
    assert_same(take(11 - start, Numbered(7), augment, **kwargs, start_step=start), whole[start:])


@pytest.mark.parametrize("process_count", [2, 4, 8])
def test_the_processes_parts_in_order_are_the_global_batch(process_count):
    kwargs = {"seed": 3, "batch_size": 8, "start_step": 2}
    whole = take(4, Numbered(5), augment, **kwargs)
    parts = [
        take(4, Numbered(5), augment, **kwargs, process_index=i, process_count=process_count)
        for i in range(process_count)
    ]
    joined = [{key: np.concatenate([p[key] for p in step]) for key in step[0]} for step in zip(*parts, strict=True)]
    assert_same(joined, whole)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_threads_change_nothing(threads):
    kwargs = {"seed": 3, "batch_size": 4}
    assert_same(take(6, Numbered(5), augment, **kwargs, threads=threads), take(6, Numbered(5), augment, **kwargs))


@pytest.mark.slow
def test_worker_processes_change_nothing_and_pass_errors_on():
    kwargs = {"seed": 3, "batch_size": 4, "start_step": 1}
    whole = take(6, Numbered(5), augment, **kwargs)
    assert_same(take(6, Numbered(5), augment, **kwargs, workers=2, threads=1), whole)
    with pytest.raises(UserError, match=r"^train/broken.png: truncated or damaged; copy or download it again$"):
        take(3, Numbered(5, broken=2), augment, **kwargs, workers=2, threads=1)


def die(record, rng):
    os._exit(3)


@pytest.mark.slow
def test_a_worker_that_dies_is_one_line():
    with pytest.raises(UserError, match=r"^data.workers: a worker process died"):
        take(1, Numbered(5), die, seed=0, batch_size=4, workers=1)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_users_error_comes_out_as_it_is(threads):
    with pytest.raises(UserError, match=r"^train/broken.png: truncated or damaged; copy or download it again$"):
        take(3, Numbered(5, broken=2), augment, seed=0, batch_size=4, threads=threads)


def test_batch_size_must_divide_among_the_processes():
    with pytest.raises(UserError, match=r"train\.batch_size: 6 does not divide among 4 processes"):
        pipeline.train_batches(Numbered(5), augment, seed=0, batch_size=6, process_count=4)


def test_workers_in_a_module_that_a_worker_imports(monkeypatch):
    monkeypatch.setattr(pipeline.multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(UserError, match="__main__"):
        pipeline.train_batches(Numbered(5), augment, seed=0, batch_size=4, workers=1)


# ---- evaluation --------------------------------------------------------------------------------------------


def test_eval_batches_are_grouped_by_shape_in_order_and_filled_up():
    source = Numbered(7, shapes=((6, 8), (6, 8), (4, 4)))  # 2 and 5 are small
    batches = list(pipeline.eval_batches(source, batch_size=2))
    assert [b["names"] for b in batches] == [["r0", "r1"], ["r3", "r4"], ["r2", "r5"], ["r6"]]
    for batch in batches:
        n = len(batch["names"])
        numbers = [int(name[1:]) for name in batch["names"]]
        assert batch["image"].shape == (*batch["label"].shape, 3)
        assert batch["image"].shape[0] == 2
        assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.uint8)
        for i, number in enumerate(numbers):
            assert (batch["image"][i] == number).all()
            assert (batch["label"][i] == number).all()
        assert (batch["image"][n:] == 0).all()
        assert (batch["label"][n:] == IGNORE).all()


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 13), batch_size=st.integers(1, 5), process_count=st.integers(1, 5))
def test_processes_share_the_records(count, batch_size, process_count):
    parts = [
        list(
            pipeline.eval_batches(Numbered(count), batch_size=batch_size, process_index=i, process_count=process_count)
        )
        for i in range(process_count)
    ]
    batches = [batch for part in parts for batch in part]
    assert sorted(name for b in batches for name in b["names"]) == sorted(f"r{i}" for i in range(count))
    assert {b["image"].shape for b in batches} == {(batch_size, 6, 8, 3)}
    assert sum((b["label"] != IGNORE).sum() for b in batches) == count * 48


def test_eval_passes_a_users_error_on():
    with pytest.raises(UserError, match=r"^train/broken.png"):
        list(pipeline.eval_batches(Numbered(5, broken=3), batch_size=2))


def test_eval_reads_only_a_little_ahead():
    seen = []

    class Counting(Numbered):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    batches = pipeline.eval_batches(Counting(50), batch_size=1)
    next(batches)
    batches.close()
    assert len(seen) <= 4


# ---- records that cannot be read ------------------------------------------------------------------------------------


def test_skipping_takes_the_next_record_and_counts(caplog):
    kwargs = {"seed": 0, "batch_size": 5, "threads": 0}
    whole = take(4, Numbered(5), tag, **kwargs)
    skipping = take(4, Numbered(5, broken=2), tag, **kwargs, on_error="skip")
    for batch, expected in zip(skipping, whole, strict=True):
        np.testing.assert_array_equal(batch["skipped"], expected["record"] == 2)
        np.testing.assert_array_equal(batch["record"], np.where(expected["record"] == 2, 3, expected["record"]))
        np.testing.assert_array_equal(batch["draw"], expected["draw"])
    assert caplog.text.count("train/broken.png: truncated or damaged") == 4


def test_nothing_readable_is_an_error_all_the_same():
    source = Numbered(1, broken=0)
    with pytest.raises(UserError, match="not one record can be read"):
        take(1, source, tag, seed=0, batch_size=1, on_error="skip")
