"""SphereFace-R: SphereFace revived, with real margins and three ways to place them."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from annotated_types import Interval
from torch import Tensor

from frtrain.losses.angular import MarginGradient, angle, with_slope_one
from frtrain.losses.base import LOSSES, Head, Samples
from frtrain.losses.sphereface import Length
from frtrain.schema import NonNegative, Positive

Multiple = Annotated[float, Interval(ge=1, le=10)]


@LOSSES.register("sphereface_r")
class SphereFaceR(Head[Length]):
    """SphereFace-R (Liu, Wen, Raj, Singh, Weller, TPAMI 2022, arXiv 2109.05565).

        v0   T = (-1)^k cos(m theta_y) - 2k, k = floor(m theta_y / pi)         N = cos(theta_j)
        v1   T = cos( min(m theta_y, pi) )                                     N = cos(theta_j)
        v2   T = cos(theta_y)                                                  N = cos(theta_j / m)
        L = (lw / s) * -log( exp(S T) / ( exp(S T) + sum_{j != y} exp(S N(theta_j)) ) )   [ + t | |x| - s | ]

    theta_y and theta_j angles to the own and a wrong class. S is s with `hard` normalisation of the embedding, and its
    length |x| with `soft` and `none`; the term in brackets belongs to `soft`. m = 1 is NormFace, times lw / s.
    Defaults: v2, hard, s 30, m 1.5, lw 50, t 0.01 (OpenSphere); its VGGFace2 model has s 60, m 1.4.
    Known trouble: `soft` and `none` are untested by the authors. v1 has no exact gradient where m theta_y > pi. v2
    takes the arccos of every cosine, which costs. lw / s multiplies the cross-entropy, not the term of `soft`; the
    authors' formula does not settle it.

    Args:
        scale: s.
        version: `v0`, `v1` or `v2`.
        margin: m >= 1.
        normalisation: of the embedding: `hard`, `soft` or `none`.
        softness: t, weight of the distance of |x| from s.
        loss_weight: lw.
        margin_gradient: of T (v0, v1) or N (v2): `exact`, or `detached` as in OpenSphere, where the margin shifts the
            value only.
    """

    geometry = "cosine"
    has_margin = True

    def __init__(
        self,
        scale: Positive,
        version: Literal["v0", "v1", "v2"],
        margin: Multiple,
        normalisation: Literal["hard", "soft", "none"],
        softness: NonNegative,
        loss_weight: Positive,
        margin_gradient: MarginGradient,
    ):
        super().__init__(scale)
        self.version = version
        self.margin = margin
        self.normalisation = normalisation
        self.softness = softness
        self.loss_weight = loss_weight
        self.margin_gradient = margin_gradient

    def row(self, samples: Samples) -> Length:
        """The length of each embedding."""
        return Length(samples.norm)

    def scale_of(self, row: Length) -> float | Tensor:
        """s, or |x| of each sample."""
        return self.scale if self.normalisation == "hard" else row.norm

    def target(self, similarity: Tensor, row: Length) -> Tensor:
        """T, `[B] -> [B]`."""
        if self.version == "v2":
            return similarity
        multiplied = self.multiple * angle(similarity)
        if self.version == "v1":
            margined = multiplied.clamp(max=math.pi).cos()
        else:
            k = (multiplied.detach() / math.pi).floor()
            margined = (1 - 2 * k.remainder(2)) * multiplied.cos() - 2 * k
        return self._with_gradient(margined, similarity)

    def others(self, similarity: Tensor, row: Length) -> Tensor:
        """N, `[B, c] -> [B, c]`."""
        if self.version != "v2":
            return similarity
        return self._with_gradient((angle(similarity) / self.multiple).cos(), similarity)

    def penalty(self, norm: Tensor) -> Tensor | None:
        """t | |x| - s | of `soft`, `[B] -> [B]`."""
        return self.softness * (norm - self.scale).abs() if self.normalisation == "soft" else None

    def sample_losses(self, losses: Tensor, samples: Samples) -> Tensor:
        """Times lw / s, `[B] -> [B]`."""
        return losses * (self.loss_weight / self.scale)

    @property
    def multiple(self) -> float | Tensor:
        """m as it is at this step; grows from 1 where margins warm up."""
        return 1 + self.warm(self.margin - 1)

    def _with_gradient(self, margined: Tensor, similarity: Tensor) -> Tensor:
        return with_slope_one(margined, similarity) if self.margin_gradient == "detached" else margined
