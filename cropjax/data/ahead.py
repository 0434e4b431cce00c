"""Work on the next items while the consumer is at one."""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def ahead(work: Callable[[Any], Any], items: Iterable, depth: int = 2) -> Iterator:
    """work(item) for each item in order, `depth` of them in threads while the consumer is at one before."""
    pool = concurrent.futures.ThreadPoolExecutor(depth, thread_name_prefix="ahead")
    pending: collections.deque[concurrent.futures.Future] = collections.deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def usable_cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # not on a Mac
