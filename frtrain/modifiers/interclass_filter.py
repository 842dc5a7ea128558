"""Inter-class filtering: a wrong class that is suspiciously near is left alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from frtrain.losses.base import Geometry, Head, Samples
from frtrain.modifiers.base import Modifier, loss_name

IN_WORDS: Mapping[Geometry, str] = {"inner_product": "inner product", "euclidean": "euclidean distance"}
"""What other losses compare by."""


class InterclassFilter(Modifier):
    """Inter-class filtering (An et al., Partial FC, CVPR 2022, arXiv 2203.15565), for data with split identities.

        cos(theta_j) := 0  where cos(theta_j) > h          j != y

    A wrong class that near is taken for the same person under another label: it is treated as if at a right angle, and
    no gradient pushes it away. The filter acts before the loss, its survey and its diagnostics see a class; facts
    such as the accuracy do not know of it. h 0.4 in InsightFace's configurations for noisy data; null is off.
    Known trouble: on clean data it removes just the classes that a margin loss learns from; the share is logged as
    `filtered_classes`. Losses that look for hard classes (SV-Softmax, CurricularFace) no longer see those above h.

    Args:
        inner: the loss.
        threshold: h, a cosine in (-1, 1).

    Raises:
        ValueError: the loss does not compare by cosine.
    """

    def __init__(self, inner: Head[Any], threshold: float):
        super().__init__(inner)
        if inner.geometry != "cosine":
            raise ValueError(
                f"modifiers.interclass_filter={threshold}: only for losses that compare by cosine, and "
                f"{loss_name(inner)} compares by {IN_WORDS[inner.geometry]}"
            )
        self.threshold = threshold

    def survey(self, similarity: Tensor, samples: Samples) -> dict[str, Tensor]:
        """That of the inner head, over filtered classes."""
        return self.inner.survey(self._filtered(similarity), samples)

    def others(self, similarity: Tensor, row: Any) -> Tensor:
        """What the inner head makes of filtered similarities, `[B, c] -> [B, c]`."""
        return self.inner.others(self._filtered(similarity), row)

    def other_terms(self, similarity: Tensor, row: Any) -> Tensor:
        """That of the inner head, over filtered classes."""
        return self.inner.other_terms(self._filtered(similarity), row)

    def class_diagnostics(self, similarity: Tensor, row: Any) -> dict[str, Tensor]:
        """Those of the inner head over filtered classes, and `filtered_classes`, the share that the filter took out."""
        found = self.inner.class_diagnostics(self._filtered(similarity), row)
        return {**found, "filtered_classes": similarity > self.threshold}

    def _filtered(self, similarity: Tensor) -> Tensor:
        return torch.where(similarity > self.threshold, 0, similarity)
