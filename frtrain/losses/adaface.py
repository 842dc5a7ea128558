"""AdaFace: the length of the embedding, as a measure of image quality, decides how the margin acts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from frtrain.losses.angular import BeyondPi, MarginGradient, add_angle, subtract_angle
from frtrain.losses.base import LOSSES, Head, Samples
from frtrain.losses.cosface import CosineMargin
from frtrain.schema import Fraction, NonNegative, Positive

SHORTEST, LONGEST = 1e-3, 100.0
"""Lengths are cut off here before any statistics, as in the authors' code."""
SMALLEST_SIGMA = 1e-3
"""Added to the standard deviation by the authors."""


class Quality(NamedTuple):
    """Per sample, its quality z in [-1, 1], `[B]`, detached."""

    z: Tensor


@LOSSES.register("adaface")
class AdaFace(Head[Quality]):
    """AdaFace (Kim, Jain, Liu, CVPR 2022, arXiv 2204.00964).

        z = clip( h (|x| - mu) / (sigma + 0.001), -1, 1 )
        T(theta_y) = cos(theta_y - m z) - (m + m z)          the other classes: cos(theta_j)
        L = -log( exp(s T) / ( exp(s T) + sum_{j != y} exp(s cos theta_j) ) )
        mu <- t_alpha mean(|x|) + (1 - t_alpha) mu,   sigma likewise, over the batch, before they are used

    |x| length of the embedding, within [0.001, 100]; z carries no gradient. A face of high quality (z = 1) is trained
    with cos(theta - m) - 2m, one of low quality (z = -1) with cos(theta + m), one between (z = 0) with cos(theta) - m.
    mean and sigma (of the sample, divided by n - 1) are over all faces of the global batch that have an identity, and
    stay as they are where there are fewer than two. theta_y - m z is not let below 0.
    Defaults: s 64, m 0.4, h 0.333, mu and sigma start at 20 and 100. t_alpha 0.01 is what the authors train with
    (`config.py`); the default of their `head.py`, 1.0, takes the statistics of each batch alone.
    Known trouble: the authors' statistics are those of one rank. With sigma from 100, z hardly leaves 0 for the first
    hundreds of steps, which begin as CosFace.

    Args:
        scale: s.
        margin: m, radians and a cosine at once.
        h: concentration; z reaches +-1 where |x| is 1/h standard deviations from the mean.
        t_alpha: weight of the batch in mu and sigma.
        beyond_pi: of T where theta_y - m z > pi, see `frtrain.losses.angular.add_angle`. The authors' code: `clip`.
        margin_gradient: gradient of T.
    """

    geometry = "cosine"
    has_margin = True
    mu: Tensor
    sigma: Tensor

    def __init__(
        self,
        scale: Positive,
        margin: CosineMargin,
        h: NonNegative,
        t_alpha: Fraction,
        beyond_pi: BeyondPi,
        margin_gradient: MarginGradient,
    ):
        super().__init__(scale)
        self.margin = margin
        self.h = h
        self.t_alpha = t_alpha
        self.beyond_pi = beyond_pi
        self.margin_gradient = margin_gradient
        self.register_buffer("mu", torch.tensor(20.0))
        self.register_buffer("sigma", torch.tensor(100.0))

    def row(self, samples: Samples) -> Quality:
        """z of each sample, with this batch in mu and sigma."""
        length = samples.norm.detach().clamp(SHORTEST, LONGEST)
        mu, sigma = self.mu, self.sigma
        if self.training:
            mu, sigma = self.moved(length, samples)
            self.propose(mu=mu, sigma=sigma)
        return Quality((self.h * (length - mu) / (sigma + SMALLEST_SIGMA)).clamp(-1, 1))

    def target(self, similarity: Tensor, row: Quality) -> Tensor:
        """cos(theta_y - m z) - (m + m z), `[B] -> [B]`."""
        margin = self.warm(self.margin)
        angle = margin * row.z
        away = add_angle(similarity, (-angle).clamp(min=0), self.beyond_pi, self.margin_gradient)
        nearer = subtract_angle(similarity, angle.clamp(min=0), self.margin_gradient)
        return torch.where(angle > 0, nearer, away) - (margin + angle)

    def diagnostics(self, row: Quality) -> dict[str, Tensor]:
        """`mu` and `sigma` before this step, and the mean of `z`."""
        return {"mu": self.mu, "sigma": self.sigma, "z": row.z}

    def moved(self, length: Tensor, samples: Samples) -> tuple[Tensor, Tensor]:
        """mu and sigma after the batch, from the lengths `[B]`."""
        mean = samples.mean(length)
        count = samples.known.sum()
        squares = torch.where(samples.known, (length - mean).square(), 0).sum()
        deviation = (squares / (count - 1).clamp(min=1)).sqrt()
        mu = self.t_alpha * mean + (1 - self.t_alpha) * self.mu
        sigma = self.t_alpha * deviation + (1 - self.t_alpha) * self.sigma
        return torch.where(count > 1, mu, self.mu), torch.where(count > 1, sigma, self.sigma)
