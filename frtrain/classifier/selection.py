"""Which classes of a process take part in a step, and in which blocks they are visited."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CPU_BLOCK = 2**18
"""Similarities of a block on a CPU: 1 MiB in float32, which stays in a core's cache between the steps of a formula."""

DEVICE_BLOCK = 2**24
"""On a GPU: enough to fill it, few enough that the number of kernel launches does not count."""


@dataclass(frozen=True)
class Shard:
    """The classes that a process owns: `first` to `last` (exclusive) of `total`."""

    first: int
    last: int
    total: int

    @classmethod
    def of(cls, total: int, rank: int, count: int) -> Shard:
        """The part of process `rank` of `count`: neighbouring classes, numbers that differ by one at most."""
        smaller, more = divmod(total, count)
        first = rank * smaller + min(rank, more)
        return cls(first, first + smaller + (rank < more), total)

    def __len__(self) -> int:
        return self.last - self.first

    def local(self, labels: Tensor) -> Tensor:
        """Labels counted from `first`; -1 for classes of other processes and for no identity."""
        return torch.where((labels >= self.first) & (labels < self.last), labels - self.first, -1)


@dataclass(frozen=True)
class Selection:
    """Classes of a shard that take part in a step.

    Attributes:
        count: how many.
        index: `int64 [count]`, rising numbers within the shard; None for all.
        weight: `[count]`, how many unseen classes each stands for, itself included; None for one.
    """

    count: int
    index: Tensor | None = None
    weight: Tensor | None = None

    def positions(self, local_labels: Tensor) -> Tensor:
        """Where the classes `[B]` stand in the selection; -1 stays -1. Classes that are labels are always selected."""
        if self.index is None:
            return local_labels
        found = torch.searchsorted(self.index, local_labels.clamp(min=0))
        return torch.where(local_labels >= 0, found, -1)

    def blocks(self, size: int) -> Iterator[tuple[int, int]]:
        """First and last (exclusive) position of blocks of at most `size` classes."""
        for first in range(0, self.count, size):
            yield first, min(first + size, self.count)

    def rows(self, first: int, last: int, centres_per_class: int) -> slice | Tensor:
        """The rows of the centres that belong to the classes at positions `first` to `last`."""
        if self.index is None:
            return slice(first * centres_per_class, last * centres_per_class)
        classes = self.index[first:last]
        if centres_per_class == 1:
            return classes
        within = torch.arange(centres_per_class, device=classes.device)
        return (classes[:, None] * centres_per_class + within).flatten()


def sample_classes(priority: Tensor, local_labels: Tensor, count: int) -> Selection:
    """All classes that are labels, and those of highest priority, `count` in all (Partial FC, CVPR 2022).

    Args:
        priority: `int64 [c]`, random, for each class of the shard.
        local_labels: `int64 [B]`, -1 for classes of other shards and no identity.
        count: of classes to select: at least min(B, c), so that every label fits, and more where there are more, so that
            some class is left to stand for the others.
    """
    classes = len(priority)
    is_label = torch.zeros(classes + 1, dtype=torch.bool, device=priority.device)
    is_label[local_labels] = True  # -1 marks the last, which is cut off
    is_label = is_label[:classes]
    chosen = (
        torch.where(is_label, torch.iinfo(torch.int64).max, priority).topk(count, sorted=False).indices.sort().values
    )
    labels = is_label.sum()
    negatives = (classes - labels) / (count - labels).clamp(min=1)
    weight = torch.where(is_label[chosen], 1.0, negatives)
    return Selection(count, chosen, weight)


def block_size(chunk: int | str, batch: int, centres_per_class: int, device: torch.device) -> int:
    """Classes of a block: `chunk`, or for `auto` as many as suit the device for a batch of this size."""
    if isinstance(chunk, int):
        return chunk
    similarities = CPU_BLOCK if device.type == "cpu" else DEVICE_BLOCK
    return max(16, similarities // max(1, batch * centres_per_class))
