"""What every class-weight engine is and returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from frtrain.losses.base import Head
from frtrain.registry import Registry


@dataclass(frozen=True)
class Facts:
    """What a step tells its observers. Detached tensors on the device of the step; nothing here waits for it.

    Attributes:
        target_similarity: `[B]`, to the own class, before any margin; 0 for label -1.
        accuracy: scalar, share of samples whose similarity before any margin is largest for the own class. Of equal
            ones the first class wins, so that a collapsed embedding is not taken for a perfect one.
        embedding_norm: `[B]`, length before normalisation.
        diagnostics: scalars of the head, averaged over the batch.
    """

    target_similarity: Tensor
    accuracy: Tensor
    embedding_norm: Tensor
    diagnostics: dict[str, Tensor]


class Classifier(nn.Module):
    """Owns the class centres and evaluates one head over all classes; it knows no loss by name.

    Attributes:
        head: the loss.
        classes: number of identities C.
    """

    def __init__(self, head: Head[Any], classes: int):
        super().__init__()
        if classes < 2:
            raise ValueError(f"classes={classes}: a classifier needs at least two identities")
        self.head = head
        self.classes = classes

    def forward(self, embedding: Tensor, labels: Tensor) -> tuple[Tensor, Facts]:
        """The mean loss of a batch.

        Args:
            embedding: `[B, d]`, as the backbone gives it. The loss is computed in float32 whatever autocast says, in
                float64 where it is given float64.
            labels: integers `[B]` in `[0, classes)`, or -1 for a face of no known identity, left out of all averages.

        Returns:
            The scalar loss, and the facts of the step.
        """
        raise NotImplementedError

    def advance(self) -> None:
        """Commit the head's state; to be called after an optimizer step that was taken, not after a skipped one."""
        self.head.advance()


CLASSIFIERS: Registry[Classifier] = Registry("classifier")


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any tensor is, otherwise float32: similarities and logits lose too much in half precision."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def mean_over(values: Tensor, known: Tensor) -> Tensor:
    """Mean of `[B]` over the samples where `known` (`bool [B]`); 0 with zero gradient where there is none."""
    return torch.where(known, values, 0).sum() / known.sum().clamp(min=1)
