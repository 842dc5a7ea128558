"""A factor on the loss that keeps float16 gradients from vanishing, found by trial."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

INITIAL = 2.0**16
GROWTH, BACKOFF = 2.0, 0.5
GROWTH_INTERVAL = 2000
"""Steps in a row without overflow after which the scale is tried at twice its value. All four are torch's defaults."""

SMALLEST = 1.0
"""A scale that sinks towards 0 would train nothing and say nothing; at 1, steps that overflow are skipped and told."""


class LossScale:
    """The rule of `torch.amp.GradScaler`: halve after a step that was not finite, double after 2000 that were.

    GradScaler judges each optimizer in each process by itself and waits for the device where the optimizer cannot skip. Here
    the verdict comes from the guard: one for all processes, which therefore keep the same scale, and it stays on the device.
    Powers of two, so that scaling rounds nothing.

    Args:
        device: of the loss.

    Attributes:
        scale: `float32` scalar on the device.
        clean_steps: `int32` scalar on the device, finite steps since the scale last changed.
    """

    def __init__(self, device: torch.device):
        self.scale = torch.full((), INITIAL, device=device)
        self.clean_steps = torch.zeros((), dtype=torch.int32, device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to call backward on."""
        return loss * self.scale.to(loss.dtype)

    @torch.no_grad()
    def unscale(self, gradients: Sequence[Tensor]) -> None:
        """Take the factor out of the gradients, in place."""
        if gradients:
            torch._foreach_mul_(list(gradients), self.scale.reciprocal())

    @torch.no_grad()
    def update(self, applied: Tensor) -> None:
        """Choose the scale of the next step.

        Args:
            applied: bool scalar on the device, whether the step was finite.
        """
        clean = torch.where(applied, self.clean_steps + 1, 0)
        due = clean >= GROWTH_INTERVAL
        grown = self.scale * GROWTH
        larger = torch.where(due & torch.isfinite(grown), grown, self.scale)
        smaller = (self.scale * BACKOFF).clamp(min=SMALLEST)
        self.scale.copy_(torch.where(applied, larger, smaller))
        self.clean_steps.copy_(torch.where(due, 0, clean))

    def state_dict(self) -> dict[str, Tensor]:
        """For a checkpoint; shares memory with the scale."""
        return {"scale": self.scale, "clean_steps": self.clean_steps}
