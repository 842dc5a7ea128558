"""Hard example mining: only the samples with the largest losses are learned from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from frtrain.losses.base import Head, Samples
from frtrain.modifiers.base import Modifier

PARTS = 1_000_000
"""The share is counted in millionths, in integers: in floating point 0.55 * 20 is more than 11."""


class HardMining(Modifier):
    """Online hard example mining (Shrivastava, Gupta, Girshick, CVPR 2016, arXiv 1604.03540) within a batch.

        L = mean of CE_i over the k samples with the largest CE_i          k = max(1, ceil(keep n))

    n samples of the (global) batch that have an identity. keep = 1 is the loss alone. Of equal losses, the earlier
    sample is kept. What a loss adds per sample besides (`penalty`, MagFace's g) stays a mean over all.
    Known trouble: mislabelled faces have the largest losses, so on noisy data this learns the noise. cavaface's version
    ranks a number that was already averaged, and so keeps everything.

    Args:
        inner: the loss.
        keep: share of the samples, in (0, 1].
    """

    def __init__(self, inner: Head[Any], keep: float):
        super().__init__(inner)
        self.keep = keep
        self._parts = round(keep * PARTS)

    def sample_losses(self, losses: Tensor, samples: Samples) -> Tensor:
        """n / k times the loss for the hardest k, 0 for the others, `[B] -> [B]`: their mean over n is L."""
        losses = self.inner.sample_losses(losses, samples)
        known = samples.known
        count = known.sum()
        kept = ((count * self._parts + PARTS - 1) // PARTS).clamp(min=1)
        hardness = torch.where(known, losses.detach(), -torch.inf)
        rank = hardness.argsort(descending=True, stable=True).argsort()
        return torch.where((rank < kept) & known, losses, 0) * (count / kept).to(losses.dtype)
