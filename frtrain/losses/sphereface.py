"""SphereFace, also known as A-Softmax: a multiplicative margin on the angle."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

import torch
from annotated_types import Interval
from torch import Tensor

from frtrain.losses.base import LOSSES, Head, Samples
from frtrain.schema import NonNegative, Positive


class Length(NamedTuple):
    """Per sample, the length of its embedding, `[B]`; carries gradient."""

    norm: Tensor


Multiplier = Annotated[int, Interval(ge=1, le=16)]
"""m; the cosine of m theta is a polynomial of degree m, and its slope m^2."""


@LOSSES.register("sphereface")
class SphereFace(Head[Length]):
    """SphereFace, A-Softmax (Liu, Wen, Yu, Li, Raj, Song, CVPR 2017, arXiv 1704.08063).

        psi(theta) = (-1)^k cos(m theta) - 2k          theta in [k pi/m, (k+1) pi/m], k = 0..m-1
        T(theta_y) = ( lambda cos(theta_y) + psi(theta_y) ) / (1 + lambda)
        lambda     = max( lambda_min, lambda_base (1 + gamma step)^-power )
        L = -log( exp(|x| T) / ( exp(|x| T) + sum_{j != y} exp(|x| cos theta_j) ) )

    |x| length of the embedding: centres are normalised, embeddings are not. psi falls monotonically from 1 to 1 - 2m.
    cos(m theta) is the Chebyshev polynomial of cos(theta), so no arccos is taken and the slope is at most m^2.
    Annealing starts near softmax and is this loss's way of warming its margin up; lambda_base = lambda_min = 0 turns it
    off. m = 1 is softmax on normalised centres without bias, or NormFace where `scale` is given.
    Defaults: m 4, lambda_base 1000, gamma 0.12, power 1, lambda_min 5, all released with the authors' code, which
    trains CASIA-WebFace in 28 000 steps. The repository of SV-X-Softmax has gamma 1e-4, power 2, and s 32 for |x|.
    Known trouble: with lambda_min = 5 psi is never more than a sixth of the target. The released backward pass is not
    the gradient of this formula (it rescales the gradients of embedding and centre); ours is. With |x| kept, the loss
    may fall by lengthening embeddings, as with softmax.

    Args:
        scale: s in the place of |x|; null keeps |x|.
        margin: m.
        lambda_base: lambda at the first step.
        gamma: how fast lambda falls.
        power: how it falls.
        lambda_min: below which it does not fall.
    """

    geometry = "cosine"

    def __init__(
        self,
        scale: Positive | None,
        margin: Multiplier,
        lambda_base: NonNegative,
        gamma: NonNegative,
        power: NonNegative,
        lambda_min: NonNegative,
    ):
        super().__init__(1.0 if scale is None else scale)
        self.keeps_length = scale is None
        self.margin = margin
        self.lambda_base = lambda_base
        self.gamma = gamma
        self.power = power
        self.lambda_min = lambda_min
        self.count_steps()

    @property
    def annealing(self) -> Tensor:
        """lambda at this step, a scalar."""
        step = self.get_buffer("step").float()
        return (self.lambda_base * (1 + self.gamma * step) ** -self.power).clamp(min=self.lambda_min)

    def row(self, samples: Samples) -> Length:
        """The length of each embedding."""
        return Length(samples.norm)

    def scale_of(self, row: Length) -> float | Tensor:
        """|x| of each sample, or s."""
        return row.norm if self.keeps_length else self.scale

    def target(self, similarity: Tensor, row: Length) -> Tensor:
        """(lambda cos(theta_y) + psi(theta_y)) / (1 + lambda), `[B] -> [B]`."""
        annealing = self.annealing
        return (annealing * similarity + self.psi(similarity)) / (1 + annealing)

    def diagnostics(self, row: Length) -> dict[str, Tensor]:
        """`lambda` of this step."""
        return {"lambda": self.annealing}

    def psi(self, cosine: Tensor) -> Tensor:
        """(-1)^k cos(m theta) - 2k, any shape. The comparisons that count k have no gradient."""
        sign, twice_k = torch.ones_like(cosine), torch.zeros_like(cosine)
        for passed in range(1, self.margin):
            beyond = cosine < math.cos(passed * math.pi / self.margin)
            sign = torch.where(beyond, -sign, sign)
            twice_k = twice_k + 2 * beyond
        return sign * chebyshev(cosine, self.margin) - twice_k


def chebyshev(cosine: Tensor, degree: int) -> Tensor:
    """cos(n theta) as a polynomial of cos(theta), any shape, for n = `degree` >= 1."""
    lower, upper = torch.ones_like(cosine), cosine
    for _ in range(degree - 1):
        lower, upper = upper, 2 * cosine * upper - lower
    return upper
