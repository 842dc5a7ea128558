"""Processes that are not there: they say nothing to each other, but what they would say is counted."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from frtrain.processes import Processes


@dataclass
class Traffic:
    """Bytes that a GPU sends in a step, by what they are, as the ring algorithms move them.

    An all-gather of `s` bytes from each of n processes sends (n - 1) s from each; a reduce-scatter the same; an all-reduce of `s`
    bytes is both over s / n: 2 (n - 1) / n s. (Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms".)
    """

    count: int
    sent: dict[str, int] = field(default_factory=dict)

    def all_gather(self, what: str, own_bytes: int) -> None:
        """Each process hands its part to all others."""
        self._add(what, (self.count - 1) * own_bytes)

    def all_reduce(self, what: str, nbytes: int) -> None:
        """A sum that all processes get."""
        self._add(what, 2 * (self.count - 1) * nbytes // self.count)

    def _add(self, what: str, nbytes: int) -> None:
        self.sent[what] = self.sent.get(what, 0) + nbytes


@dataclass(frozen=True)
class ImaginedProcesses(Processes):
    """The first of `count` processes, alone. What others would send is memory of unknown content.

    Attributes:
        traffic: where messages are counted.
        purpose: what all of them are for; None: they are of a classifier, and told apart.
    """

    traffic: Traffic = field(default_factory=lambda: Traffic(1))
    purpose: str | None = None

    @classmethod
    def of(cls, rows: tuple[int, ...], purpose: str | None = None) -> ImaginedProcesses:
        """As many processes as there are numbers of rows."""
        return cls(0, len(rows), rows, averaged=True, traffic=Traffic(len(rows)), purpose=purpose)

    def stack(self, tensor: Tensor) -> Tensor:
        """`[count, ...]`."""
        self.traffic.all_gather(self._name(tensor, "embeddings"), tensor.nbytes)
        return torch.empty((self.count, *tensor.shape), dtype=tensor.dtype, device=tensor.device)

    def sum(self, tensor: Tensor) -> Tensor:
        """A tensor of the same shape."""
        if self.count == 1:
            return tensor
        self.traffic.all_reduce(self._name(tensor, "gradient of the embeddings"), tensor.nbytes)
        return tensor.contiguous().clone()

    def maximum(self, tensor: Tensor) -> Tensor:
        """A tensor of the same shape."""
        return self.sum(tensor)

    def _name(self, tensor: Tensor, of_a_batch: str) -> str:
        return self.purpose or (of_a_batch if tensor.dim() == 2 else "row statistics")
