"""The combined margin: SphereFace's, ArcFace's and CosFace's at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from frtrain.losses.angular import BeyondPi, MarginGradient, Radians, add_angle, angle, with_slope_one
from frtrain.losses.base import LOSSES, Head, NoRow
from frtrain.losses.cosface import CosineMargin
from frtrain.schema import Positive


@LOSSES.register("combined_margin")
class CombinedMargin(Head[NoRow]):
    """Combined margin (Deng, Guo, Xue, Zafeiriou, CVPR 2019, arXiv 1801.07698; InsightFace).

        T(theta_y) = cos(m_mul theta_y + m_arc) - m_cos          the other classes: cos(theta_j)
        L = -log( exp(s T) / ( exp(s T) + sum_{j != y} exp(s cos theta_j) ) )

    (1, m, 0) is ArcFace, (1, 0, m) is CosFace, (1, 0, 0) is NormFace with a fixed scale. The names of the margins are
    ours, since m1, m2, m3 mean different things in different projects.
    Defaults: s 64, (1.0, 0.3, 0.2), InsightFace's sample configuration for MXNet. m_mul may be below 1, as in the setting
    (0.9, 0.4, 0.15) that is also in use.
    Known trouble: InsightFace's PyTorch code ignores the first two margins where the third is set and so trains
    CosFace; here, as in its MXNet code, all three act. That code has no rule for m_mul theta + m_arc > pi. The rules here
    are those of ArcFace, with m_0 = pi - theta_0 in the place of its margin, theta_0 = (pi - m_arc) / m_mul the angle
    where the sum reaches pi:
        continuous  cos(theta) - (1 - cos m_0), meets the curve in -1
        classic     cos(theta) - m_0 sin m_0, with a jump
        clip        -1
        none        cos(m_mul theta + m_arc) all the same
        easy        margins on the angle only where theta < pi/2, cos(theta) elsewhere
    m_cos is subtracted in every case. With m_mul = 1 each rule is that of ArcFace.

    Args:
        scale: s.
        m_mul: factor on the angle.
        m_arc: added to the angle, in radians.
        m_cos: subtracted from the cosine.
        beyond_pi: T where m_mul theta + m_arc > pi, see above.
        margin_gradient: gradient of T; `exact`: m_mul sin(m_mul theta + m_arc) / sin(theta), `detached`: 1.

    Raises:
        ValueError: `easy` with margins that pass pi before theta = pi/2.
    """

    geometry = "cosine"
    has_margin = True

    def __init__(
        self,
        scale: Positive,
        m_mul: Positive,
        m_arc: Radians,
        m_cos: CosineMargin,
        beyond_pi: BeyondPi,
        margin_gradient: MarginGradient,
    ):
        super().__init__(scale)
        if beyond_pi == "easy" and m_mul * math.pi / 2 + m_arc > math.pi and m_mul != 1:
            raise ValueError(
                f"beyond_pi=easy spares only theta > pi/2, and with m_mul={m_mul} and m_arc={m_arc} "
                "the angle passes pi before that"
            )
        self.m_mul = m_mul
        self.m_arc = m_arc
        self.m_cos = m_cos
        self.beyond_pi = beyond_pi
        self.margin_gradient = margin_gradient

    def target(self, similarity: Tensor, row: NoRow) -> Tensor:
        """cos(m_mul theta_y + m_arc) - m_cos, `[B] -> [B]`."""
        m_arc = self.warm(self.m_arc)
        if self.m_mul == 1:
            margined = add_angle(similarity, m_arc, self.beyond_pi, self.margin_gradient)
        else:
            margined = self.multiplied(similarity, 1 + self.warm(self.m_mul - 1), m_arc)
        return margined - self.warm(self.m_cos)

    def multiplied(self, similarity: Tensor, m_mul: float | Tensor, m_arc: float | Tensor) -> Tensor:
        """cos(m_mul theta + m_arc) for m_mul other than 1, with its rule beyond pi, `[B] -> [B]`."""
        total = m_mul * angle(similarity) + m_arc
        margined = total.cos()
        if self.beyond_pi == "easy":
            margined = torch.where(similarity > 0, margined, similarity)
        elif self.beyond_pi != "none":
            m_0 = math.pi - (math.pi - m_arc) / m_mul
            margined = torch.where(total <= math.pi, margined, add_angle(similarity, m_0, self.beyond_pi, "exact"))
        return with_slope_one(margined, similarity) if self.margin_gradient == "detached" else margined
