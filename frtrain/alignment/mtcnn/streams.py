"""Independent work on several cores: one single-threaded stream per thread that PyTorch may use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_streams(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`[work(item) for item in items]` in as many threads as PyTorch computes with here, each item in one of them.

    The many small operations of a cascade gain little from a second thread inside each, and everything from a second
    image beside it. Nothing outlives the call: processes may fork before and after.

    Raises:
        Exception: the first of `work`, in the order of the items.
    """
    threads = min(torch.get_num_threads(), len(items))
    if threads < 2:
        return [work(item) for item in items]
    budget = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(budget)  # each thread set its own number, but also the one that new threads start with
