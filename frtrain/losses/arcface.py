"""ArcFace: an additive margin on the angle."""

from __future__ import annotations

from torch import Tensor

from frtrain.losses.angular import BeyondPi, MarginGradient, Radians, add_angle
from frtrain.losses.base import LOSSES, Head, NoRow
from frtrain.schema import Positive


@LOSSES.register("arcface")
class ArcFace(Head[NoRow]):
    """ArcFace (Deng, Guo, Xue, Zafeiriou, CVPR 2019, arXiv 1801.07698).

        T(theta_y) = cos(theta_y + m)            the other classes: cos(theta_j)
        L = -log( exp(s T) / ( exp(s T) + sum_{j != y} exp(s cos theta_j) ) )

    Boundary between two classes: theta_2 - theta_1 = m. m = 0 is NormFace with a fixed scale.
    Defaults: s 64, m 0.5 radians (28.6 degrees; pytorch-metric-learning counts in degrees, we do not).
    Known trouble: published results differ in two silent choices, the gradient of T and its value where
    theta_y + m > pi. Both are switches here, explained in `frtrain.losses.angular`. InsightFace's PyTorch code since
    2022-12 is `margin_gradient=detached beyond_pi=none`, its first MXNet code `exact` and `classic`.

    Args:
        scale: s.
        margin: m in radians.
        beyond_pi: T where theta_y + m > pi.
        margin_gradient: gradient of T.
    """

    geometry = "cosine"
    has_margin = True

    def __init__(self, scale: Positive, margin: Radians, beyond_pi: BeyondPi, margin_gradient: MarginGradient):
        super().__init__(scale)
        self.margin = margin
        self.beyond_pi = beyond_pi
        self.margin_gradient = margin_gradient

    def target(self, similarity: Tensor, row: NoRow) -> Tensor:
        """cos(theta_y + m), `[B] -> [B]`."""
        return add_angle(similarity, self.warm(self.margin), self.beyond_pi, self.margin_gradient)
