"""The contract between a loss and the engines that run it (`frtrain.classifier`)."""

from __future__ import annotations

from typing import ClassVar, Generic, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from frtrain.registry import Registry

Geometry = Literal["cosine", "inner_product", "euclidean"]
Reduction = Literal["cross_entropy", "sum"]

RowT = TypeVar("RowT", bound=tuple[Tensor, ...])
"""What a head knows about each sample before it sees the wrong classes: a `NamedTuple` of `[B]` tensors."""

NoRow = tuple[()]
"""The row of a head that needs nothing per sample."""


class Head(nn.Module, Generic[RowT]):
    """A loss, as elementwise functions of the similarity between an embedding and the class centres.

    Every engine (dense, chunked, sharded, sampled) calls, once per step,

        row    = head.row(target_similarity [B], norm [B], labels [B])
        target = head.target(target_similarity [B], row)              -> [B]
        others = head.others(similarity [B, c], row)                  -> [B, c], for any block of c classes

    and combines `scale * target` with `scale * others` by the head's reduction. What an engine may rely on:

    - `target` and `others` are elementwise, differentiable, and finite with finite gradients on the whole range of the
      similarity (rounding errors beyond cosine = +-1 included). They return new tensors or their argument, never write.
    - A head never assumes that it sees all classes. `others` also sees the target column; the engine masks it.
    - Tensors of a row may carry gradient to the similarity and the norm they were made from.
    - Samples with label -1 have no identity: similarity 0, and left out of every average.

    Attributes:
        geometry: what "similarity" is. `cosine`: of embedding and centre. `inner_product`: with the centre as it is,
            plus a bias per class if `bias`. `euclidean`: minus the squared distance. Larger is always more alike.
        reduction: `cross_entropy`: -log softmax of the target among all classes. `sum`: target plus the sum of others.
        dense_only: the loss cannot be written as above; sharded and sampled engines refuse it.
        centres_per_class: sub-centres; the similarity to a class is that to its nearest one.
        bias: whether the engine learns one bias per centre (inner product only).
    """

    geometry: ClassVar[Geometry]
    reduction: ClassVar[Reduction] = "cross_entropy"
    dense_only: ClassVar[bool] = False
    centres_per_class: int = 1
    bias: bool = False

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self._scale = scale
        self._proposed: dict[str, Tensor] = {}

    @property
    def scale(self) -> float | Tensor:
        """Factor s on `target` and `others`; a scalar tensor where it is learned or adapted."""
        return self._scale

    def row(self, similarity: Tensor, norm: Tensor, labels: Tensor) -> RowT:
        """Facts of each sample: margins, thresholds. Heads with state `propose` its next value here.

        Args:
            similarity: `[B]`, to the own class, of the whole (global) batch.
            norm: `[B]`, length of the embedding before any normalisation.
            labels: `int64 [B]`, -1 for no identity.
        """
        return cast(RowT, ())

    def target(self, similarity: Tensor, row: RowT) -> Tensor:
        """What becomes of the similarity to the own class, `[B] -> [B]`."""
        raise NotImplementedError

    def others(self, similarity: Tensor, row: RowT) -> Tensor:
        """What becomes of the similarities to wrong classes, `[B, c] -> [B, c]`. By default nothing."""
        return similarity

    def penalty(self, norm: Tensor) -> Tensor | None:
        """A further term per sample, `[B] -> [B]`, averaged like the loss and added to it; not scaled."""
        return None

    def diagnostics(self, similarity: Tensor, row: RowT) -> dict[str, Tensor]:
        """Numbers worth a curve, from detached similarities `[B, c]` to a block of classes.

        Returns:
            name -> tensor, of shape `[]`, or `[B]` to be averaged over samples, or `[B, c]` (numbers or booleans) to be
            averaged over samples and wrong classes by the engine.
        """
        return {}

    def propose(self, **state: Tensor) -> None:
        """Remember the next value of buffers, by name. `advance` makes them current; until then nothing has happened.

        Proposals replace each other, so a skipped step leaves no trace. In evaluation mode nothing is remembered.
        """
        if self.training:
            self._proposed = {name: value.detach() for name, value in state.items()}

    @torch.no_grad()
    def advance(self) -> None:
        """Make the proposed state current. Called after an optimizer step that was taken, never after a skipped one."""
        for name, value in self._proposed.items():
            self.get_buffer(name).copy_(value)
        self._proposed = {}


LOSSES: Registry[Head[tuple[Tensor, ...]]] = Registry("loss")
