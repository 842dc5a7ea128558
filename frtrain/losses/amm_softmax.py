"""AMM-Softmax: the margin of ArcFace, and one of the same shape on hard wrong classes."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from frtrain.losses.angular import (
    BeyondPi,
    MarginGradient,
    Radians,
    add_angle,
    angle,
    subtract_angle,
    with_slope_one,
)
from frtrain.losses.base import LOSSES, Head, Samples
from frtrain.schema import Fraction, Positive


class Mining(NamedTuple):
    """Per sample, `[B]` each, detached: the cosine above which a wrong class is hard, and m2 as it is now."""

    threshold: Tensor
    hard_margin: Tensor


@LOSSES.register("amm_softmax")
class AMMSoftmax(Head[Mining]):
    """AMM-Softmax (Lee, Wang, Cho, IEEE Access 10, 2022, doi 10.1109/ACCESS.2022.3168310): a reconstruction.

        T(theta_y) = cos(theta_y + m1)
        N(theta_j) = cos( max(theta_j - m2, 0) )     where cos(theta_j) > T
                     cos(theta_j)                    elsewhere
        L = -log( exp(s T) / ( exp(s T) + sum_{j != y} exp(s N(theta_j)) ) )

    The authors' equations, values and code were not available: this is a reading of the abstract, which asks for hard
    samples and the margin to be treated through the same shape of angular margin, linear in the angle. Here a sample is
    easy when theta_2 - theta_1 > m1, and until then it is trained towards m1 + m2. Do not report it as their result.
    Defaults: s 64, m1 0.5 (ArcFace), m2 0.15 (no evidence: the ratio of wespeaker's inter-topK margin, 0.06 to 0.2).
    Known trouble: what is evidence and what is choice. Chosen: the indicator, a constant m2, the bound at 0 (without it
    N would fall again where theta_j < m2). The gradient dN/dcos = sin(theta_j - m2) / sin(theta_j) is below 1 for
    theta_j < pi/2 + m2/2, so the emphasis comes from the larger probability; `detached` makes it 1.

    Args:
        scale: s.
        margin: m1 in radians.
        hard_margin: m2, radians if `additive`, a share of the angle in [0, 1] if `proportional`.
        indicator: a wrong class is hard above T (`margined`) or above cos(theta_y) (`plain`).
        negative_margin_kind: N of hard classes as above (`additive`), or cos(theta_j (1 - m2)) (`proportional`).
        adaptive: m2 times r, the running mean of cos(theta_y), cut to [0, 1]: none at first, most at the end.
        ema_weight: weight of the present batch in r.
        beyond_pi: T where theta_y + m1 > pi, see `frtrain.losses.angular.add_angle`; the indicator follows it.
        margin_gradient: gradient of T and of N.

    Raises:
        ValueError: a proportional m2 above 1.
    """

    geometry = "cosine"
    has_margin = True
    reconstructed = True
    mean_target_cosine: Tensor

    def __init__(
        self,
        scale: Positive,
        margin: Radians,
        hard_margin: Radians,
        indicator: Literal["margined", "plain"],
        negative_margin_kind: Literal["additive", "proportional"],
        adaptive: bool,
        ema_weight: Fraction,
        beyond_pi: BeyondPi,
        margin_gradient: MarginGradient,
    ):
        super().__init__(scale)
        if negative_margin_kind == "proportional" and hard_margin > 1:
            raise ValueError(
                f"loss.hard_margin={hard_margin}: a share of the angle, at most 1, "
                "where loss.negative_margin_kind=proportional"
            )
        self.margin = margin
        self.hard_margin = hard_margin
        self.indicator = indicator
        self.negative_margin_kind = negative_margin_kind
        self.adaptive = adaptive
        self.ema_weight = ema_weight
        self.beyond_pi = beyond_pi
        self.margin_gradient = margin_gradient
        if adaptive:
            self.register_buffer("mean_target_cosine", torch.zeros(()))

    def row(self, samples: Samples) -> Mining:
        """The threshold of each sample, and m2; `adaptive` takes this batch into the running mean first."""
        cosine = samples.similarity.detach()
        threshold = self.margined(cosine) if self.indicator == "margined" else cosine
        hard_margin = self.warm(self.hard_margin)
        if self.adaptive:
            hard_margin = hard_margin * self.updated_mean(samples).clamp(0, 1)
        return Mining(threshold, torch.ones_like(cosine) * hard_margin)

    def target(self, similarity: Tensor, row: Mining) -> Tensor:
        """T = cos(theta_y + m1), `[B] -> [B]`."""
        return self.margined(similarity)

    def others(self, similarity: Tensor, row: Mining) -> Tensor:
        """N: cosines of hard classes with m2 taken off the angle, cos for the rest, `[B, c] -> [B, c]`."""
        raised = self.raised(similarity, row.hard_margin[:, None])
        return torch.where(self.is_hard(similarity, row), raised, similarity)

    def diagnostics(self, row: Mining) -> dict[str, Tensor]:
        """`hard_margin`: m2 as it is now, where it changes."""
        return {"hard_margin": row.hard_margin} if self.adaptive else {}

    def class_diagnostics(self, similarity: Tensor, row: Mining) -> dict[str, Tensor]:
        """`support_vectors`: the share of wrong classes that are hard."""
        return {"support_vectors": self.is_hard(similarity, row)}

    def updated_mean(self, samples: Samples) -> Tensor:
        """The running mean r of cos(theta_y) with this batch in it, a scalar; proposed as the next state."""
        mean = samples.mean(samples.similarity.detach()).to(self.mean_target_cosine.dtype)
        weight = self.ema_weight * samples.known.any().to(mean.dtype)  # a batch of strangers changes nothing
        updated = torch.lerp(self.mean_target_cosine, mean, weight)
        self.propose(mean_target_cosine=updated)
        return updated

    def margined(self, similarity: Tensor) -> Tensor:
        """T, elementwise."""
        return add_angle(similarity, self.warm(self.margin), self.beyond_pi, self.margin_gradient)

    def raised(self, similarity: Tensor, hard_margin: Tensor) -> Tensor:
        """N of a hard class, elementwise."""
        if self.negative_margin_kind == "additive":
            return subtract_angle(similarity, hard_margin, self.margin_gradient)
        raised = (angle(similarity, eps=1e-6) * (1 - hard_margin)).cos()
        return with_slope_one(raised, similarity) if self.margin_gradient == "detached" else raised

    def is_hard(self, similarity: Tensor, row: Mining) -> Tensor:
        """cos(theta_j) > threshold, strictly, `[B, c] -> bool [B, c]`; says nothing about the target column."""
        return similarity > row.threshold[:, None]
