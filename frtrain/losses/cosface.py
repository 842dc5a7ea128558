"""CosFace, also known as AM-Softmax: an additive margin on the cosine."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Interval
from torch import Tensor

from frtrain.losses.base import LOSSES, Head, NoRow
from frtrain.schema import Positive

CosineMargin = Annotated[float, Interval(ge=0, le=2)]


@LOSSES.register("cosface", "am_softmax")
class CosFace(Head[NoRow]):
    """CosFace (Wang et al., CVPR 2018, arXiv 1801.09414); AM-Softmax (Wang et al., SPL 2018, arXiv 1801.05599).

        T(theta_y) = cos(theta_y) - m            the other classes: cos(theta_j)
        L = -log( exp(s T) / ( exp(s T) + sum_{j != y} exp(s cos theta_j) ) )

    Boundary between two classes: cos(theta_1) - m = cos(theta_2). m = 0 is NormFace with a fixed scale.
    Defaults: s 64, m 0.35 (CosFace); AM-Softmax has s 30, m 0.35; InsightFace trains most of its models with m 0.40.
    Known trouble: s = 64 can be too much for a few hundred identities; lower it before the margin.

    Args:
        scale: s.
        margin: m, a difference of cosines.
    """

    geometry = "cosine"
    has_margin = True

    def __init__(self, scale: Positive, margin: CosineMargin):
        super().__init__(scale)
        self.margin = margin

    def target(self, similarity: Tensor, row: NoRow) -> Tensor:
        """cos(theta_y) - m, `[B] -> [B]`."""
        return similarity - self.warm(self.margin)
