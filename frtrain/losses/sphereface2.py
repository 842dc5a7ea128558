"""SphereFace2: one binary classifier per identity instead of a softmax over all."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Interval, Lt
from torch import Tensor, nn

from frtrain.losses.angular import MarginGradient, add_angle, angle, with_slope_one
from frtrain.losses.base import LOSSES, Head, NoRow
from frtrain.losses.softplus import softplus
from frtrain.schema import AtLeastOne, Positive

Share = Annotated[float, Gt(0), Lt(1)]
Margin = Annotated[float, Interval(ge=0, le=10)]


@LOSSES.register("sphereface2")
class SphereFace2(Head[NoRow]):
    """SphereFace2 (Wen, Liu, Weller, Raj, Singh, ICLR 2022, arXiv 2108.01513).

        L = (lw / r) ( lambda log(1 + exp(-z_y)) + (1 - lambda) sum_{j != y} log(1 + exp(z_j)) )
        g(c) = 2 ((c + 1) / 2)^t - 1
        C    z_y = r (g(cos theta_y) - m) + b              z_j = r (g(cos theta_j) + m) + b
        A    z_y = r g(cos(min(theta_y + m, pi))) + b      z_j = r g(cos theta_j) + b
        M    z_y = r g(cos(min(m theta_y, pi))) + b        z_j = r g(cos theta_j) + b

    lambda weighs the one positive against the C - 1 negatives, g spreads similarities out, b is a bias that all classes
    share and that is learned. The authors write lw C / r times the mean over classes, which is the same.
    b starts where the gradients of the positive and of all negatives with respect to it cancel at cos = 0: for the
    defaults 5.58 with 10 572 classes. It has no dimension, so that weight decay can leave it out.
    Defaults: C, lambda 0.7, r 40, m 0.4, t 3, lw 50 (OpenSphere); its MS1M model has lambda 0.8, r 64, m 0.5.
    Known trouble: wespeaker's SphereFace2 has another convention (s 32, m 0.2, b from 0, no lw / r: here `scale=32
    margin=0.2 loss_weight=32 initial_bias=0`), and its A also moves the negatives, to theta_j - m. OpenSphere detaches
    g and the margin. The loss sums over all classes, so a sampled engine has to weigh the sampled ones.

    Args:
        scale: r.
        margin_kind: `C`, `A` or `M`.
        margin: m; a difference of similarities for C, radians for A, a factor >= 1 for M.
        positive_share: lambda.
        t: exponent of g; 1 leaves the cosine as it is.
        loss_weight: lw.
        initial_bias: first b; null for the closed form above.
        margin_gradient: `exact`, or `detached` as in OpenSphere: g and the margin shift the value only, dz/dcos = r.

    Raises:
        ValueError: a margin that its kind cannot have.
    """

    geometry = "cosine"
    reduction = "sum"
    has_margin = True

    def __init__(
        self,
        scale: Positive,
        margin_kind: Literal["C", "A", "M"],
        margin: Margin,
        positive_share: Share,
        t: AtLeastOne,
        loss_weight: Positive,
        initial_bias: float | None,
        margin_gradient: MarginGradient,
    ):
        super().__init__(scale)
        if margin_kind == "M" and margin < 1:
            raise ValueError(f"loss.margin={margin} is a factor on the angle with margin_kind=M: it must be at least 1")
        if margin_kind == "A" and margin > math.pi:
            raise ValueError(f"loss.margin={margin} is in radians with margin_kind=A: it must be at most pi")
        self.margin_kind = margin_kind
        self.margin = margin
        self.positive_share = positive_share
        self.t = t
        self.loss_weight = loss_weight
        self.initial_bias = initial_bias
        self.margin_gradient = margin_gradient
        self.shared_bias = nn.Parameter(torch.zeros(()))

    @torch.no_grad()
    def set_up(self, classes: int) -> None:
        """Put b where it starts."""
        self.shared_bias.fill_(self.balanced_bias(classes) if self.initial_bias is None else self.initial_bias)

    def balanced_bias(self, classes: int) -> float:
        """b at which the gradients of positive and negatives with respect to it cancel where all cosines are 0.

        With u and v the logits z_y and z_j without b, and q = lambda / ((1 - lambda) (C - 1)), exp(b) is the positive
        root of  e^u x^2 + (1 - q) x - q e^-v = 0.
        """
        at_zero = torch.zeros((), dtype=torch.float64)
        u, v = (self.scale * f(at_zero, self.margin).item() for f in (self.own_similarity, self.wrong_similarity))
        q = self.positive_share / ((1 - self.positive_share) * (classes - 1))
        root = math.hypot(1 - q, 2 * math.sqrt(q) * math.exp((u - v) / 2))
        ratio, shift = (2 * q / (1 - q + root), v) if q < 1 else ((q - 1 + root) / 2, u)
        if ratio <= 0:
            raise ValueError(
                f"loss.scale={self.scale} with loss.positive_share={self.positive_share} and {classes} classes leaves no "
                "balanced bias: lower the scale, or set loss.initial_bias"
            )
        return math.log(ratio) - shift

    def scale_of(self, row: NoRow) -> float:
        """lw / r: r itself is inside the logarithms."""
        return self.loss_weight / self.scale

    def target(self, similarity: Tensor, row: NoRow) -> Tensor:
        """lambda log(1 + exp(-z_y)), `[B] -> [B]`."""
        logit = self._logit(similarity, self.own_similarity(similarity, self._margin_now()))
        return self.positive_share * softplus(-logit)

    def others(self, similarity: Tensor, row: NoRow) -> Tensor:
        """(1 - lambda) log(1 + exp(z_j)), `[B, c] -> [B, c]`."""
        logit = self._logit(similarity, self.wrong_similarity(similarity, self._margin_now()))
        return (1 - self.positive_share) * softplus(logit)

    def diagnostics(self, row: NoRow) -> dict[str, Tensor]:
        """`bias`: b."""
        return {"bias": self.shared_bias.detach()}

    def own_similarity(self, cosine: Tensor, margin: float | Tensor) -> Tensor:
        """(z_y - b) / r, any shape."""
        if self.margin_kind == "C":
            return self.spread(cosine) - margin
        if self.margin_kind == "A":
            return self.spread(add_angle(cosine, margin, "clip", "exact"))
        return self.spread((margin * angle(cosine)).clamp(max=math.pi).cos())

    def wrong_similarity(self, cosine: Tensor, margin: float | Tensor) -> Tensor:
        """(z_j - b) / r, any shape."""
        return self.spread(cosine) + margin if self.margin_kind == "C" else self.spread(cosine)

    def spread(self, cosine: Tensor) -> Tensor:
        """g, any shape."""
        return 2 * ((cosine + 1) / 2).clamp(min=0) ** self.t - 1

    def _margin_now(self) -> float | Tensor:
        return 1 + self.warm(self.margin - 1) if self.margin_kind == "M" else self.warm(self.margin)

    def _logit(self, cosine: Tensor, margined: Tensor) -> Tensor:
        if self.margin_gradient == "detached":
            margined = with_slope_one(margined, cosine)
        return self.scale * margined + self.shared_bias
