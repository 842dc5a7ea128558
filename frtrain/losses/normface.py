"""NormFace: softmax on cosines."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from frtrain.losses.base import LOSSES, Head, NoRow
from frtrain.schema import Positive

SMALLEST_SCALE = 0.01
"""The authors' lower bound of a learned scale."""


@LOSSES.register("normface")
class NormFace(Head[NoRow]):
    """NormFace (Wang, Xiang, Cheng, Yuille, ACM MM 2017, arXiv 1704.06369): z_j = s cos(theta_j).

        L = -log( exp(s cos theta_y) / sum_j exp(s cos theta_j) )

    theta_j angle between embedding and centre j, s the scale. Without a margin, it is the parent of the margin losses.
    Defaults: s learned from 10, never below 0.01 (the authors' prototxt).
    Known trouble: with C classes the loss cannot fall below log(1 + (C-1) exp(-s C/(C-1))), so a small fixed s stalls.
    The authors fine-tune a softmax model; they do not train from scratch.

    Args:
        scale: s, or its first value where it is learned.
        learn_scale: make s a parameter (a 0-dimensional tensor, so that weight decay can leave it out).
    """

    geometry = "cosine"

    def __init__(self, scale: Positive, learn_scale: bool):
        super().__init__(scale)
        self.learned_scale = nn.Parameter(torch.tensor(float(scale))) if learn_scale else None

    def scale_of(self, row: NoRow) -> float | Tensor:
        """s, a scalar tensor where it is learned."""
        return self.scale if self.learned_scale is None else self.learned_scale.clamp(min=SMALLEST_SCALE)

    def target(self, similarity: Tensor, row: NoRow) -> Tensor:
        """cos(theta_y), `[B] -> [B]`."""
        return similarity
