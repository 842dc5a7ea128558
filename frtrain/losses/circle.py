"""Circle loss between an embedding and the class centres."""

from __future__ import annotations

from torch import Tensor

from frtrain.losses.base import LOSSES, Head, NoRow
from frtrain.schema import Fraction, Positive


@LOSSES.register("circle")
class Circle(Head[NoRow]):
    """Circle loss, class-level form (Sun, Cheng, Zhang, Zhang, Zheng, Wang, Wei, CVPR 2020, arXiv 2002.10857).

        z_y = gamma a_y (cos(theta_y) - (1 - m))         a_y = max(1 + m - cos(theta_y), 0)
        z_j = gamma a_j (cos(theta_j) - m)               a_j = max(cos(theta_j) + m, 0)
        L = -log( exp(z_y) / ( exp(z_y) + sum_{j != y} exp(z_j) ) ) = softplus( log sum_{j != y} exp(z_j) - z_y )

    The weights a are constants, no gradient passes through them: a similarity far from its optimum (1 + m for the own
    class, -m for the others) is pulled harder. Boundary between two classes: a circle of radius sqrt(2) m around the
    optimum, cos(theta_2)^2 + (1 - cos(theta_1))^2 = 2 m^2. So m relaxes: the *smaller* it is, the stricter the loss,
    and growing it from 0 would be no warm-up.
    Defaults: gamma 256, m 0.25 (the paper, for faces); FaceX-Zoo trains with gamma 64.
    Known trouble: logits reach -3.9 gamma, about -1008. A class with cos(theta_j) < -m has the logit 0 and no gradient,
    while classes between -m and m lie a little below 0, so the value of the loss says little. Pairwise versions (over
    all pairs of a batch) are other losses.

    Args:
        scale: gamma.
        relaxation: m.
    """

    geometry = "cosine"

    def __init__(self, scale: Positive, relaxation: Fraction):
        super().__init__(scale)
        self.relaxation = relaxation

    def target(self, similarity: Tensor, row: NoRow) -> Tensor:
        """z_y / gamma, `[B] -> [B]`."""
        m = self.relaxation
        weight = (1 + m - similarity.detach()).clamp(min=0)
        return weight * (similarity - (1 - m))

    def others(self, similarity: Tensor, row: NoRow) -> Tensor:
        """z_j / gamma, `[B, c] -> [B, c]`."""
        m = self.relaxation
        weight = (similarity.detach() + m).clamp(min=0)
        return weight * (similarity - m)
