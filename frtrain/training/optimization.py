"""From gradients to weights: parameter groups, accumulation, clipping, and the guard against non-finite numbers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from frtrain.classifier.base import Classifier
from frtrain.errors import TrainingError
from frtrain.processes import ALONE, Processes
from frtrain.registry import Registry
from frtrain.schema import FractionBelowOne, NonNegative, Positive, PositiveInt
from frtrain.training.schedule import Schedule

log = logging.getLogger(__name__)

OPTIMIZERS: Registry[torch.optim.Optimizer] = Registry("optimizer")

ParameterGroups = list[dict[str, Any]]


@OPTIMIZERS.register("sgd")
def sgd(
    groups: ParameterGroups, lr: Positive, momentum: FractionBelowOne, nesterov: bool, weight_decay: NonNegative
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum: what the published margin-loss recipes use."""
    if nesterov and momentum == 0:
        raise ValueError("optimizer.nesterov=true needs optimizer.momentum > 0")
    return torch.optim.SGD(with_decay(groups, weight_decay), lr=lr, momentum=momentum, nesterov=nesterov)


@OPTIMIZERS.register("adamw")
def adamw(
    groups: ParameterGroups, lr: Positive, beta1: FractionBelowOne, beta2: FractionBelowOne, weight_decay: NonNegative
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    return torch.optim.AdamW(with_decay(groups, weight_decay), lr=lr, betas=(beta1, beta2))


def parameter_groups(modules: Mapping[str, nn.Module]) -> ParameterGroups:
    """Split trainable parameters into decayed ones and those without decay: norms, biases, slopes, all that is 1-D.

    Each group carries the parameters' full names, `<module>.<parameter>`, under `names`.
    """
    decayed: dict[str, Any] = {"params": [], "names": [], "decay": True}
    undecayed: dict[str, Any] = {"params": [], "names": [], "decay": False}
    for module_name, module in modules.items():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                group = decayed if parameter.ndim >= 2 else undecayed
                group["params"].append(parameter)
                group["names"].append(f"{module_name}.{name}")
    return [group for group in (decayed, undecayed) if group["params"]]


def with_decay(groups: ParameterGroups, weight_decay: float) -> ParameterGroups:
    """Give the groups marked `decay` this weight decay and the others none."""
    return [{**group, "weight_decay": weight_decay if group["decay"] else 0.0} for group in groups]


class Optimization:
    """Turns losses into updates; one object per run.

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
    ):
        self.optimizer = optimizer
        self.schedule = schedule
        self.accumulate = accumulate
        self.clip_norm = float("inf") if clip_norm is None else clip_norm
        self.max_skipped_in_a_row = max_skipped_in_a_row
        self.processes = processes
        self.divided, self.repeated = frozenset(divided), frozenset(repeated)
        self.skipped_in_a_row = 0
        self.learning_rate = 0.0
        self.gradient_norm = torch.zeros(())
        self._base_rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._parameters = {
            name: parameter
            for group in optimizer.param_groups
            for name, parameter in zip(group["names"], group["params"], strict=True)
        }
        # A classifier's state moves in `advance` alone, which a skipped step does not reach.
        self._buffers = [
            buffer for module in modules.values() if not isinstance(module, Classifier) for buffer in module.buffers()
        ]
        self._losses: list[torch.Tensor] = []
        self.remember_buffers()

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

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of `loss / accumulate`."""
        (loss / self.accumulate).backward()
        self._losses.append(loss.detach())

    def step(self, step: int) -> bool:
        """Clip, guard, and update the weights with the learning rate of `step` (0 for the first).

        Returns:
            Whether the weights were updated. A step with a non-finite loss or gradient is skipped: neither weights nor
            buffers (batch-norm statistics) keep anything of it.

        Raises:
            TrainingError: too many steps in a row were skipped; names the first non-finite tensor.
        """
        for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * self.schedule.factor(step)
        self.learning_rate = float(self.optimizer.param_groups[0]["lr"])
        gradients = {name: weight.grad for name, weight in self._parameters.items() if weight.grad is not None}
        self._repeat(gradients)
        self.gradient_norm, all_finite = self._norm(gradients)
        finite = bool(all_finite)
        if finite:
            with_gradient = [self._parameters[name] for name in gradients]
            nn.utils.clip_grads_with_norm_(with_gradient, self.clip_norm, self.gradient_norm)
            self.optimizer.step()
            self.skipped_in_a_row = 0
            self.remember_buffers()
        else:
            self._skip(step)
        self._losses.clear()
        self.optimizer.zero_grad(set_to_none=True)
        return finite

    def remember_buffers(self) -> None:
        """Take the modules' buffers as the state that a skipped step returns to."""
        self._good_buffers = [buffer.detach().clone() for buffer in self._buffers]

    def _repeat(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """Take process 0's gradients where all computed the same: some kernels of GPUs round differently each time."""
        if self.processes.count > 1:
            for name, gradient in gradients.items():
                if name in self.repeated:
                    dist.broadcast(gradient, src=0)

    def _norm(self, gradients: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """The norm of all gradients, each divided one counted once, and whether it and the losses are finite everywhere.

        All processes reckon with the same numbers, so that they agree to the last bit.
        """
        common = nn.utils.get_total_norm([value for name, value in gradients.items() if name not in self.divided])
        if self.processes.count == 1:
            return common, torch.isfinite(torch.stack([*self._losses, common])).all()
        own = nn.utils.get_total_norm([value for name, value in gradients.items() if name in self.divided])
        everyones = self.processes.stack(
            torch.stack([value.to(self._losses[0]) for value in (*self._losses, common, own)])
        )
        norm = torch.linalg.vector_norm(torch.cat([everyones[0, -2:-1], everyones[:, -1]]))
        return norm, torch.isfinite(everyones).all() & torch.isfinite(norm)

    def _skip(self, step: int) -> None:
        self.skipped_in_a_row += 1
        culprit = self._first_non_finite()
        if self.processes.rank == 0:
            log.warning(
                "step %d skipped: %s is not finite (%d in a row, the run stops at %d)",
                step + 1,
                culprit,
                self.skipped_in_a_row,
                self.max_skipped_in_a_row,
            )
        with torch.no_grad():
            for buffer, good in zip(self._buffers, self._good_buffers, strict=True):
                buffer.copy_(good)
        if self.skipped_in_a_row >= self.max_skipped_in_a_row:
            raise TrainingError(
                f"{self.skipped_in_a_row} steps in a row were not finite, the last at step {step + 1}; first bad tensor: "
                f"{culprit}. Usual remedies: a smaller optimizer.lr, a longer scheduler.warmup_epochs, a smaller loss.scale "
                "or margin, trainer.precision=fp32"
            )

    def _first_non_finite(self) -> str:
        """The first bad tensor of any process, in the order of `_suspects`."""
        suspects = list(self._suspects())
        bad = (number for number, (_, tensors) in enumerate(suspects) if not _all_finite(tensors))
        first = next(bad, len(suspects))
        first = -int(self.processes.maximum(torch.tensor(-first)))
        return suspects[first][0] if first < len(suspects) else "the norm of all gradients together"

    def _suspects(self) -> Iterator[tuple[str, list[torch.Tensor]]]:
        for name, parameter in self._parameters.items():
            yield f"the weight {name}", [parameter]
        yield "the loss", self._losses
        for name, parameter in self._parameters.items():
            yield f"the gradient of {name}", [] if parameter.grad is None else [parameter.grad]


def _all_finite(tensors: list[torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
