"""NPCFace: the nearer the hard wrong classes, the larger the margin of the own class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from frtrain.losses.angular import BeyondPi, MarginGradient, Radians, add_angle
from frtrain.losses.base import LOSSES, Head, Samples, SurveyKind
from frtrain.schema import AtLeastOne, NonNegative, Positive


class Cooperation(NamedTuple):
    """Per sample, `[B]` each, detached: the cosine above which a wrong class is hard, and the margin m_i."""

    threshold: Tensor
    margin: Tensor


@LOSSES.register("npcface")
class NPCFace(Head[Cooperation]):
    """NPCFace (Zeng, Shi, Du, Wang, Lei, Mei, arXiv 2007.10172, 2020).

        hard(j)     : cos(theta_j) > cos(theta_y + m_mask)
        N(theta_j)  = t cos(theta_j) + a   if hard(j), else cos(theta_j)
        T(theta_y)  = cos(theta_y + m_i),  m_i = m_0 + m_1 * mean of cos(theta_j) over the hard j of the sample
        L = -log( exp(s T) / ( exp(s T) + sum_{j != y} exp(s N_j) ) )

    Negative and positive margin go together: a sample whose hard wrong classes are near gets the larger m_i. No
    gradient passes through m_i, nor through the switch; a sample without a hard class has m_i = m_0. t = 1, a = 0,
    m_1 = 0 is ArcFace with m_0.
    Defaults: m_0 0.40, m_1 0.20, t 1.10, a 0.20, m_mask 0.5, s 64 (FaceX-Zoo, by the same group; its training recipe
    has m_mask 0.35, s 32). FaceX-Zoo trains cos(theta_y) <= 0 without margin: `beyond_pi=easy`.
    Known trouble: early on nearly every class is hard, as with SV-Softmax. A hard class with cos(theta_j) < -a / (t-1)
    would be lowered; the defaults exclude it (-2), t - 1 > a does not. On a sample of the classes (Partial FC) m_i is
    estimated from the hard ones among them.

    Args:
        scale: s.
        margin: m_0 in radians.
        margin_slope: m_1, radians per unit of cosine; at most m_0, so that m_i cannot be negative.
        mask_margin: m_mask in radians.
        t: factor on the cosine of hard classes.
        a: added to the cosine of hard classes.
        beyond_pi: T where theta_y + m_i > pi, see `frtrain.losses.angular.add_angle`; the threshold follows the same
            rule, but for `easy`, which exempts the target only: then it is cos(theta_y + m_mask) without a rule.
        margin_gradient: gradient of T.

    Raises:
        ValueError: m_1 is larger than m_0, or m_0 + m_1 than pi.
    """

    geometry = "cosine"
    has_margin = True
    surveys: Mapping[str, SurveyKind] = {"hard_cosine": "sum", "hard": "sum"}

    def __init__(
        self,
        scale: Positive,
        margin: Radians,
        margin_slope: Radians,
        mask_margin: Radians,
        t: AtLeastOne,
        a: NonNegative,
        beyond_pi: BeyondPi,
        margin_gradient: MarginGradient,
    ):
        if margin_slope > margin or margin + margin_slope > math.pi:
            raise ValueError(
                f"loss.margin_slope={margin_slope}: the margin of a sample, margin +- margin_slope with loss.margin={margin}, "
                "must stay between 0 and pi"
            )
        super().__init__(scale)
        self.margin = margin
        self.margin_slope = margin_slope
        self.mask_margin = mask_margin
        self.t = t
        self.a = a
        self.beyond_pi = beyond_pi
        self.margin_gradient = margin_gradient

    def survey(self, similarity: Tensor, samples: Samples) -> dict[str, Tensor]:
        """`hard_cosine`: the cosine where the class is hard, 0 elsewhere; `hard`: whether it is."""
        hard = similarity > self.threshold(samples)[:, None]
        return {"hard_cosine": torch.where(hard, similarity, 0), "hard": hard}

    def row(self, samples: Samples) -> Cooperation:
        """Threshold and m_i of each sample."""
        hard_classes = samples.surveyed["hard"].clamp(min=1)
        mean_hard_cosine = (samples.surveyed["hard_cosine"] / hard_classes).clamp(-1, 1)
        margin = self.warm(self.margin) + self.warm(self.margin_slope) * mean_hard_cosine
        return Cooperation(self.threshold(samples), margin)

    def target(self, similarity: Tensor, row: Cooperation) -> Tensor:
        """cos(theta_y + m_i), `[B] -> [B]`."""
        return add_angle(similarity, row.margin, self.beyond_pi, self.margin_gradient)

    def others(self, similarity: Tensor, row: Cooperation) -> Tensor:
        """t cos + a for hard classes, cos for the rest, `[B, c] -> [B, c]`."""
        return torch.where(similarity > row.threshold[:, None], self.t * similarity + self.a, similarity)

    def diagnostics(self, row: Cooperation) -> dict[str, Tensor]:
        """`margin`: the mean m_i."""
        return {"margin": row.margin}

    def class_diagnostics(self, similarity: Tensor, row: Cooperation) -> dict[str, Tensor]:
        """`support_vectors`: the share of wrong classes that are hard."""
        return {"support_vectors": similarity > row.threshold[:, None]}

    def threshold(self, samples: Samples) -> Tensor:
        """cos(theta_y + m_mask), `[B]`, detached."""
        rule: BeyondPi = "none" if self.beyond_pi == "easy" else self.beyond_pi
        return add_angle(samples.similarity.detach(), self.warm(self.mask_margin), rule, "exact")
