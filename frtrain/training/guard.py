"""The guard against non-finite numbers: a step that is not finite leaves no trace, and too many of them end the run.

The decision falls on the device that computes. Where it is a GPU, the host does not wait for it: optimizer, buffers, state of
the loss and averaged weights put themselves back on the device, and the host reads a few steps later what happened.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from frtrain.classifier.base import Classifier
from frtrain.errors import TrainingError
from frtrain.processes import ALONE, Processes
from frtrain.training.gradients import EVERYWHERE, THE_LOSS, Measured, local_part

log = logging.getLogger(__name__)

STEPS_LATE = 2
"""After so many further steps the host reads a verdict of a GPU. The device is by then done with the step, as a rule, so nobody
waits; if it is not, the host is held so that it runs no further ahead."""


@dataclass(frozen=True)
class Skip:
    """A step that changed nothing.

    Attributes:
        step: its number, from 1.
        culprit: the first tensor that was not finite, in words.
        overflow: whether it is a gradient of a scaled loss, and a smaller scale may be all that it needs.
    """

    step: int
    culprit: str
    overflow: bool = False


@dataclass(frozen=True)
class _Verdict:
    """What became of a step, on its way to the host: `[first_bad, rank, scale]`."""

    step: int
    names: Sequence[str]
    values: Tensor
    arrival: Any

    def read(self) -> tuple[int, int, float]:
        if self.arrival is not None:
            self.arrival.synchronize()
        first_bad, rank, scale = self.values.tolist()
        return int(first_bad), int(rank), scale


class Guard:
    """Takes the verdict of each step, and reads it at once or some steps later.

    Args:
        weights: all that is optimized, by full name, for the name of the first bad one.
        patience: skipped steps in a row after which the run ends.
        lag: steps after which a verdict is read; 0: at once.
        processes: who trains together; all read the same verdict in the same step.

    Attributes:
        skips: steps that were found to be skipped; whoever reads them may clear the list.
        in_a_row: the newest of them, without one that was applied between.
        began: whether any step of the run was applied. Until then skipped steps that only lower a loss scale do not count
            as steps in a row: it starts high on purpose.
    """

    def __init__(self, weights: Mapping[str, Tensor], patience: int, lag: int = 0, processes: Processes = ALONE):
        self.weights = weights
        self.patience = patience
        self.lag = lag
        self.processes = processes
        self.skips: list[Skip] = []
        self.in_a_row = 0
        self.began = False
        self._pending: deque[_Verdict] = deque()

    def take(self, step: int, names: Sequence[str], measured: Measured, scale: Tensor | None) -> None:
        """Send the verdict of a step on its way.

        Args:
            step: from 1.
            names: of the gradients, in the order of `measured`.
            measured: what was found.
            scale: of the loss, if it was scaled.
        """
        first_bad = measured.first_bad.float()
        scaled = torch.zeros_like(first_bad) if scale is None else scale.to(first_bad)
        values = torch.stack([first_bad, measured.rank.to(first_bad), scaled])
        arrival = None
        if values.device.type == "cuda":
            values = values.to("cpu", non_blocking=True)  # into pinned memory
            arrival = torch.cuda.Event()
            arrival.record()
        self._pending.append(_Verdict(step, names, values, arrival))

    def read(self, leave: int | None = None) -> int:
        """Read the verdicts that are due, in every process the same; returns how many steps were found to be skipped.

        Args:
            leave: how many of the newest are left for later; None: as many as `lag`.

        Raises:
            TrainingError: too many steps in a row were skipped; names the first non-finite tensor.
        """
        skipped = 0
        while len(self._pending) > (self.lag if leave is None else leave):
            verdict = self._pending.popleft()
            first_bad, rank, scale = verdict.read()
            if first_bad < 0:
                self.in_a_row, self.began = 0, True
            else:
                skipped += 1
                self._skipped(verdict, first_bad, rank, scale)
        return skipped

    def _skipped(self, verdict: _Verdict, first_bad: int, rank: int, scale: float) -> None:
        culprit = self._culprit(verdict.names, first_bad, rank)
        overflow = scale > 1 and first_bad != THE_LOSS
        self.skips.append(Skip(verdict.step, culprit, overflow))
        first = self.processes.rank == 0
        if overflow and not self.began:
            if first:
                log.info(
                    "step %d skipped: gradients overflow at a loss scale of %g, which is halved", verdict.step, scale
                )
            return
        self.in_a_row += 1
        if first:
            log.warning(
                "step %d skipped: %s is not finite (%d in a row, the run stops at %d)",
                verdict.step,
                culprit,
                self.in_a_row,
                self.patience,
            )
        if self.in_a_row >= self.patience:
            scaled = f" The loss was scaled by {scale:g}." if scale else ""
            raise TrainingError(
                f"{self.in_a_row} steps in a row were not finite, the last at step {verdict.step}; first bad tensor: "
                f"{culprit}.{scaled} Usual remedies: a smaller optimizer.lr, a longer scheduler.warmup, a smaller loss.scale "
                "or margin, trainer.precision=fp32"
            )

    def _culprit(self, names: Sequence[str], first_bad: int, rank: int) -> str:
        """In words. A bad weight comes before what it did to loss and gradients; a skipped step has left it as it was."""
        weights = list(self.weights)
        bad = (number for number, weight in enumerate(self.weights.values()) if not _all_finite(local_part(weight)))
        number = -int(self.processes.maximum(torch.tensor(-next(bad, len(weights)))))
        if number < len(weights):
            return f"the weight {weights[number]}"
        if first_bad > len(names):
            return "the norm of all gradients together"
        what = "the loss" if first_bad == THE_LOSS else f"the gradient of {names[first_bad - 1]}"
        return what if self.processes.count == 1 or rank == EVERYWHERE else f"{what} on rank {rank}"


class Buffers:
    """What forward passes change besides gradients (batch-norm statistics), so that a skipped step can be undone.

    Kept in one flat tensor for each dtype: hundreds of small buffers are moved in a few operations.

    Args:
        modules: whose buffers. A classifier's state moves in its `advance` alone, which looks at the verdict itself.
    """

    def __init__(self, modules: Iterable[nn.Module]):
        self._by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for module in modules:
            for buffer in module.buffers() if not isinstance(module, Classifier) else ():
                self._by_dtype.setdefault(buffer.dtype, []).append(buffer)
        self.remember()

    @torch.no_grad()
    def remember(self) -> None:
        """Take the buffers as the state that a skipped step returns to."""
        self._good = {dtype: _flat(buffers) for dtype, buffers in self._by_dtype.items()}

    def restore(self) -> None:
        """Put them back."""
        for dtype, buffers in self._by_dtype.items():
            self._write(buffers, self._good[dtype])

    @torch.no_grad()
    def settle(self, applied: Tensor) -> None:
        """`remember` where `applied`, a bool scalar on the device, is true, `restore` where it is not."""
        for dtype, buffers in self._by_dtype.items():
            self._good[dtype] = torch.where(applied, _flat(buffers), self._good[dtype])
            self._write(buffers, self._good[dtype])

    @torch.no_grad()
    def _write(self, buffers: list[Tensor], flat: Tensor) -> None:
        parts = flat.split([buffer.numel() for buffer in buffers])
        torch._foreach_copy_(buffers, [part.view(buffer.shape) for part, buffer in zip(parts, buffers, strict=True)])


def _flat(buffers: list[Tensor]) -> Tensor:
    return torch.cat([buffer.reshape(-1) for buffer in buffers])


def _all_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
