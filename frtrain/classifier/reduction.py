"""From transformed similarities to one loss per sample, in blocks of classes that can be merged.

A block of wrong classes is reduced to `[B]` by `block`, blocks (chunks, shards) are joined by `merge`, and `loss`
brings in the target. The target column of a block is first overwritten with `neutral`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from frtrain.losses import base
from frtrain.losses.softplus import softplus


class Reduction(Protocol):
    """How `scale * target` and `scale * others` become a loss.

    Attributes:
        neutral: value that adds nothing to a block.
        weighted: whether a class that stands for several unseen ones (sampling) counts several times.
    """

    neutral: float
    weighted: bool

    def block(self, others: Tensor) -> Tensor:
        """`[B, c] -> [B]`."""
        ...

    def merge(self, left: Tensor, right: Tensor) -> Tensor:
        """Two blocks' results, `[B]` each, as one."""
        ...

    def gradient(self, others: Tensor, merged: Tensor) -> Tensor:
        """d merged / d others of one block, `[B, c]` (or what broadcasts to it), from the merged result `[B]`."""
        ...

    def loss(self, target: Tensor, others: Tensor) -> Tensor:
        """The loss of each sample, `[B]`, from its target `[B]` and the merged blocks `[B]`."""
        ...


class CrossEntropy:
    """-log( exp(target) / (exp(target) + sum exp(others)) ) = log(1 + exp(logsumexp(others) - target)).

    Sampled classes are not weighted: a softmax over a sample is what Partial FC (CVPR 2022) trains.
    """

    neutral = -torch.inf
    weighted = False

    def block(self, others: Tensor) -> Tensor:
        """logsumexp over the classes of the block."""
        return others.logsumexp(dim=1)

    def merge(self, left: Tensor, right: Tensor) -> Tensor:
        """logaddexp."""
        return torch.logaddexp(left, right)

    def gradient(self, others: Tensor, merged: Tensor) -> Tensor:
        """exp(others - logsumexp); 0 where there was no class at all."""
        return (others - merged.clamp(min=torch.finfo(merged.dtype).min)[:, None]).exp_()

    def loss(self, target: Tensor, others: Tensor) -> Tensor:
        """In this form a loss near zero keeps its digits, where the difference of two logits would not."""
        return softplus(others - target)


class Sum:
    """target + sum of others."""

    neutral = 0.0
    weighted = True

    def block(self, others: Tensor) -> Tensor:
        """Sum over the classes of the block."""
        return others.sum(dim=1)

    def merge(self, left: Tensor, right: Tensor) -> Tensor:
        """Sum."""
        return left + right

    def gradient(self, others: Tensor, merged: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(others)

    def loss(self, target: Tensor, others: Tensor) -> Tensor:
        """Sum."""
        return target + others


REDUCTIONS: dict[base.Reduction, Reduction] = {"cross_entropy": CrossEntropy(), "sum": Sum()}
