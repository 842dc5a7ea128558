"""MagFace: the margin grows with the length of the embedding, which becomes a measure of quality."""

from __future__ import annotations

import logging
from typing import NamedTuple

from torch import Tensor

from frtrain.losses.angular import BeyondPi, MarginGradient, Radians, add_angle
from frtrain.losses.base import LOSSES, Head, Samples
from frtrain.schema import NonNegative, Positive

log = logging.getLogger(__name__)


class Magnitude(NamedTuple):
    """Per sample, the margin m(a), `[B]`; carries gradient to the length of the embedding."""

    margin: Tensor


@LOSSES.register("magface")
class MagFace(Head[Magnitude]):
    """MagFace (Meng, Zhao, Huang, Zhou, CVPR 2021, arXiv 2103.06627).

        a    = min(max(|x|, l_a), u_a)
        m(a) = l_m + K (a - l_a)              K = (u_m - l_m) / (u_a - l_a)
        g(a) = 1/a + a/u_a^2
        T(theta_y) = cos(theta_y + m(a))      the other classes: cos(theta_j)
        L = -log( exp(s T) / ( exp(s T) + sum_{j != y} exp(s cos theta_j) ) ) + lambda_g g(a)

    |x| length of the embedding. A longer one has to keep a larger margin, and g rewards length, so that only faces that
    are easy to recognise become long. m(a) is differentiated with respect to |x|.
    Defaults: s 64, l_a 10, u_a 110, l_m 0.45, u_m 0.8 radians, lambda_g 35, all from the authors' training script; the
    default of their argument parser, lambda_g 20, is below the bound s K u_a^2 l_a^2 / (u_a^2 - l_a^2) = 22.59, from
    which on g outweighs the cross-entropy at a = l_a, so that no face stays there. A value below is warned of.
    Known trouble: outside [l_a, u_a] the length gets no gradient at all, so the backbone must reach that range and must
    not end in a batch norm that fixes the length. To fine-tune a model with lengths near 1 the authors give l_a 1,
    u_a 51, l_m 0.45, u_m 1, lambda_g 5. Their code trains with `beyond_pi=easy`; half precision gave them NaN.

    Args:
        scale: s.
        shortest: l_a, length with the smallest margin.
        longest: u_a, length with the largest margin.
        smallest_margin: l_m in radians.
        largest_margin: u_m in radians.
        lambda_g: weight of g.
        beyond_pi: T where theta_y + m(a) > pi, see `frtrain.losses.angular.add_angle`.
        margin_gradient: gradient of T; `detached` also stops the one through m(a).

    Raises:
        ValueError: a lower end is not below its upper end.
    """

    geometry = "cosine"
    has_margin = True

    def __init__(
        self,
        scale: Positive,
        shortest: Positive,
        longest: Positive,
        smallest_margin: Radians,
        largest_margin: Radians,
        lambda_g: NonNegative,
        beyond_pi: BeyondPi,
        margin_gradient: MarginGradient,
    ):
        super().__init__(scale)
        if shortest >= longest:
            raise ValueError(f"loss.shortest={shortest} must be below loss.longest={longest}")
        if smallest_margin > largest_margin:
            raise ValueError(
                f"loss.smallest_margin={smallest_margin} must not be above loss.largest_margin={largest_margin}"
            )
        self.shortest = shortest
        self.longest = longest
        self.smallest_margin = smallest_margin
        self.largest_margin = largest_margin
        self.lambda_g = lambda_g
        self.beyond_pi = beyond_pi
        self.margin_gradient = margin_gradient

    def set_up(self, classes: int) -> None:
        """Warn of a weight of g below its bound."""
        if self.lambda_g < self.smallest_lambda_g:
            log.warning(
                "loss.lambda_g=%g is below %.2f = s K u_a^2 l_a^2 / (u_a^2 - l_a^2), from which on no face is held at "
                "the shortest length",
                self.lambda_g,
                self.smallest_lambda_g,
            )

    @property
    def slope(self) -> float:
        """K, radians per unit of length."""
        return (self.largest_margin - self.smallest_margin) / (self.longest - self.shortest)

    @property
    def smallest_lambda_g(self) -> float:
        """s K u_a^2 l_a^2 / (u_a^2 - l_a^2)."""
        longest, shortest = self.longest**2, self.shortest**2
        return self.scale * self.slope * longest * shortest / (longest - shortest)

    def row(self, samples: Samples) -> Magnitude:
        """m(a) of each sample."""
        grown = self.slope * (self.clipped(samples.norm) - self.shortest)
        return Magnitude(self.warm(1.0) * (self.smallest_margin + grown))

    def target(self, similarity: Tensor, row: Magnitude) -> Tensor:
        """cos(theta_y + m(a)), `[B] -> [B]`."""
        return add_angle(similarity, row.margin, self.beyond_pi, self.margin_gradient)

    def penalty(self, norm: Tensor) -> Tensor:
        """lambda_g g(a), `[B] -> [B]`."""
        return self.lambda_g * self.quality_term(norm)

    def diagnostics(self, row: Magnitude) -> dict[str, Tensor]:
        """`margin`: mean of m(a)."""
        return {"margin": row.margin}

    def quality_term(self, norm: Tensor) -> Tensor:
        """g(a) = 1/a + a/u_a^2, `[B] -> [B]`."""
        length = self.clipped(norm)
        return 1 / length + length / self.longest**2

    def clipped(self, norm: Tensor) -> Tensor:
        """a, `[B] -> [B]`."""
        return norm.clamp(self.shortest, self.longest)
