"""Several processes that train as one: how they meet, fail and stop together.

They are started by torchrun, which ends all of them as soon as one fails. Process 0 speaks and writes for all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from signal import Signals
from typing import TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore  # as torch.distributed has it, but with types
from torch.distributed.rendezvous import rendezvous

from frtrain.errors import EndedElsewhereError, FrtrainError
from frtrain.processes import Processes
from frtrain.signals import StopRequest
from frtrain.training.hardware import this_machine

LONGEST_WAIT = timedelta(hours=2)
"""How long the others wait for process 0 to prepare data, verify, write a checkpoint or a report."""

Plain = TypeVar("Plain")


@contextmanager
def process_group() -> Iterator[None]:
    """Within this context the processes of a torchrun can talk to each other; without torchrun nothing happens.

    CPU tensors travel by gloo and those of a GPU by NCCL, so short messages need not wait for the device.

    Raises:
        FrtrainError: the environment asks for several processes, but they cannot meet.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    on_gpus = bool(this_machine().gpus) and dist.is_nccl_available()
    try:
        store, rank, count = next(rendezvous("env://", timeout=LONGEST_WAIT))
        # torchrun keeps one store for all its attempts, where the addresses of dead processes would still be.
        store = PrefixStore(f"frtrain/attempt/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=LONGEST_WAIT)
    except (ValueError, RuntimeError) as error:
        raise FrtrainError(
            f"the {os.environ['WORLD_SIZE']} processes of this run (WORLD_SIZE) cannot meet: {str(error).splitlines()[0]}. "
            "Start them with torchrun --nproc-per-node=N -m frtrain ..."
        ) from error
    done = False
    try:
        yield
        done = True
    except SystemExit as end:
        done = not end.code
        raise
    finally:
        if done:  # after an error the others may be in the midst of something, and are ended by torchrun
            dist.destroy_process_group()


@contextmanager
def lost_processes_told() -> Iterator[None]:
    """Within this context the loss of another process is an `EndedElsewhereError`.

    Raises:
        EndedElsewhereError: another process has gone while this one waited for it.
    """
    try:
        yield
    except RuntimeError as error:
        about_others = isinstance(error, dist.DistError) or "gloo" in str(error).lower() or "NCCL" in str(error)
        if dist.is_initialized() and about_others:
            raise EndedElsewhereError(f"another process of the run was lost: {str(error).splitlines()[0]}") from error
        raise


@contextmanager
def all_or_none(processes: Processes) -> Iterator[None]:
    """What is done within this context succeeds on every process or ends them all; all leave it at the same time.

    Work that only process 0 has is done in it, so that the others wait, and learn of a failure. Nothing in it may talk
    to the other processes.

    Raises:
        EndedElsewhereError: it failed, but not here.
    """
    if processes.count == 1:
        yield
        return
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    with lost_processes_told():
        failed = int(processes.sum(torch.tensor(int(failure is not None))))
    if failure is not None:
        if isinstance(failure, FrtrainError):
            failure.everywhere = failed == processes.count
        raise failure
    if failed:
        raise EndedElsewhereError("another process of the run failed")


def shared(processes: Processes, value: Plain) -> Plain:
    """Process 0's `value`, plain data that JSON can hold, on every process."""
    if processes.count == 1:
        return value
    text = torch.frombuffer(bytearray(json.dumps(value).encode("ascii")), dtype=torch.uint8)
    length = torch.tensor(len(text))
    dist.broadcast(length, src=0)
    if processes.rank > 0:
        text = torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(text, src=0)
    received: Plain = json.loads(bytes(text.tolist()))
    return received


def stop_together(stop: StopRequest, processes: Processes) -> bool:
    """Whether any process was asked to stop; all get the same answer after the same step, and the signal with it."""
    if processes.count == 1:
        return stop.requested
    number = int(processes.maximum(torch.tensor(int(stop.signal or 0))))
    if number:  # else leave it alone: a signal may have come since it was read
        stop.signal = Signals(number)
    return number > 0
