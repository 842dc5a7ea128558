"""The processes that train together, and the few things they say to each other.

One process alone is the ordinary case: everything here is then the identity. Several are started by torchrun.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from frtrain.communication import COMMUNICATION


@dataclass(frozen=True)
class Processes:
    """A group of processes that hold one batch together, each its own rows.

    Attributes:
        rank: number of this process, from 0.
        count: how many there are.
        counts: rows of every process, where they are always the same, so that they need not be exchanged.
        averaged: whether gradients of what runs before the gather (the backbone) will be averaged over the processes, as
            DistributedDataParallel does. They must be summed, so `gather` then makes them `count` times larger.
    """

    rank: int = 0
    count: int = 1
    counts: tuple[int, ...] | None = None
    averaged: bool = False

    @classmethod
    def current(cls, counts: tuple[int, ...] | None = None, averaged: bool = False) -> Processes:
        """The processes of `torch.distributed`, or this one alone where it is not initialised."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), counts, averaged)

    def rows(self, count: int, device: torch.device) -> list[int]:
        """How many rows each process has; `count` are this one's. Waits for the device where `counts` are not known."""
        if self.count == 1:
            return [count]
        if self.counts is not None:
            return list(self.counts)
        counts = torch.zeros(self.count, dtype=torch.int64, device=device)
        counts[self.rank] = count
        with COMMUNICATION.measured(device):
            dist.all_reduce(counts)
        return [int(number) for number in counts.tolist()]

    def gather(self, tensor: Tensor, rows: list[int]) -> Tensor:
        """The rows `[b, ...]` of all processes in the order of their ranks, `[B, ...]`; differentiable.

        What follows must be computed by every process alike: backward takes this process's rows of a gradient that is
        the same everywhere, without talking to the others.
        """
        if self.count == 1:
            return tensor
        gathered: Tensor = _Gather.apply(tensor, self, rows)
        return gathered

    def stack(self, tensor: Tensor) -> Tensor:
        """The same-shaped tensors of all processes, `[count, ...]`, without gradient."""
        stacked = torch.empty((self.count, *tensor.shape), dtype=tensor.dtype, device=tensor.device)
        with COMMUNICATION.measured(tensor.device):
            dist.all_gather(list(stacked.unbind()), tensor.contiguous())
        return stacked

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the processes, without gradient."""
        if self.count > 1:
            tensor = tensor.contiguous().clone()
            with COMMUNICATION.measured(tensor.device):
                dist.all_reduce(tensor)
        return tensor

    def maximum(self, tensor: Tensor) -> Tensor:
        """Elementwise maximum over the processes, without gradient."""
        if self.count > 1:
            tensor = tensor.contiguous().clone()
            with COMMUNICATION.measured(tensor.device):
                dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor

    def logsumexp(self, tensor: Tensor) -> Tensor:
        """Elementwise logsumexp over the processes, without gradient."""
        return self.stack(tensor).logsumexp(dim=0) if self.count > 1 else tensor

    def shared(self, tensor: Tensor) -> Tensor:
        """A tensor that is the same everywhere, on its way to what each process computes of its own share.

        Identity; backward sums the gradients of all shares.
        """
        if self.count == 1:
            return tensor
        handed: Tensor = _Shared.apply(tensor, self)
        return handed

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of all shares, the same everywhere. Backward hands the common gradient to each share."""
        if self.count == 1:
            return tensor
        summed: Tensor = _Total.apply(tensor, self)
        return summed

    def total_logsumexp(self, tensor: Tensor) -> Tensor:
        """The logsumexp of all shares, the same everywhere; backward weighs the common gradient by each share."""
        if self.count == 1:
            return tensor
        joined: Tensor = _TotalLogsumexp.apply(tensor, self)
        return joined


ALONE = Processes()


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: Processes, rows: list[int]) -> Tensor:
        ctx.first = sum(rows[: processes.rank])
        ctx.count = rows[processes.rank]
        ctx.factor = processes.count if processes.averaged else 1
        most = max(rows)
        padded = tensor.new_zeros((most, *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        parts = processes.stack(padded)
        return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        own = gradient[ctx.first : ctx.first + ctx.count]
        return own * ctx.factor, None, None


class _Shared(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.processes.sum(gradient), None


class _Total(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: Processes) -> Tensor:
        return processes.sum(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _TotalLogsumexp(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: Processes) -> Tensor:
        joined = processes.logsumexp(tensor)
        ctx.save_for_backward(tensor, joined)
        return joined

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        share, joined = ctx.saved_tensors
        # Where no process has a wrong class, both are -inf, and there is nothing to weigh.
        weight = (share - joined.clamp(min=torch.finfo(joined.dtype).min)).exp()
        return gradient * weight, None
