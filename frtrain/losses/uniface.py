"""UniFace: one threshold between all genuine and all impostor similarities."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frtrain.losses.base import LOSSES, Head, NoRow
from frtrain.losses.cosface import CosineMargin
from frtrain.schema import Positive


@LOSSES.register("uniface")
class UniFace(Head[NoRow]):
    """UniFace, unified cross-entropy (Zhou, Jia, Li, Shen, Duan, ICCV 2023).

        L = softplus( -(s (cos(theta_y) - m) - b) ) + l * sum_{j != y} softplus( s cos(theta_j) - b )

    softplus(a) = log(1 + exp(a)); b one learned threshold for all classes and samples, as a face verifier has one: a
    pair is genuine where s cos > b. b starts at log(10 C), where the sum over C wrong classes at a right angle is 0.1.
    Defaults: s 64, m 0.4, l 1 (the authors' code).
    Known trouble: the authors clamp both arguments to [-s, s], which changes the value and stops the gradient of the
    worst samples; here that is an option. They start b at log(10 r C) where only a share r of the classes is seen;
    here the classifier counts a sampled class 1/r times, so b and the loss mean the same for every r.

    Args:
        scale: s.
        margin: m, a difference of cosines.
        negative_weight: l.
        clamp: clamp the arguments of softplus to [-s, s], as the authors' code does.

    Attributes:
        threshold: b, a 0-dimensional parameter, so that weight decay can leave it out.
    """

    geometry = "cosine"
    reduction = "sum"
    has_margin = True

    def __init__(self, scale: Positive, margin: CosineMargin, negative_weight: Positive, clamp: bool):
        super().__init__(scale)
        self.margin = margin
        self.negative_weight = negative_weight
        self.clamp = clamp
        self.threshold = nn.Parameter(torch.zeros(()))

    @torch.no_grad()
    def set_up(self, classes: int) -> None:
        """b = log(10 C)."""
        self.threshold.fill_(math.log(10 * classes))

    def scale_of(self, row: NoRow) -> float:
        """1: s is inside softplus."""
        return 1.0

    def target(self, similarity: Tensor, row: NoRow) -> Tensor:
        """softplus(-(s (cos(theta_y) - m) - b)), `[B] -> [B]`."""
        return -F.logsigmoid(self.logit(similarity - self.warm(self.margin)))

    def others(self, similarity: Tensor, row: NoRow) -> Tensor:
        """l softplus(s cos(theta_j) - b), `[B, c] -> [B, c]`."""
        return -self.negative_weight * F.logsigmoid(-self.logit(similarity))

    def diagnostics(self, row: NoRow) -> dict[str, Tensor]:
        """`threshold`: the cosine b / s above which a pair is taken for genuine."""
        return {"threshold": self.threshold / self.scale}

    def logit(self, cosine: Tensor) -> Tensor:
        """s cos - b, any shape, clamped to [-s, s] where asked for."""
        logit = self.scale * cosine - self.threshold
        return logit.clamp(-self.scale, self.scale) if self.clamp else logit
