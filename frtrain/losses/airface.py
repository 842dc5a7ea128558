"""AirFace: softmax on angles, linear in them."""

from __future__ import annotations

import math

from torch import Tensor

from frtrain.losses.angular import Radians, angle
from frtrain.losses.base import LOSSES, Head, NoRow
from frtrain.schema import Positive


@LOSSES.register("airface")
class AirFace(Head[NoRow]):
    """AirFace, also Li-ArcFace (Li, Wang, Hu, Leng, ICCV workshops 2019, arXiv 1907.12256).

        T(theta_y) = (pi - 2 (theta_y + m)) / pi         N(theta_j) = (pi - 2 theta_j) / pi
        L = -log( exp(s T) / ( exp(s T) + sum_{j != y} exp(s N_j) ) )

    Logits are linear in the angle, from s at 0 to -s at pi, so T falls all the way and needs no rule beyond pi.
    Boundary between two classes: theta_2 - theta_1 = m, as for ArcFace.
    Defaults: s 64, m 0.45 (the authors, and every port).
    Known trouble: the gradient to the cosine, 2 s / (pi sin theta), grows without bound where an embedding meets a
    centre. It is bounded here at 45 s, see `frtrain.losses.angular.angle`; the angle then does not fall below 0.007.

    Args:
        scale: s.
        margin: m in radians.
    """

    geometry = "cosine"
    has_margin = True

    def __init__(self, scale: Positive, margin: Radians):
        super().__init__(scale)
        self.margin = margin

    def target(self, similarity: Tensor, row: NoRow) -> Tensor:
        """T(theta_y), `[B] -> [B]`."""
        return 1 - 2 / math.pi * (angle(similarity) + self.warm(self.margin))

    def others(self, similarity: Tensor, row: NoRow) -> Tensor:
        """N(theta_j), `[B, c] -> [B, c]`."""
        return 1 - 2 / math.pi * angle(similarity)
