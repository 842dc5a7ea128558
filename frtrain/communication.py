"""How long this process is held up by the others: the time in collectives, without waiting for a device to find out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

SLOW_TO_READ = 256
"""Pairs of events that may wait to be read before those that are over are added up."""


class CommunicationClock:
    """Adds up the time that collectives take from the computation of a step.

    Where the step runs on the CPU a collective blocks the host, and this is the time it blocks. On a CUDA device the host goes
    on; what counts is how long the device's stream stands still, between two events, which are read once they have passed.
    Collectives on tensors of another device than the step's do not count: a host that waits while its GPU has work in its
    queue holds up nothing.

    Attributes:
        inside: whether this process is in a collective at this moment; read by a thread that watches for hangs.
    """

    def __init__(self) -> None:
        self.inside = False
        self._device_type = "cpu"
        self._counting = True
        self._seconds = 0.0
        self._last_gradient: Any = None
        self._last_parameter: torch.Tensor | None = None
        self._hooks: dict[torch.Tensor, RemovableHandle] = {}
        self._pairs: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def start(self, device: torch.device) -> None:
        """Begin anew, with steps on this device."""
        self._device_type = device.type
        self._counting, self._seconds, self._last_gradient = True, 0.0, None
        self._pairs.clear()

    @contextmanager
    def measured(self, device: torch.device) -> Iterator[None]:
        """What is done within this context is one collective on a tensor of this device."""
        counted = self._counting and device.type == self._device_type
        began = self._now() if counted else None
        self.inside = True
        try:
            yield
        finally:
            self.inside = False
            if counted:
                self._add(began)

    @contextmanager
    def not_counted(self) -> Iterator[None]:
        """Collectives within this context are no part of a step: others wait on purpose while process 0 does something."""
        before, self._counting = self._counting, False
        try:
            yield
        finally:
            self._counting = before

    def watch(self, network: nn.Module) -> None:
        """Measure how long backward of this network waits for gradients to be averaged, where DistributedDataParallel does it.

        From the last gradient on, backward does nothing else. The first backward pass tells whose that is.
        """
        self._last_parameter, self._hooks = None, {}
        if isinstance(network, DistributedDataParallel):
            self._hooks = {
                parameter: parameter.register_post_accumulate_grad_hook(self._gradient_is_there)
                for parameter in network.parameters()
                if parameter.requires_grad
            }

    def _gradient_is_there(self, parameter: torch.Tensor) -> None:
        if len(self._hooks) > 1:
            self._last_parameter = parameter
        else:
            self._last_gradient = self._now()

    def backward_is_over(self) -> None:
        """Count what backward took after the last gradient was there: the averaging that nothing hides."""
        if self._last_gradient is not None:
            self._add(self._last_gradient)
            self._last_gradient = None
        elif self._last_parameter is not None and len(self._hooks) > 1:
            for parameter, hook in self._hooks.items():
                if parameter is not self._last_parameter:
                    hook.remove()
            self._hooks = {self._last_parameter: self._hooks[self._last_parameter]}

    def take(self) -> float:
        """Seconds since the last call. On a CUDA device those that it has not reached yet come with the next call."""
        self._add_up()
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _now(self) -> Any:
        if self._device_type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _add(self, began: Any) -> None:
        if self._device_type != "cuda":
            self._seconds += time.perf_counter() - began
            return
        self._pairs.append((began, self._now()))
        if len(self._pairs) > SLOW_TO_READ:
            self._add_up()

    def _add_up(self) -> None:
        while self._pairs and self._pairs[0][1].query():
            began, ended = self._pairs.popleft()
            self._seconds += began.elapsed_time(ended) / 1000


COMMUNICATION = CommunicationClock()
"""That of this process: it trains one run at a time."""
