"""L2-Softmax: the linear classifier, on a sphere."""

from __future__ import annotations

import logging
import math
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor, nn

from frtrain.losses.base import LOSSES, Head, NoRow
from frtrain.losses.normface import SMALLEST_SCALE
from frtrain.schema import Positive

PUBLISHED_ALPHA = 28.0
"""From public code; what `alpha: null` gives for any number of identities met in practice."""

AMPLE_PROBABILITY = 0.99
"""The probability that the alpha of `alpha: null` can reach, whatever the number of classes."""

Probability = Annotated[float, Interval(gt=0, lt=1)]

logger = logging.getLogger(__name__)


def lower_bound(classes: int, probability: float) -> float:
    """The smallest alpha at which softmax can give the own class this probability.

    In the ideal arrangement of C unit centres one stands opposite, C - 2 at right angles, so that

        p = exp(alpha) / ( exp(alpha) + C - 2 + exp(-alpha) )

    of which this is the exact inverse. The paper drops exp(-alpha): alpha = log( p (C-2) / (1-p) ), less than 0.002
    away from C = 10 on.

    Args:
        classes: C, at least 2.
        probability: p.
    """
    crowd = probability * (classes - 2)
    root = math.sqrt(crowd * crowd + 4 * probability * (1 - probability))
    return math.log((crowd + root) / (2 * (1 - probability)))


@LOSSES.register("l2_softmax")
class L2Softmax(Head[NoRow]):
    """L2-constrained Softmax (Ranjan, Castillo, Chellappa 2017, arXiv 1703.09507).

        L = -log( exp(<w_y, f> + b_y) / sum_j exp(<w_j, f> + b_j) ),        f = alpha x / |x|

    x embedding, alpha the length it is given, w_j centre of class j as it is, b_j its bias. The centres are not
    normalised and the bias stays: that is the difference from NormFace. There is no margin; the boundary is that of
    softmax, on the sphere of radius alpha.
    Defaults: alpha fixed, max(28, alpha_low(C, 0.99)), the 28 from public code. alpha_low(C, p) is the smallest alpha
    at which the own class can have probability p among C, see `lower_bound`: 11.5 for p 0.9 and the 10 572 identities
    of CASIA-WebFace.
    Known trouble: an alpha below the bound cannot fit the training set, and a warning says so; 10, found in code for
    triplets, is too small from 2 450 identities on. Weight decay on the centres sets the effective scale. Some code of
    this name normalises the logits, or adds a penalty on the length: another loss.

    Args:
        alpha: length of the embedding, or its first value where it is learned; null: by the number of classes.
        learn_alpha: make alpha a parameter (a 0-dimensional tensor, so that weight decay can leave it out: decay would
            shrink it below the bound).
        probability: p of the bound below which alpha is warned of.
        bias: learn b_j; it starts at 0.
    """

    geometry = "inner_product"

    def __init__(self, alpha: Positive | None, learn_alpha: bool, probability: Probability, bias: bool):
        super().__init__()
        self.alpha = alpha
        self.probability = probability
        self.bias = bias
        self.length = alpha or PUBLISHED_ALPHA
        self.learned_length = nn.Parameter(torch.tensor(float(self.length))) if learn_alpha else None

    @torch.no_grad()
    def set_up(self, classes: int) -> None:
        """Choose alpha where it was left open, and warn where it is too small for so many classes."""
        if self.alpha is None:
            self.length = max(PUBLISHED_ALPHA, lower_bound(classes, AMPLE_PROBABILITY))
        if self.learned_length is not None:
            self.learned_length.fill_(self.length)
        bound = lower_bound(classes, self.probability)
        if self.length < bound:
            logger.warning(
                "loss.alpha=%g is below %.2f: with %d classes (C) the probability of the own class cannot reach "
                "%g (loss.probability); set loss.alpha to more than that, or to null",
                self.length, bound, classes, self.probability,
            )  # fmt: skip

    def embedding_length(self) -> float | Tensor:
        """alpha, a scalar tensor where it is learned; never below 0.01, so that it cannot turn negative."""
        return self.length if self.learned_length is None else self.learned_length.clamp(min=SMALLEST_SCALE)

    def target(self, similarity: Tensor, row: NoRow) -> Tensor:
        """z_y = <w_y, f> + b_y, `[B] -> [B]`."""
        return similarity

    def diagnostics(self, row: NoRow) -> dict[str, Tensor]:
        """`alpha`, where it is learned."""
        return {} if self.learned_length is None else {"alpha": self.learned_length}
