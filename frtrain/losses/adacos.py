"""AdaCos: softmax on cosines with a scale that sets itself."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from frtrain.losses.base import LOSSES, Head, Samples


class BatchScale(NamedTuple):
    """The scale of this step, the same for each sample, `[B]`, detached."""

    scale: Tensor


@LOSSES.register("adacos")
class AdaCos(Head[BatchScale]):
    """AdaCos (Zhang, Zhao, Qiao, Wang, Li, CVPR 2019, arXiv 1905.00292).

        fixed     s = sqrt(2) log(C - 1)
        dynamic   s = log(A) / cos( min(pi/4, median_i theta_{i,y}) )
                  A = mean_i sum_{j != y} exp(s' cos theta_{i,j}),  s' the scale of the step before
        L = -log( exp(s cos theta_y) / sum_j exp(s cos theta_j) )

    C number of classes, i samples of the (global) batch that have an identity; the median of an even number is the
    smaller angle of the middle two, as in `torch.median`. The first s' is the fixed scale. s is new in the step that
    finds it, and a constant to the gradient. There is no margin and nothing to set.
    Known trouble: with two classes the fixed scale is 0, and a small A makes the dynamic one negative; the scale is
    kept at that of three classes, 0.98, or above. Where embeddings collapse (all cosines near 1), every step adds
    log(C - 1) to the dynamic scale or multiplies it by up to sqrt(2). On a sample of the classes (Partial FC), A
    estimates the sum over all classes while the softmax runs over the sample, so s is a little larger than it needs.

    Args:
        mode: which scale.
    """

    geometry = "cosine"

    def __init__(self, mode: Literal["fixed", "dynamic"]):
        super().__init__()
        self.mode = mode
        if mode == "dynamic":
            self.surveys = {"log_sum": "logsumexp"}
            self.register_buffer("dynamic_scale", torch.ones(()))

    def set_up(self, classes: int) -> None:
        """The fixed scale, from which the dynamic one starts."""
        self.scale = fixed_scale(classes)
        if self.mode == "dynamic":
            self.get_buffer("dynamic_scale").fill_(self.scale)

    def survey(self, similarity: Tensor, samples: Samples) -> dict[str, Tensor]:
        """`log_sum`: s' cos, of which the log of the sum of exponentials is taken."""
        return {"log_sum": self.get_buffer("dynamic_scale") * similarity}

    def row(self, samples: Samples) -> BatchScale:
        """The scale; the next state is the scale used."""
        cosine = samples.similarity.detach()
        if self.mode == "fixed":
            return BatchScale(torch.full_like(cosine, self.scale))
        known = samples.known
        count = known.sum()
        log_sums = torch.where(known, samples.surveyed["log_sum"], -torch.inf)
        log_mean = log_sums.logsumexp(dim=0) - count.clamp(min=1).to(cosine.dtype).log()
        # cos falls with the angle: the median angle has the median cosine, and min(pi/4, .) becomes max(cos(pi/4), .).
        falling = torch.where(known, cosine, -torch.inf).sort(descending=True).values
        median = falling.gather(0, ((count - 1) // 2).clamp(min=0)[None]).squeeze(0)
        scale = (log_mean / median.clamp(math.cos(math.pi / 4), 1)).clamp(min=fixed_scale(3))
        scale = torch.where(known.any(), scale, self.get_buffer("dynamic_scale"))
        self.propose(dynamic_scale=scale)
        return BatchScale(scale.expand(len(cosine)))

    def scale_of(self, row: BatchScale) -> float | Tensor:
        """s, a scalar tensor where it is dynamic."""
        return self.scale if self.mode == "fixed" else row.scale[0]

    def target(self, similarity: Tensor, row: BatchScale) -> Tensor:
        """cos(theta_y), `[B] -> [B]`."""
        return similarity


def fixed_scale(classes: int) -> float:
    """sqrt(2) log(C - 1), with C at least 3."""
    return math.sqrt(2) * math.log(max(classes, 3) - 1)
