"""The contract between a loss and the engines that run it (`frtrain.classifier`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from frtrain.registry import Registry

Geometry = Literal["cosine", "inner_product", "euclidean"]
Reduction = Literal["cross_entropy", "sum"]
SurveyKind = Literal["sum", "max", "logsumexp"]

RowT = TypeVar("RowT", bound=tuple[Tensor, ...])
"""What a head knows about each sample before it sees the wrong classes: a `NamedTuple` of `[B]` tensors."""

NoRow = tuple[()]
"""The row of a head that needs nothing per sample."""


@dataclass(frozen=True)
class Samples:
    """What is known of the whole (global) batch before any wrong class is looked at.

    Attributes:
        similarity: `[B]`, to the own class; 0 for label -1. Carries gradient.
        norm: `[B]`, length of the embedding before any normalisation. Carries gradient.
        labels: `int64 [B]`, -1 for no identity.
        surveyed: what the head's `survey` found over all wrong classes, `[B]` each, without gradient.
    """

    similarity: Tensor
    norm: Tensor
    labels: Tensor
    surveyed: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def known(self) -> Tensor:
        """`bool [B]`: whether the sample has an identity."""
        return self.labels >= 0

    def mean(self, values: Tensor) -> Tensor:
        """Mean of `[B]` over the samples with an identity; 0 where there is none."""
        return torch.where(self.known, values, 0).sum() / self.known.sum().clamp(min=1)


class Head(nn.Module, Generic[RowT]):
    """A loss, as elementwise functions of the similarity between an embedding and the class centres.

    Every engine (dense, chunked, sharded, sampled) calls, once per step,

        row    = head.row(samples)                                    -> tuple of [B] tensors
        target = head.target(similarity to the own class [B], row)    -> [B]
        others = head.others(similarity [B, c], row)                  -> [B, c], for any block of c classes

    and combines `s * target` with `s * others`, s = `scale_of(row)`, by the head's reduction. What an engine may rely on:

    - `target` and `others` are elementwise, differentiable, and finite with finite gradients on the whole range of the
      similarity (rounding errors beyond cosine = +-1 included). They return new tensors or their argument, never write.
    - A head never assumes that it sees all classes. `others` also sees the target column; the engine masks it.
    - Tensors of a row may carry gradient to the similarity and the norm they were made from.
    - Samples with label -1 have no identity: similarity 0, and left out of every average.

    Three things that most heads do not need: a `survey` of the wrong classes before `row` (AdaCos), further `terms` that
    are added to the cross-entropy of a sample (label smoothing), and counting steps (annealing, warm-up).

    Attributes:
        geometry: what "similarity" is. `cosine`: of embedding and centre. `inner_product`: with the centre as it is,
            plus a bias per class if `bias`. `euclidean`: minus the squared distance. Larger is always more alike.
        reduction: `cross_entropy`: -log softmax of the target among all classes. `sum`: target plus the sum of others.
        dense_only: the loss cannot be written as above; chunked, sharded and sampled engines refuse it.
        centres_per_class: sub-centres; the similarity to a class is that to its nearest one.
        bias: whether the engine learns one bias per centre (inner product only).
        scale: s, unless `scale_of` says otherwise.
        surveys: how each value of `survey` is gathered over the wrong classes; empty for no survey. Where an engine samples
            classes, `sum` and `logsumexp` count each as often as the number of classes it stands for.
        terms: whether `target_term` and `other_terms` are to be added (cross-entropy only).
        has_margin: whether the head passes its margins through `warm`, so that margin warm-up can be asked of it.
        reconstructed: the paper's equations could not be read, so the formula is a reading of its abstract.
    """

    geometry: Geometry
    reduction: Reduction = "cross_entropy"
    dense_only: bool = False
    centres_per_class: int = 1
    bias: bool = False
    surveys: Mapping[str, SurveyKind] = {}
    terms: bool = False
    has_margin: ClassVar[bool] = False
    reconstructed: ClassVar[bool] = False

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = scale
        self._proposed: dict[str, Tensor] = {}
        self._margin_warmup_steps = 0

    def set_up(self, classes: int) -> None:
        """Told once, before training and before any state is restored, how many classes there are in all."""

    def survey(self, similarity: Tensor, samples: Samples) -> dict[str, Tensor]:
        """What to gather over all wrong classes before `row` is called.

        Args:
            similarity: `[B, c]`, to a block of classes, without gradient; the engine leaves the target column out.
            samples: of the batch; `surveyed` is still empty.

        Returns:
            One `[B, c]` tensor (numbers or booleans) for each name in `surveys`.
        """
        return {}

    def row(self, samples: Samples) -> RowT:
        """Facts of each sample: margins, thresholds. Heads with state `propose` its next value here."""
        return cast(RowT, ())

    def scale_of(self, row: RowT) -> float | Tensor:
        """Factor s on `target` and `others`: a number, a scalar tensor, or one per sample `[B]`."""
        return self.scale

    def target(self, similarity: Tensor, row: RowT) -> Tensor:
        """What becomes of the similarity to the own class, `[B] -> [B]`."""
        raise NotImplementedError

    def others(self, similarity: Tensor, row: RowT) -> Tensor:
        """What becomes of the similarities to wrong classes, `[B, c] -> [B, c]`. By default nothing."""
        return similarity

    def target_term(self, similarity: Tensor, row: RowT) -> Tensor:
        """Added to the cross-entropy of each sample, not scaled, `[B] -> [B]`. Only called where `terms`."""
        raise NotImplementedError

    def other_terms(self, similarity: Tensor, row: RowT) -> Tensor:
        """Summed over the wrong classes and added, not scaled, `[B, c] -> [B, c]`. Only called where `terms`."""
        raise NotImplementedError

    def penalty(self, norm: Tensor) -> Tensor | None:
        """A further term per sample, `[B] -> [B]`, averaged like the loss and added to it; not scaled."""
        return None

    def sample_losses(self, losses: Tensor, samples: Samples) -> Tensor:
        """What becomes of the loss of each sample before they are averaged, `[B] -> [B]`. By default nothing."""
        return losses

    def embedding_length(self) -> float | Tensor | None:
        """The length that embeddings are given before an inner product; None leaves them as they are."""
        return None

    def diagnostics(self, row: RowT) -> dict[str, Tensor]:
        """Numbers worth a curve: name -> scalar tensor (state), or one per sample `[B]`, averaged by the engine."""
        return {}

    def class_diagnostics(self, similarity: Tensor, row: RowT) -> dict[str, Tensor]:
        """Numbers or booleans `[B, c]` for a block of classes, averaged over samples and wrong classes by the engine."""
        return {}

    def propose(self, **state: Tensor) -> None:
        """Remember the next value of buffers, by name. `advance` makes them current; until then nothing has happened.

        Proposals replace each other, so a skipped step leaves no trace. In evaluation mode nothing is remembered.
        """
        if self.training:
            self._proposed = {name: value.detach() for name, value in state.items()}

    @torch.no_grad()
    def advance(self, applied: Tensor | None = None) -> None:
        """Make the proposed state current. Called after an optimizer step.

        Args:
            applied: bool scalar on the device, whether the step was taken; where it was not, everything stays as it is and
                the proposal is forgotten. None: it was.
        """
        for name, value in self._proposed.items():
            buffer = self.get_buffer(name)
            buffer.copy_(value if applied is None else torch.where(applied, value, buffer))
        self._proposed = {}
        if self.training and "step" in self._buffers:
            self.get_buffer("step").add_(1 if applied is None else applied)

    def count_steps(self) -> None:
        """Keep the number of steps taken in the buffer `step`, an `int64` scalar that travels in checkpoints."""
        if "step" not in self._buffers:
            self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def progress(self, steps: int) -> Tensor:
        """Share of the first `steps` steps that were taken, a scalar in [0, 1]; needs `count_steps`."""
        return (self.get_buffer("step").float() / steps).clamp(max=1)

    def warm_up_margin(self, steps: int) -> None:
        """Let the margins grow linearly from 0 over the first `steps` steps.

        Raises:
            ValueError: the loss has no margin.
        """
        if not self.has_margin:
            raise ValueError("the loss has no margin to warm up")
        self.count_steps()
        self._margin_warmup_steps = steps

    def warm(self, margin: float) -> float | Tensor:
        """A margin as it is at this step: itself, or a part of it while margins warm up."""
        return margin * self.progress(self._margin_warmup_steps) if self._margin_warmup_steps else margin


LOSSES: Registry[Head[tuple[Tensor, ...]]] = Registry("loss")
