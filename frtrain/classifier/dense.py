"""The dense engine: all classes at once, on one device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from frtrain.classifier.base import CLASSIFIERS, Classifier, Facts, mean_over, working_dtype
from frtrain.classifier.reduction import REDUCTIONS
from frtrain.classifier.similarity import nearest_sub_centre, prepare, similarity
from frtrain.losses.base import Head
from frtrain.schema import Positive


@CLASSIFIERS.register("dense")
class DenseClassifier(Classifier):
    """Similarities of the batch to every class in one matrix `[B, C]`. Right up to some tens of thousands of classes.

    Centres start as N(0, init_std): the direction is uniform, and for cosine heads the length sets how fast they turn
    (the gradient of a cosine goes with 1/length). InsightFace starts with 0.01, and learning rates published with its
    recipes hold for that. The bias, where the head wants one, starts at 0.

    Args:
        head: the loss.
        classes: number of identities C.
        embedding_size: d.
        init_std: standard deviation of the first centres.

    Attributes:
        centres: parameter `[C * K, d]`; the K sub-centres of a class are neighbouring rows (K is 1 for most heads).
        bias: parameter `[C * K]` or None.

    Raises:
        ValueError: fewer than two classes.
    """

    def __init__(self, head: Head[Any], classes: int, embedding_size: int, init_std: Positive):
        super().__init__(head, classes)
        rows = classes * head.centres_per_class
        self.centres = nn.Parameter(torch.empty(rows, embedding_size).normal_(std=init_std))
        self.bias = nn.Parameter(torch.zeros(rows)) if head.bias else None

    def forward(self, embedding: Tensor, labels: Tensor) -> tuple[Tensor, Facts]:
        """The mean loss of a batch, see `Classifier.forward`."""
        with torch.autocast(embedding.device.type, enabled=False):
            return self._loss_and_facts(embedding.to(working_dtype(embedding, self.centres)), labels.long())

    def _loss_and_facts(self, embedding: Tensor, labels: Tensor) -> tuple[Tensor, Facts]:
        head = self.head
        known = labels >= 0
        own = labels.clamp(min=0)[:, None]
        norm = torch.linalg.vector_norm(embedding, dim=1)
        to_classes = self.similarity(embedding)
        to_own = torch.where(known, to_classes.gather(1, own).squeeze(1), 0)

        row = head.row(to_own, norm, labels)
        reduction = REDUCTIONS[head.reduction]
        target = head.scale * head.target(to_own, row)
        # The product is a fresh tensor that nothing else holds, so its target column may be overwritten in place.
        others = (head.scale * head.others(to_classes, row)).scatter_(1, own, reduction.neutral)
        loss = reduction.loss(target, reduction.block(others))
        penalty = head.penalty(norm)
        if penalty is not None:
            loss = loss + penalty

        with torch.no_grad():
            facts = Facts(
                target_similarity=to_own.detach(),
                accuracy=mean_over((to_classes.argmax(dim=1) == labels).to(loss.dtype), known),
                embedding_norm=norm.detach(),
                diagnostics=self._diagnostics(to_classes.detach(), row, own, known),
            )
        return mean_over(loss, known), facts

    def similarity(self, embedding: Tensor) -> Tensor:
        """Similarity to every class in the head's geometry, without margin, `[B, d] -> [B, C]`."""
        dtype = embedding.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        prepared = prepare(self.head.geometry, embedding)
        to_centres = similarity(self.head.geometry, prepared, self.centres.to(dtype), bias)
        return nearest_sub_centre(to_centres, self.head.centres_per_class)

    def _diagnostics(self, to_classes: Tensor, row: Any, own: Tensor, known: Tensor) -> dict[str, Tensor]:
        averages = {}
        for name, values in self.head.diagnostics(to_classes, row).items():
            if values.dim() == 2:
                dtype = to_classes.dtype
                wrong = values.sum(dim=1, dtype=dtype) - values.gather(1, own).squeeze(1).to(dtype)
                averages[name] = mean_over(wrong / (self.classes - 1), known)
            elif values.dim() == 1:
                averages[name] = mean_over(values, known)
            else:
                averages[name] = values
        return averages
