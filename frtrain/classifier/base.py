"""What every class-weight engine is and returns: the arithmetic of a step that is per sample, `[B]`.

What runs over classes is left to a `Comparison`, which each engine makes in its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Protocol

import torch
from annotated_types import Interval
from torch import Tensor, nn

from frtrain.auxiliary.base import Auxiliary
from frtrain.classifier.reduction import REDUCTIONS, Reduction
from frtrain.classifier.similarity import prepare
from frtrain.losses.base import Head, Samples, SurveyKind
from frtrain.processes import ALONE, Processes
from frtrain.registry import Registry

NOTHING: Mapping[SurveyKind, float] = {"sum": 0.0, "max": -torch.inf, "logsumexp": -torch.inf}
"""What a survey finds over no class at all."""


@dataclass(frozen=True)
class Facts:
    """What a step tells its observers. Detached tensors on the device of the step; nothing here waits for it.

    Attributes:
        target_similarity: `[B]`, to the own class, before any margin; 0 for label -1.
        accuracy: scalar, share of samples that are nearer to their own class than to any other, before any margin.
            Ties are errors, so that a collapsed embedding is not taken for a perfect one. Where classes are sampled, it is
            the share among the sampled ones, and higher than among all.
        embedding_norm: `[B]`, length before normalisation.
        diagnostics: scalars, averaged over the batch: `scale`, `effective_margin` (of cosine heads with cross-entropy:
            by how much the target's cosine was lowered), and what the head tells of itself.
    """

    target_similarity: Tensor
    accuracy: Tensor
    embedding_norm: Tensor
    diagnostics: dict[str, Tensor]


@dataclass(frozen=True)
class Channel:
    """One reduction over the wrong classes, and the function whose values it reduces."""

    reduction: Reduction
    values: Callable[[Tensor, Any], Tensor]


def scaled(values: Tensor, scale: float | Tensor) -> Tensor:
    """`values` (`[B]` or `[B, c]`) times a number, a scalar tensor or a factor per sample `[B]`."""
    if isinstance(scale, Tensor) and scale.dim() == 1 and values.dim() == 2:
        return values * scale[:, None]
    return values * scale


def channels_of(head: Head[Any]) -> list[Channel]:
    """The head's reduction, and a sum besides it where the head has further terms."""

    def others(similarity: Tensor, row: Any) -> Tensor:
        return scaled(head.others(similarity, row), head.scale_of(row))

    channels = [Channel(REDUCTIONS[head.reduction], others)]
    if head.terms:
        channels.append(Channel(REDUCTIONS["sum"], head.other_terms))
    return channels


@dataclass(frozen=True)
class Reduced:
    """What became of the wrong classes.

    Attributes:
        channels: `[B]` for each channel of the head; carry gradient.
        nearest: `[B]`, the largest similarity to a wrong class; -inf where there is none.
        diagnostics: `[B]`, the head's `class_diagnostics` summed over the wrong classes.
    """

    channels: list[Tensor]
    nearest: Tensor
    diagnostics: dict[str, Tensor]


class Comparison(Protocol):
    """A batch before the class centres.

    Attributes:
        own: `[B]`, similarity to the own class, 0 for label -1; carries gradient.
    """

    own: Tensor

    def survey(self, head: Head[Any], samples: Samples) -> dict[str, Tensor]:
        """The head's survey over all wrong classes, `[B]` each."""
        ...

    def reduce(self, head: Head[Any], row: Any, watch: bool) -> Reduced:
        """The head's channels over all wrong classes; diagnostics only where `watch`."""
        ...


class Classifier(nn.Module):
    """Owns the class centres and evaluates one head over all classes; it knows no loss by name.

    Attributes:
        head: the loss.
        classes: number of identities C.
        processes: who trains together; each brings its own rows of the batch.
        auxiliary: a further loss on the embeddings of the whole batch, or None.
        watch: whether the head's diagnostics over wrong classes are computed; they cost a little.
        compiled: whether what is done with each similarity is compiled (torch.compile).
    """

    def __init__(self, head: Head[Any], classes: int, processes: Processes = ALONE):
        super().__init__()
        if classes < 2:
            raise ValueError(f"classes={classes}: a classifier needs at least two identities")
        self.head = head
        self.classes = classes
        self.processes = processes
        self.auxiliary: Auxiliary | None = None
        self.watch = True
        self.compiled = False
        head.set_up(classes)

    def compare(self, prepared: Tensor, labels: Tensor) -> Comparison:
        """Set a batch before the centres.

        Args:
            prepared: `[B, d]`, see `frtrain.classifier.similarity.prepare`.
            labels: `int64 [B]`.
        """
        raise NotImplementedError

    def forward(self, embedding: Tensor, labels: Tensor) -> tuple[Tensor, Facts]:
        """The mean loss of the batch that all processes hold together.

        Args:
            embedding: `[b, d]`, this process's rows (all rows where it is alone), as the backbone gives it. The loss is computed in float32 whatever autocast says, in
                float64 where it is given float64.
            labels: integers `[b]` in `[0, classes)`, or -1 for a face of no known identity, left out of all averages.

        Returns:
            The scalar loss and the facts of the step, of the whole batch and the same on every process.
        """
        with torch.autocast(embedding.device.type, enabled=False):
            dtype = torch.float64 if torch.float64 in (embedding.dtype, self.centre_dtype) else torch.float32
            rows = self.processes.rows(len(labels), embedding.device)
            embedding = self.processes.gather(embedding.to(dtype), rows)
            return self._loss_and_facts(embedding, self.processes.gather(labels.long(), rows))

    @property
    def centre_dtype(self) -> torch.dtype:
        """Of the class centres."""
        raise NotImplementedError

    def _loss_and_facts(self, embedding: Tensor, labels: Tensor) -> tuple[Tensor, Facts]:
        head = self.head
        norm = torch.linalg.vector_norm(embedding, dim=1)
        comparison = self.compare(prepare(head.geometry, embedding, head.embedding_length()), labels)
        samples = Samples(comparison.own, norm, labels)
        if head.surveys:
            samples = replace(samples, surveyed=comparison.survey(head, samples))

        row = head.row(samples)
        scale = head.scale_of(row)
        margined = head.target(samples.similarity, row)
        reduced = comparison.reduce(head, row, self.watch)
        losses = REDUCTIONS[head.reduction].loss(scaled(margined, scale), reduced.channels[0])
        if head.terms:
            losses = losses + head.target_term(samples.similarity, row) + reduced.channels[1]
        losses = head.sample_losses(losses, samples)
        penalty = head.penalty(norm)
        if penalty is not None:
            losses = losses + penalty

        with torch.no_grad():
            facts = Facts(
                target_similarity=samples.similarity.detach(),
                accuracy=samples.mean((samples.similarity > reduced.nearest).to(losses.dtype)),
                embedding_norm=norm.detach(),
                diagnostics=self._diagnostics(samples, row, margined, reduced.diagnostics),
            )
        loss = samples.mean(losses)
        if self.auxiliary is not None:
            term = self.auxiliary(embedding, labels)
            facts.diagnostics["auxiliary"] = term.detach()
            loss = loss + term
        return loss, facts

    def _diagnostics(
        self, samples: Samples, row: Any, margined: Tensor, over_classes: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        head, similarity = self.head, samples.similarity.detach()
        found: dict[str, Tensor] = {}
        scale = head.scale_of(row)
        if not isinstance(scale, Tensor):
            scale = torch.full((), scale, dtype=similarity.dtype, device=similarity.device)
        found["scale"] = samples.mean(scale.detach()) if scale.dim() else scale.detach().clone()
        if head.geometry == "cosine" and head.reduction == "cross_entropy":
            found["effective_margin"] = samples.mean(similarity - margined.detach())
        for name, values in head.diagnostics(row).items():
            found[name] = (samples.mean(values) if values.dim() else values).detach().clone()
        for name, values in over_classes.items():
            found[name] = samples.mean(values / (self.classes - 1))
        return found

    def advance(self, applied: Tensor | None = None) -> None:
        """Commit the state of head and auxiliary; to be called after an optimizer step.

        Args:
            applied: bool scalar on the device, whether the step was taken; the state of a skipped one is given up, without
                waiting for the device. None: it was.
        """
        self.head.advance(applied)
        if self.auxiliary is not None:
            self.auxiliary.advance(applied)


InitStd = Annotated[float, Interval(ge=1e-4, le=1e3)]
"""Standard deviation of the first centres. Much shorter ones would have no direction (`frtrain.directions.SHORTEST`)."""

CLASSIFIERS: Registry[Classifier] = Registry("classifier")
