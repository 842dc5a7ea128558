"""Real gloo processes for tests: what a function finds on each rank of a group."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing


def of_each_rank(
    work: Callable[..., Any], count: int, folder: Path, *arguments: Any, timeout_seconds: float = 60
) -> list[Any]:
    """Call `work(rank, *arguments)` in `count` processes that form a group; returns what each has found, by rank.

    Args:
        work: a function of a module, so that the processes have it.
        count: of processes.
        folder: through which they meet and answer; may serve groups of several sizes.
        arguments: anything that can be pickled.
        timeout_seconds: that one waits for another.
    """
    group = (work, count, str(folder), timeout_seconds, arguments)
    multiprocessing.start_processes(_take_part, group, nprocs=count, start_method="forkserver")
    return [torch.load(_answer(folder, rank, count), weights_only=False) for rank in range(count)]


def _take_part(
    rank: int, work: Callable[..., Any], count: int, folder: str, timeout_seconds: float, arguments: tuple[Any, ...]
) -> None:
    store = dist.FileStore(f"{folder}/store{count}", count)
    dist.init_process_group(
        "gloo", rank=rank, world_size=count, store=store, timeout=timedelta(seconds=timeout_seconds)
    )
    torch.save(work(rank, *arguments), _answer(Path(folder), rank, count))
    dist.barrier()  # none leaves while another still talks
    dist.destroy_process_group()


def _answer(folder: Path, rank: int, count: int) -> Path:
    return folder / f"rank-{rank}-of-{count}.pt"
