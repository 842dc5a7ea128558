"""Focal loss: samples that are already right count less."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from frtrain.losses.base import Head, Samples
from frtrain.modifiers.base import Modifier, loss_name, loss_under, require_cross_entropy


class Focal(Modifier):
    """Focal loss (Lin, Goyal, Girshick, He, Dollar, ICCV 2017, arXiv 1708.02002) on any cross-entropy.

        L = mean_i (1 - p_i)^gamma CE_i          p_i = exp(-CE_i)

    CE_i the loss of one sample, p_i the probability of its own class, after the margin. gamma 2 in the paper; 0 is off.
    Known trouble: cavaface and face.evoLVe apply it to the mean of a batch, which is another function. With a margin
    and s = 64, p is near 0 for most samples over most of the training, so the factor is near 1: it acts late.

    Args:
        inner: the loss.
        gamma: >= 0.

    Raises:
        ValueError: the loss is not a cross-entropy, or adds further terms to it.
    """

    def __init__(self, inner: Head[Any], gamma: float):
        super().__init__(inner)
        require_cross_entropy(inner, f"modifiers.focal_gamma={gamma}")
        if inner.terms:
            culprit = loss_name(inner) if loss_under(inner).terms else "modifiers.label_smoothing"
            raise ValueError(
                f"modifiers.focal_gamma={gamma}: needs the bare cross-entropy of a sample, and {culprit} adds terms to "
                "it; one of the two has to go"
            )
        self.gamma = gamma

    def sample_losses(self, losses: Tensor, samples: Samples) -> Tensor:
        """(1 - p)^gamma times what the inner head makes of the cross-entropy, `[B] -> [B]`."""
        # 1 - exp(-CE) would be 0 below 1e-7. At 0 itself, gamma < 1 has an infinite slope there, times a loss of 0.
        wrong = (-torch.expm1(-losses)).clamp(min=torch.finfo(losses.dtype).tiny)
        return wrong.pow(self.gamma) * self.inner.sample_losses(losses, samples)
