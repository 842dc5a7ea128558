"""An exponential moving average (EMA) of the backbone's weights, often better to verify with than the last ones."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


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
        own, followed = self.module.state_dict(), backbone.state_dict()
        self._averaged = [name for name, tensor in own.items() if tensor.is_floating_point()]
        self._copied = [name for name in own if name not in self._averaged]
        self._own, self._followed = own, followed
        self.updates = torch.zeros((), dtype=torch.int64, device=next(iter(own.values())).device)

    @torch.no_grad()
    def update(self, applied: Tensor) -> None:
        """Take in the weights and statistics of a step, unless it was skipped.

        Args:
            applied: bool scalar on the device. Weights and buffers of a skipped step must have been put back.
        """
        share = torch.where(applied, (9 / (10 + self.updates)).clamp(min=1 - self.decay), 0)  # 1 - d
        own = [self._own[name] for name in self._averaged]
        followed = [self._followed[name] for name in self._averaged]
        torch._foreach_lerp_(own, followed, [share.to(tensor.dtype) for tensor in own])
        for name in self._copied:
            self._own[name].copy_(self._followed[name])
        self.updates += applied

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged backbone and `updates`, for a checkpoint; they share memory with the average."""
        return {**self._own, UPDATES: self.updates}

    @torch.no_grad()
    def begin(self) -> None:
        """Begin anew with the weights as they are."""
        for name, tensor in self._own.items():
            tensor.copy_(self._followed[name])
        self.updates.zero_()
