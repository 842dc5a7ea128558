"""The dense engine: all classes at once, on one device, differentiated by autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from frtrain.classifier.base import CLASSIFIERS, NOTHING, Classifier, InitStd, Reduced, channels_of
from frtrain.classifier.centres import draw_seed, first_centres
from frtrain.classifier.compilation import compiled
from frtrain.classifier.similarity import nearest_sub_centre, similarity
from frtrain.losses.base import Head, Samples, SurveyKind
from frtrain.processes import ALONE, Processes

GATHER: dict[SurveyKind, Callable[..., Tensor]] = {"sum": torch.sum, "max": torch.amax, "logsumexp": torch.logsumexp}


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
        processes: who trains together; with several, each computes the whole.

    Attributes:
        centres: parameter `[C * K, d]`; the K sub-centres of a class are neighbouring rows (K is 1 for most heads).
        bias: parameter `[C * K]` or None.

    Raises:
        ValueError: fewer than two classes.
    """

    def __init__(
        self, head: Head[Any], classes: int, embedding_size: int, init_std: InitStd, processes: Processes = ALONE
    ):
        super().__init__(head, classes, processes)
        rows = classes * head.centres_per_class
        self.centres = nn.Parameter(first_centres(0, rows, embedding_size, init_std, draw_seed()))
        self.bias = nn.Parameter(torch.zeros(rows)) if head.bias else None

    @property
    def centre_dtype(self) -> torch.dtype:
        """Of the class centres."""
        return self.centres.dtype

    def compare(self, prepared: Tensor, labels: Tensor) -> Matrix:
        """All similarities, `[B, C]`."""
        dtype = prepared.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        to_centres = similarity(self.head.geometry, prepared, self.centres.to(dtype), bias)
        return Matrix(nearest_sub_centre(to_centres, self.head.centres_per_class), labels, self.compiled)


class Matrix:
    """The similarities of a batch to all classes, see `frtrain.classifier.base.Comparison`."""

    def __init__(self, to_classes: Tensor, labels: Tensor, by_compiler: bool = False):
        self._to_classes = to_classes
        self._column = labels.clamp(min=0)[:, None]
        self._by_compiler = by_compiler
        self.own = torch.where(labels >= 0, to_classes.gather(1, self._column).squeeze(1), 0)

    @torch.no_grad()
    def survey(self, head: Head[Any], samples: Samples) -> dict[str, Tensor]:
        """The head's survey over all wrong classes, `[B]` each."""
        found, dtype = head.survey(self._to_classes.detach(), samples), self._to_classes.dtype
        return {
            name: GATHER[kind](_without_own(found[name], self._column, NOTHING[kind], dtype), dim=1)
            for name, kind in head.surveys.items()
        }

    def reduce(self, head: Head[Any], row: Any, watch: bool) -> Reduced:
        """The head's channels over all wrong classes."""
        reduce = compiled(_reduce) if self._by_compiler else _reduce
        channels, nearest = reduce(head, self._to_classes, row, self._column)
        with torch.no_grad():
            found = head.class_diagnostics(self._to_classes, row) if watch else {}
            dtype = self._to_classes.dtype
            sums = {name: _without_own(values, self._column, 0, dtype).sum(dim=1) for name, values in found.items()}
        return Reduced(channels, nearest, sums)


def _reduce(head: Head[Any], to_classes: Tensor, row: Any, column: Tensor) -> tuple[list[Tensor], Tensor]:
    """The channels, and the largest similarity to a wrong class, `[B]` each."""
    dtype = to_classes.dtype
    channels = [
        channel.reduction.block(_without_own(channel.values(to_classes, row), column, channel.reduction.neutral, dtype))
        for channel in channels_of(head)
    ]
    with torch.no_grad():
        nearest = _without_own(to_classes, column, -torch.inf, dtype).amax(dim=1)
    return channels, nearest


def _without_own(values: Tensor, column: Tensor, neutral: float, dtype: torch.dtype) -> Tensor:
    """A copy of `values` `[B, C]` with `neutral` in the own class's `column` `[B, 1]`."""
    if torch.compiler.is_compiling():
        return torch.where(torch.arange(values.shape[1], device=values.device) == column, neutral, values.to(dtype))
    return values.to(dtype).scatter(1, column, neutral)
