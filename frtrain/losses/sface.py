"""SFace: a pull and a push that fade out by themselves."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from frtrain.losses.angular import Radians, angle
from frtrain.losses.base import LOSSES, Head, Samples
from frtrain.schema import Positive


class Pull(NamedTuple):
    """Per sample, sigma(k (theta_y - a)), `[B]` in [0, 1], detached."""

    pull: Tensor


@LOSSES.register("sface")
class SFace(Head[Pull]):
    """SFace (Zhong, Deng, Hu, Zhao, Li, Wen, IEEE TIP 2021, arXiv 2205.12010).

        L = - [r_intra(theta_y)] cos(theta_y) + sum_{j != y} [r_inter(theta_j)] cos(theta_j)
        r_intra(theta) = s sigma(  k (theta - a) )       the pull to the own centre, gone when theta_y < a
        r_inter(theta) = s sigma( -k (theta - b) )       the push from a wrong one, gone when theta_j > b

    [ ] is a constant to the gradient (stop-gradient), sigma the logistic function, angles in radians. There is no
    softmax: classes do not compete, each is pulled or pushed until its own threshold. The gradient to the embedding is
    -r_intra grad cos(theta_y) + sum_j r_inter grad cos(theta_j); along the angle, pull and push have size r sin(theta).
    a and b are the angles at which pull and push are half of s: 49.8 and 68.8 degrees for 0.87 and 1.2.
    Defaults: s 64, k 80, a 0.87, b 1.2 (CASIA-WebFace); `loss=sface_vggface2` and `loss=sface_ms1m` have the authors' a
    and b for those data sets. Their training script starts from 0.80 and 1.23 if it is told nothing.
    Known trouble: the value says nothing about progress, it is often negative and may rise while errors fall; watch the
    two weights. Without the stop-gradient the value is the same and another loss is trained. The push is a sum over all
    classes, so a sampled engine has to weigh the classes it sees. At the start every wrong class is far above b: the
    faces first draw together, until some theta_j < b.

    Args:
        scale: s.
        k: slope of both sigmoids, per radian.
        a: angle to the own centre at which the pull is half.
        b: angle to a wrong centre at which the push is half.
    """

    geometry = "cosine"
    reduction = "sum"

    def __init__(self, scale: Positive, k: Positive, a: Radians, b: Radians):
        super().__init__(scale)
        self.k = k
        self.a = a
        self.b = b

    def row(self, samples: Samples) -> Pull:
        """The pull on each sample, as a share of s."""
        return Pull(torch.sigmoid(self.k * (angle(samples.similarity.detach()) - self.a)))

    def target(self, similarity: Tensor, row: Pull) -> Tensor:
        """-[r_intra / s] cos(theta_y), `[B] -> [B]`."""
        return -row.pull * similarity

    def others(self, similarity: Tensor, row: Pull) -> Tensor:
        """[r_inter / s] cos(theta_j), `[B, c] -> [B, c]`."""
        return self.push(similarity) * similarity

    def diagnostics(self, row: Pull) -> dict[str, Tensor]:
        """`intra_weight`: the mean pull, as a share of s."""
        return {"intra_weight": row.pull}

    def class_diagnostics(self, similarity: Tensor, row: Pull) -> dict[str, Tensor]:
        """`inter_weight`: the mean push, as a share of s."""
        return {"inter_weight": self.push(similarity)}

    def push(self, similarity: Tensor) -> Tensor:
        """sigma(-k (theta_j - b)), `[B, c] -> [B, c]` in [0, 1], detached."""
        return torch.sigmoid(self.k * (self.b - angle(similarity.detach())))
