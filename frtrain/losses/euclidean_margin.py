"""Margin Loss: a margin between squared distances to class centres."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from frtrain.losses.base import LOSSES, Head, Samples, SurveyKind
from frtrain.losses.softplus import softplus
from frtrain.schema import NonNegative, Positive

SURVEYS: Mapping[str, Mapping[str, SurveyKind]] = {
    "hinge": {"active": "sum"},
    "hardest": {"nearest": "max"},
    "smooth": {"crowd": "logsumexp"},
}
"""What each kind has to know of all wrong classes before it can judge one."""

LARGEST_EXPONENT = 1.0
"""Cut of the log of a wrong class's share, which is at most 0; only the own class, which nobody counts, is above."""


class Rivals(NamedTuple):
    """Per sample, `[B]` each: the similarity to the own class, which carries gradient, and what the survey found.

    That is, for `hinge` the number of wrong classes inside the margin, for `hardest` the similarity to the nearest one,
    for `smooth` the logsumexp over their logits; nothing (zeros) where there is no survey.
    """

    own: Tensor
    found: Tensor


@LOSSES.register("euclidean_margin", "margin_loss", "margin_loss_spl2018")
class EuclideanMargin(Head[Rivals]):
    """Margin Loss: Making Faces More Separable (IEEE Signal Processing Letters 2018): a reconstruction.

        L     = L_softmax + lambda L_M           (or L_M alone)
        hinge     L_M = (1/n) sum_{j != y} max( 0, d_y^2 - d_j^2 + m )       n: number of terms above 0 (or 1)
        hardest   L_M = max( 0, d_y^2 - min_{j != y} d_j^2 + m )
        smooth    L_M = log( 1 + sum_{j != y} exp( s (d_y^2 - d_j^2 + m) ) )

    d_j = |x - w_j|, x embedding, w_j centre of class j (a parameter), m a margin between squared distances. The
    authors' equations, values and code were not available: this is a reading of the abstract, which asks for Euclidean
    distances, a distance margin by which hard samples are told, and both pulling and pushing. Do not report it as their
    result. It is not the `MarginLoss` of pytorch-metric-learning (Wu et al. 2017), nor the Marginal Loss of 2017.

    L_softmax uses the same centres: its logits are -s d_j^2 / 2 = s (<x, w_j> - |w_j|^2 / 2) - s |x|^2 / 2, where the
    last term is the same for all classes and cancels. So it is a linear classifier whose bias is tied to its centre,
    and the boundary of two classes is the bisector of their centres; m shifts it, in parallel, by m / (2 |w_1 - w_2|).
    On the unit sphere (`normalised`), d^2 = 2 - 2 cos: L_softmax is NormFace with scale s, and the smooth L_M is
    CosFace with scale 2 s and margin m / 2.

    Defaults (no evidence): hinge over the active terms, m 1.0, or 0.8 on the sphere (NormFace's class-agent triplets),
    lambda 0.1, with softmax; s 1, or 30 on the sphere, where 1 would stall (see NormFace).
    Known trouble: free embeddings may lower the softmax by growing, against which m = 1 becomes small. Without softmax,
    all centres in one point is a solution, with loss m (C - 1), or m averaged, that only the margin repels. Two wrong
    classes exactly as near count both as the hardest. A sampled engine counts the hardest class that it draws once for
    each class that it stands for, so `hardest` weighs more there; `hinge` keeps its expectation; `smooth` without
    softmax is a cross-entropy of the sample.

    Args:
        kind: which L_M.
        normalised: distances between unit vectors instead of the embedding and centres as they are.
        margin: m, a difference of squared distances; null: 0.8 if `normalised`, else 1.
        average: `active`: divide the hinge by the number of its terms above 0 (a constant to the gradient); `none`: the
            plain sum. The other kinds have nothing to average.
        with_softmax: add L_softmax.
        weight: lambda, used with softmax only.
        scale: s, of all logits; null: 30 if `normalised`, else 1. Not used by `hinge` and `hardest` alone.
    """

    has_margin = True
    reconstructed = True

    def __init__(
        self,
        kind: Literal["hinge", "hardest", "smooth"],
        normalised: bool,
        margin: NonNegative | None,
        average: Literal["active", "none"],
        with_softmax: bool,
        weight: NonNegative,
        scale: Positive | None,
    ):
        if margin is None:
            margin = 0.8 if normalised else 1.0
        if scale is None:
            scale = 30.0 if normalised else 1.0
        super().__init__()
        self.geometry = "cosine" if normalised else "euclidean"
        # d^2 = constant - unit * similarity, so a margin of m on d^2 is one of m / unit on the similarity.
        self.unit = 2.0 if normalised else 1.0
        self.margin = margin / self.unit
        self.smooth_scale = scale * self.unit
        if with_softmax:
            self.reduction, self.scale = "cross_entropy", self.smooth_scale / 2
        elif kind == "smooth":
            self.reduction, self.scale = "cross_entropy", self.smooth_scale
        else:
            self.reduction = "sum"
        self.kind = kind
        self.with_softmax = self.terms = with_softmax
        self.weight = weight
        self.averages = kind == "hinge" and average == "active"
        if self.averages or kind == "hardest" or (kind == "smooth" and with_softmax):
            self.surveys = SURVEYS[kind]

    def survey(self, similarity: Tensor, samples: Samples) -> dict[str, Tensor]:
        """See `Rivals`."""
        if self.kind == "hinge":
            return {"active": self.is_inside(similarity, samples.similarity)}
        if self.kind == "hardest":
            return {"nearest": similarity}
        return {"crowd": self.smooth_scale * similarity}

    def row(self, samples: Samples) -> Rivals:
        """The similarity to the own class and what the survey found."""
        found = [samples.surveyed[name] for name in self.surveys]
        return Rivals(samples.similarity, found[0] if found else torch.zeros_like(samples.similarity))

    def target(self, similarity: Tensor, row: Rivals) -> Tensor:
        """The logit of L_softmax or of the smooth L_M, over the scale; 0 for the other kinds alone, `[B] -> [B]`."""
        if self.with_softmax:
            return similarity
        return self.lowered(similarity) if self.kind == "smooth" else torch.zeros_like(similarity)

    def others(self, similarity: Tensor, row: Rivals) -> Tensor:
        """The logits, over the scale; the terms of L_M for the other kinds alone, `[B, c] -> [B, c]`."""
        return similarity if self.with_softmax or self.kind == "smooth" else self.hinges(similarity, row)

    def target_term(self, similarity: Tensor, row: Rivals) -> Tensor:
        """What L_M adds besides the wrong classes, `[B] -> [B]`; see `other_terms`."""
        if self.kind != "smooth":
            return torch.zeros_like(similarity)
        value = softplus(row.found - self.smooth_scale * self.lowered(similarity))
        return self.weight * (value - self.push(row))

    def other_terms(self, similarity: Tensor, row: Rivals) -> Tensor:
        """L_M by wrong class, `[B, c] -> [B, c]`.

        The smooth L_M is a logsumexp, not a sum. But the survey knows its value, and its gradient to the logit of class
        j is push * p_j, the share p_j = exp(logit_j - crowd) with the crowd held constant. The sum of these has that
        gradient and the value `push`, which `target_term` takes off again.
        """
        if self.kind != "smooth":
            return self.weight * self.hinges(similarity, row)
        share = (self.smooth_scale * similarity - row.found[:, None]).clamp(max=LARGEST_EXPONENT).exp()
        return self.weight * self.push(row)[:, None] * share

    def class_diagnostics(self, similarity: Tensor, row: Rivals) -> dict[str, Tensor]:
        """`support_vectors`: the share of wrong classes inside the margin."""
        return {"support_vectors": self.is_inside(similarity, row.own)}

    def hinges(self, similarity: Tensor, row: Rivals) -> Tensor:
        """max(0, d_y^2 - d_j^2 + m), of the nearest or averaged if so asked, `[B, c] -> [B, c]`."""
        excess = self.unit * F.relu(similarity - self.lowered(row.own)[:, None])
        if self.kind == "hardest":
            return torch.where(similarity >= row.found[:, None], excess, 0.0)
        return excess / row.found.clamp(min=1)[:, None] if self.averages else excess

    def lowered(self, similarity: Tensor) -> Tensor:
        """-(d_y^2 + m) in units of similarity, elementwise."""
        return similarity - self.warm(self.margin)

    def is_inside(self, similarity: Tensor, own: Tensor) -> Tensor:
        """d_j^2 < d_y^2 + m, `[B, c] -> bool [B, c]`."""
        return similarity > self.lowered(own.detach())[:, None]

    def push(self, row: Rivals) -> Tensor:
        """Derivative of the smooth L_M to the crowd, `[B]`, detached."""
        return torch.sigmoid(row.found - self.smooth_scale * self.lowered(row.own.detach()))
