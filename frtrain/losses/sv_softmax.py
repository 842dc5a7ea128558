"""SV-Softmax: support vectors, the wrong classes that come too near, weigh more."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from frtrain.losses.angular import MarginGradient, add_angle
from frtrain.losses.base import LOSSES, Head, Samples
from frtrain.losses.cosface import CosineMargin
from frtrain.schema import AtLeastOne, NonNegativeInt, Positive


class Threshold(NamedTuple):
    """Per sample, the cosine above which a wrong class is a support vector, `[B]`, detached."""

    threshold: Tensor


@LOSSES.register("sv_softmax")
class SVSoftmax(Head[Threshold]):
    """SV-Softmax and SV-X-Softmax (Wang et al. 2018, arXiv 1812.11317).

        T(theta_y) = cos(theta_y) (none),   cos(theta_y) - m (am),   cos(theta_y + m) (arc)
        N(theta_k) = t cos(theta_k) + t - 1       where cos(theta_k) > T(theta_y), a support vector
                     cos(theta_k)                 elsewhere
        L = -log( exp(s T) / ( exp(s T) + sum_{k != y} exp(s N(theta_k)) ) )

    t >= 1; t = 1 is the margin loss alone. Raising the cosine of a support vector multiplies exp(s cos(theta_k)) by the
    paper's h = exp(s (t-1) (cos(theta_k) + 1)), but cannot overflow.

    The gradient of L to the cosine of a support vector is s t p_k, to another wrong class s p_k.
    Defaults: t 1.2 (an author: more is hard to converge, 1.4 may fail), m 0.35 for `am` (0.5 for `arc`), s 32.
    MV-Softmax (AAAI 2020) counts t from 0: its adaptive form with t = 0.2 is this loss with t = 1.2.
    Known trouble: early on nearly every class is a support vector; where it does not converge, start from a model
    trained with t = 1. The mask is a hard switch, so rounding (bfloat16 cosines) flips borderline classes.

    Args:
        scale: s.
        margin_kind: which T.
        margin: m, a cosine for `am`, radians for `arc`, unused for `none`.
        t: weight of support vectors.
        t_warmup_steps: steps over which t grows linearly from 1; 0: none.
        easy_margin: where cos(theta_y) <= 0, train with cos(theta_y) instead of T, as the authors' later code does by
            default; the formula has no such rule. The threshold stays T.
        beyond_pi: T of `arc` where theta_y + m > pi, see `frtrain.losses.angular.add_angle`. The authors' code: `none`.
        margin_gradient: gradient of T of `arc`.
    """

    geometry = "cosine"
    has_margin = True

    def __init__(
        self,
        scale: Positive,
        margin_kind: Literal["none", "am", "arc"],
        margin: CosineMargin,
        t: AtLeastOne,
        t_warmup_steps: NonNegativeInt,
        easy_margin: bool,
        beyond_pi: Literal["continuous", "classic", "clip", "none"],
        margin_gradient: MarginGradient,
    ):
        super().__init__(scale)
        self.margin_kind = margin_kind
        self.margin = margin
        self.excess = t - 1
        self.t_warmup_steps = t_warmup_steps
        if t_warmup_steps:
            self.count_steps()
        self.easy_margin = easy_margin
        self.beyond_pi = beyond_pi
        self.margin_gradient = margin_gradient

    def row(self, samples: Samples) -> Threshold:
        """The threshold T of each sample, without the exemption of `easy_margin`."""
        return Threshold(self.margined(samples.similarity).detach())

    def target(self, similarity: Tensor, row: Threshold) -> Tensor:
        """T, or cos(theta_y) where `easy_margin` exempts the sample, `[B] -> [B]`."""
        margined = self.margined(similarity)
        return torch.where(similarity > 0, margined, similarity) if self.easy_margin else margined

    def others(self, similarity: Tensor, row: Threshold) -> Tensor:
        """t cos + t - 1 for support vectors, cos for the rest, `[B, c] -> [B, c]`."""
        return torch.where(self.is_support_vector(similarity, row), self.raised(similarity), similarity)

    def class_diagnostics(self, similarity: Tensor, row: Threshold) -> dict[str, Tensor]:
        """`support_vectors`: the share of wrong classes that are one."""
        return {"support_vectors": self.is_support_vector(similarity, row)}

    def margined(self, similarity: Tensor) -> Tensor:
        """T(theta_y), `[B] -> [B]`."""
        if self.margin_kind == "am":
            return similarity - self.warm(self.margin)
        if self.margin_kind == "arc":
            return add_angle(similarity, self.warm(self.margin), self.beyond_pi, self.margin_gradient)
        return similarity

    def raised(self, similarity: Tensor) -> Tensor:
        """What becomes of the cosine of a support vector, `[B, c] -> [B, c]`."""
        excess = self.warm_excess()
        return similarity + excess * (similarity + 1)

    def warm_excess(self) -> float | Tensor:
        """t - 1 as it is at this step."""
        return self.excess * self.progress(self.t_warmup_steps) if self.t_warmup_steps else self.excess

    def is_support_vector(self, similarity: Tensor, row: Threshold) -> Tensor:
        """cos(theta_k) > T, strictly, `[B, c] -> bool [B, c]`; says nothing about the target column."""
        return similarity > row.threshold[:, None]
