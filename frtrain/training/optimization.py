"""From gradients to weights: accumulation, scaling, clipping, and the guard against non-finite numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from frtrain.communication import COMMUNICATION
from frtrain.processes import ALONE, Processes
from frtrain.schema import PositiveInt
from frtrain.training.gradients import clip, local_part, measure
from frtrain.training.guard import STEPS_LATE, Buffers, Guard, Skip
from frtrain.training.loss_scale import LossScale
from frtrain.training.optimizers import set_momentum
from frtrain.training.schedule import Schedule
from frtrain.training.weight_average import WeightAverage


class Optimization:
    """Turns losses into updates; one object per run.

    Where the optimizer can skip a step on the device, nothing here waits for the device: see `frtrain.training.guard`.

    Args:
        modules: what is trained, by name (`backbone`, `classifier`).
        optimizer: built over `parameter_groups(modules)`.
        schedule: factor on every group's base learning rate, by step.
        accumulate: losses whose mean gradient makes a step.
        clip_norm: joint L2 norm that gradients are scaled down to; None: not.
        max_skipped_in_a_row: skipped steps after which `step` raises.
        processes: who trains together. All clip alike, and skip the same steps.
        divided: full names of the parameters of which each process has rows of its own.
        repeated: full names of those that each process computes the gradient of by itself, and alike.
        scaler: of the loss, for gradients in float16.
        average: of the backbone's weights.
        lag: steps after which it is read whether a step was skipped; None: as suits device and optimizer. Above 0 only with
            an optimizer that skips on the device.

    Attributes:
        learning_rate: of the last step and the first group.
        gradient_norm: of the last step, over all modules, before clipping; a scalar on the device.
        gradient_norms: the same by module.
        newly_skipped: steps that the last `step` found to be skipped: itself, or an earlier one, see `lag`.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        accumulate: PositiveInt,
        clip_norm: float | None,
        max_skipped_in_a_row: int,
        processes: Processes = ALONE,
        divided: Collection[str] = (),
        repeated: Collection[str] = (),
        scaler: LossScale | None = None,
        average: WeightAverage | None = None,
        lag: int | None = None,
    ):
        self.optimizer = optimizer
        self.schedule = schedule
        self.accumulate = accumulate
        self.clip_norm = float("inf") if clip_norm is None else clip_norm
        self.processes = processes
        self.divided, self.repeated = frozenset(divided), frozenset(repeated)
        self.scaler = scaler
        self.average = average
        self.learning_rate = 0.0
        self.gradient_norm = torch.zeros(())
        self.gradient_norms: dict[str, Tensor] = {}
        self.newly_skipped = 0
        self._base_rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._parameters = {
            name: parameter
            for group in optimizer.param_groups
            for name, parameter in zip(group["names"], group["params"], strict=True)
        }
        on_gpu = any(parameter.device.type == "cuda" for parameter in self._parameters.values())
        if lag is None:
            lag = STEPS_LATE if on_gpu and skips_on_device(optimizer) else 0
        self.guard = Guard(self._parameters, max_skipped_in_a_row, lag, processes)
        self._buffers = Buffers(modules.values())
        self._losses: list[Tensor] = []

    @property
    def named_parameters(self) -> Mapping[str, nn.Parameter]:
        """Everything that is optimized, by full name."""
        return self._parameters

    @property
    def due(self) -> bool:
        """Whether enough losses were accumulated for a step."""
        return len(self._losses) == self.accumulate

    @property
    def next_is_due(self) -> bool:
        """Whether the next loss completes a step."""
        return len(self._losses) + 1 == self.accumulate

    @property
    def skips(self) -> list[Skip]:
        """Steps that were found to be skipped, here or in an earlier step; whoever reads them may clear the list."""
        return self.guard.skips

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss / accumulate`."""
        part = loss / self.accumulate
        (part if self.scaler is None else self.scaler.scaled(part)).backward()
        self._losses.append(loss.detach())

    def step(self, step: int) -> Tensor:
        """Unscale, clip, guard, and update the weights with the learning rate of `step` (0 for the first).

        Returns:
            Whether the weights were updated, a bool scalar on the device: to look at it is to wait for the device. A step with
            a non-finite loss or gradient is skipped: neither weights nor buffers (batch-norm statistics) keep anything of it.

        Raises:
            TrainingError: too many steps in a row were skipped; names the first non-finite tensor.
        """
        self._set_rates(step)
        gradients = {name: weight.grad for name, weight in self._parameters.items() if weight.grad is not None}
        self._repeat(gradients)
        local = [local_part(gradient) for gradient in gradients.values()]
        if self.scaler is not None:
            self.scaler.unscale(local)
        measured = measure(gradients, self._losses, self.divided, self.processes)
        self.gradient_norm, self.gradient_norms = measured.norm, measured.norms
        applied = measured.finite
        self.guard.take(step + 1, list(gradients), measured, None if self.scaler is None else self.scaler.scale)
        if self.guard.lag:
            clip(local, measured.norm, self.clip_norm)
            self._update_unless(~applied)
            self._buffers.settle(applied)
        elif bool(applied):
            clip(local, measured.norm, self.clip_norm)
            self.optimizer.step()
            self._buffers.remember()
        else:
            self._buffers.restore()
        if self.average is not None:
            self.average.update(applied)
        if self.scaler is not None:
            self.scaler.update(applied)
        self._losses.clear()
        self.optimizer.zero_grad(set_to_none=True)
        self.newly_skipped = self.guard.read()
        return applied

    def settle(self) -> int:
        """Wait for the verdicts of all steps taken; returns how many were skipped that nobody was told of yet.

        Raises:
            TrainingError: as `step`.
        """
        return self.guard.read(leave=0)

    def remember_buffers(self) -> None:
        """Take the modules' buffers as the state that a skipped step returns to."""
        self._buffers.remember()

    def _set_rates(self, step: int) -> None:
        for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * self.schedule.factor(step)
        momentum = self.schedule.momentum(step)
        if momentum is not None:
            set_momentum(self.optimizer, momentum)
        self.learning_rate = float(self.optimizer.param_groups[0]["lr"])

    def _update_unless(self, found_inf: Tensor) -> None:
        """A step of the optimizer that does nothing where `found_inf`, a bool scalar on the device, is true."""
        for group in self.optimizer.param_groups:
            if group.get("momentum"):
                # torch's fused SGD takes fresh memory for the first momentum and does not fill it where it skips.
                for parameter in group["params"]:
                    if parameter.grad is not None and "momentum_buffer" not in self.optimizer.state[parameter]:
                        self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self.optimizer.found_inf = found_inf.float()  # type: ignore[attr-defined]
        self.optimizer.step()

    def _repeat(self, gradients: Mapping[str, Tensor]) -> None:
        """Take process 0's gradients where all computed the same: some kernels of GPUs round differently each time."""
        if self.processes.count > 1:
            for name, gradient in gradients.items():
                if name in self.repeated:
                    with COMMUNICATION.measured(gradient.device):
                        dist.broadcast(gradient, src=0)


def skips_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer heeds `found_inf`, a tensor on the device: torch's fused ones do."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))
