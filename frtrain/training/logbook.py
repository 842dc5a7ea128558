"""Where numbers and pictures of a run go. A further destination is one class with the methods of `Logger`, in one file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from frtrain.errors import FrtrainError
from frtrain.registry import Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

QUIET_SECONDS = 3600.0
"""Between two warnings of one logger, which may fail and work by turns."""


class Logger:
    """One destination. Methods do nothing by default, so that a logger implements what it can show.

    Only process 0 has loggers. What a method raises, a full disk or a lost connection, ends no run: the `Logbook` says so once
    and goes on calling. A constructor that raises FrtrainError or ValueError ends the run before its first step.
    """

    def scalars(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Numbers by tag, e.g. `train/loss`."""

    def figure(self, step: int, tag: str, figure: Figure) -> None:
        """A picture drawn by matplotlib."""

    def images(self, step: int, tag: str, images: torch.Tensor) -> None:
        """Pictures side by side, `float [N, 3, H, W]` in [0, 1]."""

    def histogram(self, step: int, tag: str, values: torch.Tensor) -> None:
        """The distribution of some numbers."""

    def flush(self) -> None:
        """Put what was logged on the disk: a checkpoint is about to be written, and nothing before it is logged again."""

    def close(self) -> None:
        """Flush and release."""


@dataclass(frozen=True)
class LoggedRun:
    """What a logger is told of the run when it is made.

    Attributes:
        name: of the run, e.g. `arcface_iresnet_tiny`.
        folder: of the run; the same again when it is resumed.
        step: that the run starts from, 0 or that of a checkpoint. What was logged for later steps is computed anew.
        config: the resolved configuration.
    """

    name: str
    folder: Path
    step: int
    config: Mapping[str, Any]


LOGGERS: Registry[Logger] = Registry("log.loggers")
"""Loggers that a configuration may choose, by `log.loggers`. Each is built with `run: LoggedRun` and its own parameters."""


class Logbook(Logger):
    """Hands everything to several loggers, none of which may end the run."""

    def __init__(self, loggers: Sequence[Logger]):
        self.loggers = list(loggers)
        self._failing: set[Logger] = set()
        self._quiet_until: dict[Logger, float] = {}
        self._noted: dict[str, float] = {}

    def note(self, values: Mapping[str, float]) -> None:
        """Numbers that come between two publications: they are published beside the next ones."""
        self._noted |= values

    def scalars(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        values, self._noted = {**values, **self._noted}, {}
        self._each(lambda logger: logger.scalars(step, epoch, values))

    def figure(self, step: int, tag: str, figure: Figure) -> None:
        """See `Logger`."""
        self._each(lambda logger: logger.figure(step, tag, figure))

    def images(self, step: int, tag: str, images: torch.Tensor) -> None:
        """See `Logger`."""
        self._each(lambda logger: logger.images(step, tag, images))

    def histogram(self, step: int, tag: str, values: torch.Tensor) -> None:
        """See `Logger`."""
        self._each(lambda logger: logger.histogram(step, tag, values))

    def flush(self) -> None:
        """See `Logger`."""
        self._each(lambda logger: logger.flush(), proof=False)

    def close(self) -> None:
        """See `Logger`."""
        self._each(lambda logger: logger.close(), proof=False)

    def _each(self, call: Callable[[Logger], None], proof: bool = True) -> None:
        """Call all of them. `proof`: whether one that succeeds has written something, and so works again."""
        for logger in self.loggers:
            try:
                call(logger)
            except Exception as error:  # whatever a logger meets, also one that is not ours, training is worth more
                self._tell(logger, error)
            else:
                if proof and logger in self._failing:
                    self._failing.discard(logger)
                    log.info("%s works again", type(logger).__name__)

    def _tell(self, logger: Logger, error: Exception) -> None:
        now = time.monotonic()
        if logger in self._failing or now < self._quiet_until.get(logger, now):
            return
        self._failing.add(logger)
        self._quiet_until[logger] = now + QUIET_SECONDS
        told = str(error) if isinstance(error, FrtrainError) else f"{type(error).__name__}: {error}"
        log.warning("%s fails, training goes on and it is tried again: %s", type(logger).__name__, told)
        log.debug("the logger's traceback", exc_info=error)
