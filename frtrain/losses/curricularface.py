"""CurricularFace: hard classes weigh more as training goes on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from frtrain.losses.angular import BeyondPi, MarginGradient, Radians, add_angle
from frtrain.losses.base import LOSSES, Head, Samples
from frtrain.schema import Fraction, Positive


class Curriculum(NamedTuple):
    """Per sample, the cosine above which a wrong class is hard and the parameter t, `[B]` each, detached."""

    threshold: Tensor
    t: Tensor


@LOSSES.register("curricularface")
class CurricularFace(Head[Curriculum]):
    """CurricularFace (Huang et al., CVPR 2020, arXiv 2004.00288).

        T(theta_y) = cos(theta_y + m)
        N(theta_j) = cos(theta_j) (t + cos(theta_j))   where cos(theta_j) > cos(theta_y + m), a hard class
                     cos(theta_j)                      elsewhere
        t <- ema mean(cos theta_y) + (1 - ema) t       over the batch, before it is used; t starts at 0
        L = -log( exp(s T) / ( exp(s T) + sum_{j != y} exp(s N(theta_j)) ) )

    t carries no gradient, so dN/dcos of a hard class is t + 2 cos: small or negative early on, when hard classes are
    played down, and above 1 once t + 2 cos > 1. What is hard is judged by cos(theta_y + m) without any rule beyond pi.
    Defaults: s 64, m 0.5 radians, ema 0.01. The paper writes 0.99 for the weight of the new value; the authors say that
    their code, 0.01, is right. TFace has 0.1.
    Known trouble: cos (t + cos) is positive where cos < -t, so early on, while T < -t, an easy class far away may get
    its logit raised.

    Args:
        scale: s.
        margin: m in radians.
        ema: weight of the new value in t.
        beyond_pi: T where theta_y + m > pi, see `frtrain.losses.angular.add_angle`. The authors' code: `classic`.
        margin_gradient: gradient of T.
    """

    geometry = "cosine"
    has_margin = True
    t: Tensor

    def __init__(
        self,
        scale: Positive,
        margin: Radians,
        ema: Fraction,
        beyond_pi: BeyondPi,
        margin_gradient: MarginGradient,
    ):
        super().__init__(scale)
        self.margin = margin
        self.ema = ema
        self.beyond_pi = beyond_pi
        self.margin_gradient = margin_gradient
        self.register_buffer("t", torch.zeros(()))

    def row(self, samples: Samples) -> Curriculum:
        """The threshold of each sample, and t with this batch in it."""
        similarity = samples.similarity.detach()
        t = self.t
        if self.training:
            moved = self.ema * samples.mean(similarity) + (1 - self.ema) * t
            t = torch.where(samples.known.any(), moved, t)
            self.propose(t=t)
        return Curriculum(add_angle(similarity, self.warm(self.margin), "none", "exact"), t.expand_as(similarity))

    def target(self, similarity: Tensor, row: Curriculum) -> Tensor:
        """cos(theta_y + m), `[B] -> [B]`."""
        return add_angle(similarity, self.warm(self.margin), self.beyond_pi, self.margin_gradient)

    def others(self, similarity: Tensor, row: Curriculum) -> Tensor:
        """cos (t + cos) of hard classes, cos of the rest, `[B, c] -> [B, c]`."""
        return torch.where(self.is_hard(similarity, row), similarity * (row.t[:, None] + similarity), similarity)

    def diagnostics(self, row: Curriculum) -> dict[str, Tensor]:
        """`t` as it is used in this step."""
        return {"t": row.t}

    def class_diagnostics(self, similarity: Tensor, row: Curriculum) -> dict[str, Tensor]:
        """`support_vectors`: the share of wrong classes that are hard."""
        return {"support_vectors": self.is_hard(similarity, row)}

    def is_hard(self, similarity: Tensor, row: Curriculum) -> Tensor:
        """cos(theta_j) > cos(theta_y + m), `[B, c] -> bool [B, c]`; says nothing about the target column."""
        return similarity > row.threshold[:, None]
