"""A batch before the class centres, one block of classes at a time, with gradients formed block by block.

Nothing of size [B, C] exists unless it is asked to be kept: forward reduces each block to [B] numbers, backward makes its
similarities again and pulls the gradient back through the head by autograd, block by block, into one gradient of the
centres. Similarities to the own class are computed apart, [B, d]; their gradient is added to the same tensor, so the
centres' gradient is written once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from frtrain.classifier.allocation import GradientMemory
from frtrain.classifier.base import NOTHING, Reduced, channels_of
from frtrain.classifier.block_passes import BlockOfClasses, pull_back, reduce_block
from frtrain.classifier.compilation import compiled
from frtrain.classifier.reduction import REDUCTIONS
from frtrain.classifier.selection import Selection
from frtrain.classifier.similarity import Block, Matmul, nearest_sub_centre, similarity_to_own
from frtrain.losses.base import Head, Samples
from frtrain.processes import Processes


@dataclass
class Step:
    """What the passes of one step share.

    Attributes:
        head: the loss.
        selection: the classes that take part.
        column: `int64 [B]`, position of the own class in the selection; -1 where it is not here.
        local_labels: `int64 [B]`, number of the own class in the shard; -1 where it is not here.
        size: classes of a block.
        keep: how many similarities may be kept between forward and backward.
        matmul: precision of the matrix products.
        processes: the shards; one for an engine that is not sharded.
        memory: for the centres' gradient.
        compiled: whether a compiler makes one loop of what is done with each similarity.
        inverses: 1 / length of the centres (cosines only) by first position of their block.
        kept: similarities to centres, likewise.
        to_centres: the centres' gradient between the two backward passes.
        to_bias: the same for the bias.
    """

    head: Head[Any]
    selection: Selection
    column: Tensor
    local_labels: Tensor
    size: int
    keep: int
    matmul: Matmul
    processes: Processes
    memory: GradientMemory
    compiled: bool = False
    inverses: dict[int, Tensor | None] = field(default_factory=dict)
    kept: dict[int, Tensor] = field(default_factory=dict)
    to_centres: Tensor | None = None
    to_bias: Tensor | None = None

    def blocks(self, block: Block, centres: Tensor, bias: Tensor | None) -> Iterator[BlockOfClasses]:
        """All blocks, each with its similarities: the kept ones, or made now and kept while there is room."""
        per_class = self.head.centres_per_class
        for first, last in self.selection.blocks(self.size):
            rows = self.selection.rows(first, last, per_class)
            dtype = block.dtype
            part = centres[rows].to(dtype)
            if first not in self.inverses:
                self.inverses[first] = block.inverse(part)
            inverse = self.inverses[first]
            similarity = self.kept.get(first)
            if similarity is None:
                similarity = block.forward(part, inverse, None if bias is None else bias[rows].to(dtype))
                if similarity.numel() <= self.keep:
                    self.keep -= similarity.numel()
                    self.kept[first] = similarity
            weight = None if self.selection.weight is None else self.selection.weight[first:last].to(dtype)
            inside = (self.column >= first) & (self.column < last)
            column = torch.where(inside, self.column - first, 0)
            yield BlockOfClasses(rows, part, inverse, similarity, weight, inside[:, None], column[:, None])


class Blockwise:
    """See `frtrain.classifier.base.Comparison`.

    Args:
        step: what to compute over.
        prepared: `[B, d]`, of the whole batch.
        centres: `[c * K, d]`, of this process.
        bias: `[c * K]` or None.
    """

    def __init__(self, step: Step, prepared: Tensor, centres: Tensor, bias: Tensor | None):
        self._step = step
        self._prepared = step.processes.shared(prepared)
        self._centres = centres
        self._bias = bias
        self.own = step.processes.total(_OwnSimilarity.apply(step, self._prepared, centres, bias))

    @torch.no_grad()
    def survey(self, head: Head[Any], samples: Samples) -> dict[str, Tensor]:
        """The head's survey over all wrong classes, `[B]` each."""
        step, dtype = self._step, self._prepared.dtype
        found = {name: torch.full_like(samples.norm, NOTHING[kind], dtype=dtype) for name, kind in head.surveys.items()}
        block = Block(head.geometry, self._prepared.detach(), step.matmul)
        for part in step.blocks(block, self._centres, self._bias):
            similarity = nearest_sub_centre(part.similarity, head.centres_per_class)
            for name, values in head.survey(similarity, samples).items():
                kind = head.surveys[name]
                values = part.without_own(values, NOTHING[kind], dtype)
                if kind == "max":
                    found[name] = torch.maximum(found[name], values.amax(dim=1))
                elif kind == "sum":
                    values = values if part.weight is None else values * part.weight
                    found[name] = found[name] + values.sum(dim=1)
                else:
                    values = values if part.weight is None else values + part.weight.log()
                    found[name] = torch.logaddexp(found[name], values.logsumexp(dim=1))
        join = {"sum": step.processes.sum, "max": step.processes.maximum, "logsumexp": step.processes.logsumexp}
        return {name: join[kind](found[name]) for name, kind in head.surveys.items()}

    def reduce(self, head: Head[Any], row: Any, watch: bool) -> Reduced:
        """The head's channels over all wrong classes."""
        processes = self._step.processes
        outcome = _Outcome()
        parameters = [parameter for parameter in head.parameters() if parameter.requires_grad]
        shares = _OtherClasses.apply(
            self._step, outcome, type(row), len(row), watch,
            self.own, self._prepared, self._centres, self._bias, *row, *parameters,
        )  # fmt: skip
        channels = [
            processes.total(share) if channel.reduction is REDUCTIONS["sum"] else processes.total_logsumexp(share)
            for channel, share in zip(channels_of(head), shares, strict=True)
        ]
        if processes.count > 1:
            outcome.nearest = processes.maximum(outcome.nearest)
            outcome.diagnostics = {name: processes.sum(values) for name, values in outcome.diagnostics.items()}
        return Reduced(channels, outcome.nearest, outcome.diagnostics)


class _Outcome:
    """What `_OtherClasses` finds besides its differentiable results."""

    nearest: Tensor
    diagnostics: dict[str, Tensor]


class _OwnSimilarity(Function):
    """`[B]`, similarity to the own class, 0 where it is not in this shard."""

    @staticmethod
    def forward(ctx: Any, step: Step, prepared: Tensor, centres: Tensor, bias: Tensor | None) -> Tensor:
        ctx.step = step
        ctx.save_for_backward(prepared, centres, *([] if bias is None else [bias]))
        return _own(step, prepared, centres, bias)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        step: Step = ctx.step
        prepared, centres, *rest = ctx.saved_tensors
        bias = rest[0] if rest else None
        # The pass over the other classes comes first in backward, because it depends on the own similarity.
        to_centres = torch.zeros_like(centres) if step.to_centres is None else step.to_centres
        to_bias = step.to_bias
        if bias is not None and to_bias is None:
            to_bias = torch.zeros_like(bias)
        step.to_centres = step.to_bias = None
        to_prepared = torch.zeros_like(prepared)
        if len(centres):
            with torch.enable_grad():
                leaf = prepared.detach().requires_grad_()
                own, rows, picked = _own(step, leaf, centres.detach(), bias, track=True)
                gradients = torch.autograd.grad(own, [leaf, *picked], gradient)
            to_prepared = gradients[0]
            to_centres.index_add_(0, rows, gradients[1].flatten(0, 1).to(centres.dtype))
            if to_bias is not None:
                to_bias.index_add_(0, rows, gradients[2].flatten().to(to_bias.dtype))
        return None, to_prepared, to_centres, to_bias


def _own(
    step: Step, prepared: Tensor, centres: Tensor, bias: Tensor | None, track: bool = False
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The own similarities, the rows of the centres that they used, and those rows' values as leaves."""
    per_class = step.head.centres_per_class
    here = step.local_labels >= 0
    if not len(centres):
        return prepared.new_zeros(len(prepared)), step.local_labels, []
    rows = step.local_labels.clamp(min=0)[:, None] * per_class + torch.arange(per_class, device=prepared.device)
    picked = [part[rows].to(prepared.dtype).requires_grad_(track) for part in (centres, bias) if part is not None]
    to_own = similarity_to_own(step.head.geometry, prepared, *picked)
    return torch.where(here, to_own.amax(dim=1) if per_class > 1 else to_own[:, 0], 0), rows.flatten(), picked


class _OtherClasses(Function):
    """The head's channels over the wrong classes of this shard, `[B]` each."""

    @staticmethod
    def forward(
        ctx: Any, step: Step, outcome: _Outcome, row_type: Any, row_length: int, watch: bool,
        own: Tensor, prepared: Tensor, centres: Tensor, bias: Tensor | None, *leaves: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        ctx.step, ctx.row_type, ctx.row_length = step, row_type, row_length
        head, dtype = step.head, prepared.dtype
        row = _rebuilt(row_type, leaves[:row_length])
        merged = [torch.full_like(own, channel.reduction.neutral) for channel in channels_of(head)]
        outcome.nearest = torch.full_like(own, -torch.inf)
        # Asked of no class at all first: every process must know the names, one without classes too.
        names = head.class_diagnostics(own.new_empty(len(own), 0), row) if watch else {}
        outcome.diagnostics = {name: torch.zeros_like(own) for name in names}
        reduce = compiled(reduce_block) if step.compiled else reduce_block
        for part in step.blocks(Block(head.geometry, prepared, step.matmul), centres, bias):
            merged, outcome.nearest = reduce(head, part, row, merged, outcome.nearest)
            if not watch:
                continue
            similarity = nearest_sub_centre(part.similarity, head.centres_per_class)
            for name, found in head.class_diagnostics(similarity, row).items():
                wrong = part.without_own(found, 0, dtype)
                outcome.diagnostics[name] += (wrong if part.weight is None else wrong * part.weight).sum(dim=1)
        ctx.save_for_backward(prepared, centres, *leaves, *merged, *([] if bias is None else [bias]))
        step.keep = 0  # what is made again in backward is not kept again
        return tuple(merged)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        step: Step = ctx.step
        head = step.head
        prepared, centres, *rest = ctx.saved_tensors
        count = len(rest) - len(gradients) - head.bias
        leaves, merged, bias = rest[:count], rest[count : count + len(gradients)], rest[-1] if head.bias else None
        # Tensors of the row become leaves of each block's own graph; parameters of the head are leaves already.
        wanted = ctx.needs_input_grad[9:]
        row_leaves = [leaf.detach().requires_grad_(want) for leaf, want in zip(leaves, wanted, strict=False)]
        row_leaves = row_leaves[: ctx.row_length]
        row = _rebuilt(ctx.row_type, row_leaves)
        tracked = [leaf for leaf, want in zip([*row_leaves, *leaves[ctx.row_length :]], wanted, strict=True) if want]
        to_tracked = [torch.zeros_like(leaf, dtype=prepared.dtype) for leaf in tracked]
        to_prepared = torch.zeros_like(prepared)
        whole = step.selection.index is None
        to_centres = step.memory.empty_like(centres) if whole else torch.zeros_like(centres)
        to_bias = None if bias is None else torch.zeros_like(bias)
        block = Block(head.geometry, prepared, step.matmul)
        for part in step.blocks(block, centres, bias):
            to_similarity, to_part = pull_back(head, part, row, merged, gradients, tracked, step.compiled)
            for total, gradient in zip(to_tracked, to_part, strict=True):
                if gradient is not None:
                    total += gradient
            in_place = isinstance(part.rows, slice) and centres.dtype == prepared.dtype
            target = to_centres[part.rows] if in_place else torch.empty_like(part.centres)
            if to_bias is not None:
                to_bias[part.rows] = to_similarity.sum(dim=0).to(to_bias.dtype)
            to_prepared += block.backward(to_similarity, part.similarity, part.centres, part.inverse, target)
            if not in_place:
                to_centres[part.rows] = target.to(centres.dtype)
        step.kept.clear()
        step.to_centres, step.to_bias = to_centres, to_bias
        to_tracked = _summed(step.processes, to_tracked)
        remaining = iter(to_tracked)
        to_leaves = [
            next(remaining).to(leaf.dtype) if want else None for leaf, want in zip(leaves, wanted, strict=True)
        ]
        return None, None, None, None, None, None, to_prepared, None, None, *to_leaves


def _rebuilt(row_type: Any, tensors: Any) -> Any:
    return row_type(*tensors) if hasattr(row_type, "_fields") else row_type(tensors)


def _summed(processes: Processes, tensors: list[Tensor]) -> list[Tensor]:
    """Each tensor summed over the processes, in one message."""
    if processes.count == 1 or not tensors:
        return tensors
    message = processes.sum(torch.cat([tensor.flatten() for tensor in tensors]))
    parts = message.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
