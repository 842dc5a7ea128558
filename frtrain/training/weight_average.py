"""An exponential moving average (EMA) of the backbone's weights, often better to verify with than the last ones."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from frtrain.training.gradients import local_part

UPDATES = "updates"
"""What the part `ema` of a checkpoint holds besides the state dict of a backbone."""


class WeightAverage:
    """average := d average + (1 - d) weight after every applied step, d = min(decay, (1 + n) / (10 + n)).

    n counts the applied steps before: the average follows the weights closely at first, so that it does not remember their
    random beginning (the warm-up of TensorFlow's ExponentialMovingAverage). The running statistics of batch norm are averaged
    alike, since they should describe what averaged weights compute; whole numbers are copied.

    Args:
        backbone: is copied; must not be wrapped or compiled yet.
        decay: the largest d.

    Attributes:
        module: the averaged backbone, in evaluation mode.
        updates: n, an `int64` scalar on the device.
    """

    def __init__(self, backbone: nn.Module, decay: float):
        self.decay = decay
        self.module = copy.deepcopy(backbone).requires_grad_(False).eval()
        self._backbone = backbone
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self.updates = torch.zeros((), dtype=torch.int64, device=next(backbone.parameters()).device)

    @torch.no_grad()
    def update(self, applied: Tensor) -> None:
        """Take in the weights and statistics of a step, unless it was skipped.

        Args:
            applied: bool scalar on the device. Weights and buffers of a skipped step must have been put back.
        """
        share = torch.where(applied, (9 / (10 + self.updates)).clamp(min=1 - self.decay), 0)  # 1 - d
        own, followed = zip(*(pair for pair in self.pairs() if pair[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(own, followed, [share.to(tensor.dtype) for tensor in own])
        for average, value in self.pairs():
            if not average.is_floating_point():
                average.copy_(value)
        self.updates += applied

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged backbone and `updates`, for a checkpoint; they share memory with the average."""
        return {**self.module.state_dict(), UPDATES: self.updates}

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Each averaged tensor with what it follows, this process's rows of them.

        Looked up when first asked for: by then both networks are divided among the processes, if they are to be.
        """
        if not self._pairs:
            followed = self._backbone.state_dict()
            self._pairs = [
                (local_part(own), local_part(followed[name])) for name, own in self.module.state_dict().items()
            ]
        return self._pairs

    @torch.no_grad()
    def begin(self) -> None:
        """Begin anew with the weights as they are."""
        for average, value in self.pairs():
            average.copy_(value)
        self.updates.zero_()
