"""What is done with each similarity of a block of classes, forward and backward: the part of a step that is elementwise.

Nothing here but one block is known, so that a compiler can make one loop over the block of each function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from frtrain.classifier.base import Channel, channels_of
from frtrain.classifier.compilation import compiled
from frtrain.classifier.similarity import nearest_sub_centre
from frtrain.losses.base import Head


@dataclass(frozen=True)
class BlockOfClasses:
    """One block.

    Attributes:
        rows: of the centres.
        centres: `[c * K, d]`.
        inverse: `[c * K]`, 1 / length of the centres, for cosines.
        similarity: `[B, c * K]`, to each centre; must not be written to.
        weight: `[c]` or None.
        inside: `bool [B, 1]`, whether the own class is in the block.
        column: `int64 [B, 1]`, where; 0 if it is not.
    """

    rows: slice | Tensor
    centres: Tensor
    inverse: Tensor | None
    similarity: Tensor
    weight: Tensor | None
    inside: Tensor
    column: Tensor

    def overwrite_own(self, values: Tensor, neutral: float) -> Tensor:
        """Write `neutral` over the own class in `values` `[B, c]`, in place unless it is compiled."""
        if torch.compiler.is_compiling():
            own = self.inside & (torch.arange(values.shape[1], device=values.device) == self.column)
            return torch.where(own, neutral, values)
        kept = values.gather(1, self.column)
        return values.scatter_(1, self.column, torch.where(self.inside, neutral, kept))

    def without_own(self, values: Tensor, neutral: float, dtype: torch.dtype) -> Tensor:
        """A copy of `values` with `neutral` in place of the own class."""
        return self.overwrite_own(values.to(dtype, copy=True), neutral)


def reduce_block(
    head: Head[Any], part: BlockOfClasses, row: Any, merged: Sequence[Tensor], nearest: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Take a block into the channels of the head and the nearest wrong class so far, `[B]` each."""
    similarity = nearest_sub_centre(part.similarity, head.centres_per_class)
    joined = []
    for channel, before in zip(channels_of(head), merged, strict=True):
        values = _values(channel, similarity, row)
        if channel.reduction.weighted and part.weight is not None:
            values = values * part.weight
        values = part.overwrite_own(values, channel.reduction.neutral)
        joined.append(channel.reduction.merge(before, channel.reduction.block(values)))
    found = part.without_own(similarity, -torch.inf, nearest.dtype).amax(dim=1)
    return joined, torch.maximum(nearest, found)


def pull_back(
    head: Head[Any],
    part: BlockOfClasses,
    row: Any,
    merged: Sequence[Tensor],
    gradients: Sequence[Tensor],
    tracked: Sequence[Tensor],
    by_compiler: bool,
) -> tuple[Tensor, list[Tensor | None]]:
    """From the gradients of the channels to those of a block's similarities (fresh) and of what the head used.

    Args:
        head: the loss.
        part: the block.
        row: of the head, its tensors leaves.
        merged: `[B]` for each channel, over all classes.
        gradients: of them.
        tracked: leaves that the head may have used: tensors of the row, parameters.
        by_compiler: whether `_paired` and its derivative are compiled.
    """
    leaf = part.similarity.detach().requires_grad_()
    with torch.enable_grad():
        if by_compiler:
            outputs, seeds = [compiled(_paired)(head, part, leaf, row, merged, gradients)], None
        else:
            outputs, seeds = _values_and_gradients(head, part, leaf, row, merged, gradients)
    reached = [number for number, output in enumerate(outputs) if output.requires_grad]
    if not reached:
        return torch.zeros_like(leaf), [None for _ in tracked]
    to_leaf, *to_tracked = torch.autograd.grad(
        [outputs[number] for number in reached],
        [leaf, *tracked],
        None if seeds is None else [seeds[number] for number in reached],
        allow_unused=True,
    )
    return torch.zeros_like(leaf) if to_leaf is None else to_leaf, list(to_tracked)


def _values_and_gradients(
    head: Head[Any],
    part: BlockOfClasses,
    leaf: Tensor,
    row: Any,
    merged: Sequence[Tensor],
    gradients: Sequence[Tensor],
) -> tuple[list[Tensor], list[Tensor]]:
    """The values of each channel, `[B, c]`, to be differentiated, and the gradients of the loss to them."""
    similarity = nearest_sub_centre(leaf, head.centres_per_class)
    channels = channels_of(head)
    values = [_values(channel, similarity, row) for channel in channels]
    to_values = []
    with torch.no_grad():
        for channel, value, total, gradient in zip(channels, values, merged, gradients, strict=True):
            to_value = channel.reduction.gradient(value.detach(), total).mul_(gradient[:, None])
            to_value = part.overwrite_own(to_value, 0.0)
            if channel.reduction.weighted and part.weight is not None:
                to_value = to_value * part.weight
            to_values.append(to_value)
    return values, to_values


def _paired(*arguments: Any) -> Tensor:
    """A number whose gradients are those that the values pass on: a compiler then need not write the values to memory."""
    values, to_values = _values_and_gradients(*arguments)
    return torch.stack([(value * gradient).sum() for value, gradient in zip(values, to_values, strict=True)]).sum()


def _values(channel: Channel, similarity: Tensor, row: Any) -> Tensor:
    """A channel's values, never the similarities themselves, since the own class will be overwritten."""
    values = channel.values(similarity, row)
    return values.clone() if values is similarity else values
