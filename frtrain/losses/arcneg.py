"""ArcNegFace: wrong classes weighted by how near their cosine is to the margined target."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from frtrain.losses.angular import BeyondPi, MarginGradient, Radians, add_angle
from frtrain.losses.base import LOSSES, Head, Samples
from frtrain.schema import Positive


class MarginedTarget(NamedTuple):
    """Per sample, the target after its margin, `[B]`, detached."""

    margined: Tensor


@LOSSES.register("arcneg")
class ArcNegFace(Head[MarginedTarget]):
    """ArcNegFace (Liu, Song, Zhang, Liu, Zhou, Yan, ICCV workshops 2019, arXiv 1909.00632).

        a = cos(theta_y + m)
        t_j = alpha exp( -(cos(theta_j) - a)^2 / 2 )          N_j = t_j cos(theta_j) + t_j - 1
        L = -log( exp(s a) / ( exp(s a) + sum_{j != y} exp(s N_j) ) )

    t_j is a constant, no gradient passes through it. It exceeds 1 for wrong classes within sqrt(2 log alpha) of a (0.6
    for alpha = 1.2): these weigh more, as the support vectors of SV-Softmax do; the rest, far easier or far harder,
    weigh less.
    Defaults: s 64, m 0.5, alpha 1.2 (all public transcriptions agree on alpha; one has m 0.3). They use the rule
    `classic` beyond pi.
    Known trouble: where a face is far from its own class (a near -1), mislabelled or just early in training, the wrong
    classes nearest to it are the ones that weigh less, down to t = 0.16 at cos(theta_j) = 1.

    Args:
        scale: s.
        margin: m in radians.
        alpha: largest weight t, at cos(theta_j) = a.
        beyond_pi: a where theta_y + m > pi, see `frtrain.losses.angular.add_angle`.
        margin_gradient: gradient of a as the target.
    """

    geometry = "cosine"
    has_margin = True

    def __init__(
        self, scale: Positive, margin: Radians, alpha: Positive, beyond_pi: BeyondPi, margin_gradient: MarginGradient
    ):
        super().__init__(scale)
        self.margin = margin
        self.alpha = alpha
        self.beyond_pi = beyond_pi
        self.margin_gradient = margin_gradient

    def row(self, samples: Samples) -> MarginedTarget:
        """a of each sample."""
        return MarginedTarget(self.margined(samples.similarity).detach())

    def target(self, similarity: Tensor, row: MarginedTarget) -> Tensor:
        """cos(theta_y + m), `[B] -> [B]`."""
        return self.margined(similarity)

    def others(self, similarity: Tensor, row: MarginedTarget) -> Tensor:
        """N_j, `[B, c] -> [B, c]`."""
        t = self.weight(similarity, row)
        return t * similarity + (t - 1)

    def class_diagnostics(self, similarity: Tensor, row: MarginedTarget) -> dict[str, Tensor]:
        """`t`: the mean weight of wrong classes."""
        return {"t": self.weight(similarity, row)}

    def margined(self, similarity: Tensor) -> Tensor:
        """a = cos(theta_y + m), `[B] -> [B]`."""
        return add_angle(similarity, self.warm(self.margin), self.beyond_pi, self.margin_gradient)

    def weight(self, similarity: Tensor, row: MarginedTarget) -> Tensor:
        """t_j, `[B, c] -> [B, c]`, detached."""
        return self.alpha * (-(similarity.detach() - row.margined[:, None]).square() / 2).exp()
