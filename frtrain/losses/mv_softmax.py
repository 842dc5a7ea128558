"""MV-Softmax: SV-Softmax counted from 0, with a second way to weigh the mis-classified."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from frtrain.losses.angular import MarginGradient
from frtrain.losses.base import LOSSES
from frtrain.losses.cosface import CosineMargin
from frtrain.losses.sv_softmax import SVSoftmax
from frtrain.schema import NonNegative, NonNegativeInt, Positive


@LOSSES.register("mv_softmax")
class MVSoftmax(SVSoftmax):
    """MV-Softmax (Wang, Zhang, Wang, Fu, Shi, Mei, AAAI 2020, arXiv 1912.00833).

        L = -log( exp(s T) / ( exp(s T) + sum_{k != y} h_k exp(s cos theta_k) ) )
        mis-classified k, cos(theta_k) > T:      fixed     h_k = exp(s t)
                                                 adaptive  h_k = exp(s t (cos(theta_k) + 1))
        any other wrong class:                             h_k = 1

    T(theta_y) is the target after its margin: cos(theta_y) for `none`, cos(theta_y) - m for `am`, cos(theta_y + m) for
    `arc`; t >= 0, and t = 0 is the margin loss alone. Instead of a factor, the cosine itself is raised, which is equal
    and cannot overflow: `fixed` to cos(theta_k) + t, `adaptive` to (1 + t) cos(theta_k) + t. The gradient of L to the
    cosine of a mis-classified vector is s p_k for `fixed`, s (1 + t) p_k for `adaptive`.

    Adaptive is SV-Softmax with t_SV = 1 + t_MV: SV-Softmax of 2018 counts t from 1, this loss from 0.
    Defaults: adaptive, t 0.2, m 0.35, s 32 (the authors' code), m 0.5 for `arc`.
    Known trouble: that of SV-Softmax. FaceX-Zoo's `mv_weight` is a t_SV (its 1.12 is t 0.12 here), and its MV-AM,
    unlike the authors', spares targets with cos(theta_y) <= m.

    Args:
        scale: s.
        kind: how mis-classified vectors are weighed.
        margin_kind: which T.
        margin: m, a cosine for `am`, radians for `arc`, unused for `none`.
        t: weight of mis-classified vectors.
        t_warmup_steps: steps over which t grows linearly from 0; 0: none.
        easy_margin: where cos(theta_y) <= 0, train with cos(theta_y) instead of T, as the authors' code does by
            default; the formula has no such rule. The threshold stays T.
        beyond_pi: T of `arc` where theta_y + m > pi, see `frtrain.losses.angular.add_angle`. The authors' code: `none`.
        margin_gradient: gradient of T of `arc`.
    """

    def __init__(
        self,
        scale: Positive,
        kind: Literal["adaptive", "fixed"],
        margin_kind: Literal["none", "am", "arc"],
        margin: CosineMargin,
        t: NonNegative,
        t_warmup_steps: NonNegativeInt,
        easy_margin: bool,
        beyond_pi: Literal["continuous", "classic", "clip", "none"],
        margin_gradient: MarginGradient,
    ):
        super().__init__(scale, margin_kind, margin, 1 + t, t_warmup_steps, easy_margin, beyond_pi, margin_gradient)
        self.kind = kind

    def raised(self, similarity: Tensor) -> Tensor:
        """cos + t for `fixed`, (1 + t) cos + t for `adaptive`, `[B, c] -> [B, c]`."""
        return similarity + self.warm_excess() if self.kind == "fixed" else super().raised(similarity)
