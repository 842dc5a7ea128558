"""ElasticFace: margins drawn anew for every sample."""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Interval
from torch import Tensor

from frtrain.losses.angular import BeyondPi, MarginGradient, add_angle
from frtrain.losses.base import LOSSES, Head, Samples
from frtrain.losses.cosface import CosineMargin
from frtrain.losses.noise import standard_normal
from frtrain.schema import Positive, Seed

Spread = Annotated[float, Interval(ge=0, le=1)]


class Elastic(NamedTuple):
    """Per sample, the margin of this step, `[B]`."""

    margin: Tensor


@LOSSES.register("elasticface")
class ElasticFace(Head[Elastic]):
    """ElasticFace (Boutros, Damer, Kirchbuchner, Kuijper, CVPR Workshops 2022, arXiv 2109.09416).

        arc  T(theta_y) = cos(theta_y + m_i)         cos  T(theta_y) = cos(theta_y) - m_i
        m_i ~ N(m, sigma), for each sample i of each step
        plus: the m_i of a batch are handed out by rank, the largest to the sample farthest from its centre
        L = -log( exp(s T) / ( exp(s T) + sum_{j != y} exp(s cos theta_j) ) )

    sigma = 0 is ArcFace or CosFace. m_i carries no gradient. The draw is a hash of (seed, step, place among the samples
    with an identity), see `frtrain.losses.noise`: the same on every rank, however the batch is split, and after a
    resume; a step that is repeated draws the same.
    Defaults: s 64; m 0.5 sigma 0.05 (arc), m 0.35 sigma 0.05 (cos); the plus variants have sigma 0.0175 (Arc+) and 0.02
    (Cos+), all from the authors' configurations (the class in their code has 0.0125).
    Known trouble: the authors' plus code sorts the margins and picks from them with the inverse of the ranking, so the
    hardest sample does not get the largest margin; `order` offers both. Their code has no rule beyond pi
    (`beyond_pi=none`). m_i may be negative in theory; of an angle, the part below 0 is cut off. With
    `trainer.accumulate` > 1 all batches of a step draw the same m_i, place by place.

    Args:
        scale: s.
        kind: `arc`, a margin on the angle, or `cos`, one on the cosine.
        margin: m, radians for `arc`, a cosine for `cos`.
        sigma: standard deviation of m_i, in the unit of m.
        plus: hand the drawn margins out by rank.
        order: of `plus`; `intended` as the paper says, `released` as the authors' code does.
        seed: of the draws.
        beyond_pi: T of `arc` where theta_y + m_i > pi, see `frtrain.losses.angular.add_angle`.
        margin_gradient: gradient of T of `arc`.
    """

    geometry = "cosine"
    has_margin = True

    def __init__(
        self,
        scale: Positive,
        kind: Literal["arc", "cos"],
        margin: CosineMargin,
        sigma: Spread,
        plus: bool,
        order: Literal["intended", "released"],
        seed: Seed,
        beyond_pi: BeyondPi,
        margin_gradient: MarginGradient,
    ):
        super().__init__(scale)
        self.kind = kind
        self.margin = margin
        self.sigma = sigma
        self.plus = plus
        self.order = order
        self.seed = seed
        self.beyond_pi = beyond_pi
        self.margin_gradient = margin_gradient
        self.count_steps()

    def row(self, samples: Samples) -> Elastic:
        """The margin of each sample at this step."""
        place = samples.known.cumsum(0) - 1
        noise = standard_normal(self.seed, self.get_buffer("step"), place, samples.similarity.dtype)
        margin = self.warm(self.margin) + self.warm(self.sigma) * noise
        if self.plus:
            margin = self.by_rank(margin, samples.similarity.detach(), samples.known, place)
        return Elastic(margin.clamp(0, math.pi) if self.kind == "arc" else margin)

    def target(self, similarity: Tensor, row: Elastic) -> Tensor:
        """cos(theta_y + m_i) or cos(theta_y) - m_i, `[B] -> [B]`."""
        if self.kind == "arc":
            return add_angle(similarity, row.margin, self.beyond_pi, self.margin_gradient)
        return similarity - row.margin

    def diagnostics(self, row: Elastic) -> dict[str, Tensor]:
        """`margin`: mean of the margins drawn."""
        return {"margin": row.margin}

    def by_rank(self, margin: Tensor, similarity: Tensor, known: Tensor, place: Tensor) -> Tensor:
        """The margins of the batch handed out anew, `[B] -> [B]`, among the samples with an identity alone.

        Args:
            margin: `[B]`, as drawn.
            similarity: `[B]`, to the own class.
            known: `bool [B]`, whether there is an identity.
            place: `int64 [B]`, which of the samples with an identity it is.
        """
        ascending = margin.where(known, torch.inf).sort().values
        nearest_first = similarity.where(known, -torch.inf).argsort(descending=True, stable=True)
        chosen = nearest_first.argsort() if self.order == "intended" else place[nearest_first][place.clamp(min=0)]
        return ascending[chosen.clamp(min=0)].where(known, margin)
