"""Work on all cores, in threads: nearly all of a merge runs without the GIL."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

_MAX_THREADS = 16


def n_threads() -> int:
    """Threads that a merge is computed by: one for each core that this process may use."""
    return min(len(os.sched_getaffinity(0)), _MAX_THREADS)


def in_order(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`map(work, items)`, computed by several threads that are at most one item ahead each.

    Operations of PyTorch use a single core in these threads.
    """
    n, torch_threads = n_threads(), torch.get_num_threads()
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(n, "merge", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > n:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
            torch.set_num_threads(torch_threads)
