"""Where numbers and pictures of a run go. A further destination is one class with the methods of `Logger`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from frtrain.errors import FrtrainError
from frtrain.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Logger:
    """One destination. Methods do nothing by default, so that a logger implements what it can show."""

    def scalars(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Numbers by tag, e.g. `train/loss`."""

    def figure(self, step: int, tag: str, figure: Figure) -> None:
        """A picture drawn by matplotlib."""

    def images(self, step: int, tag: str, images: torch.Tensor) -> None:
        """Pictures side by side, `float [N, 3, H, W]` in [0, 1]."""

    def histogram(self, step: int, tag: str, values: torch.Tensor) -> None:
        """The distribution of some numbers."""

    def close(self) -> None:
        """Flush and release."""


class Logbook(Logger):
    """Hands everything to several loggers."""

    def __init__(self, loggers: Sequence[Logger]):
        self.loggers = list(loggers)

    def scalars(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        for logger in self.loggers:
            logger.scalars(step, epoch, values)

    def figure(self, step: int, tag: str, figure: Figure) -> None:
        """See `Logger`."""
        for logger in self.loggers:
            logger.figure(step, tag, figure)

    def images(self, step: int, tag: str, images: torch.Tensor) -> None:
        """See `Logger`."""
        for logger in self.loggers:
            logger.images(step, tag, images)

    def histogram(self, step: int, tag: str, values: torch.Tensor) -> None:
        """See `Logger`."""
        for logger in self.loggers:
            logger.histogram(step, tag, values)

    def close(self) -> None:
        """See `Logger`."""
        for logger in self.loggers:
            logger.close()


class JsonLines(Logger):
    """`metrics.jsonl`: one line per call of `scalars`, with `step` and `epoch`.

    Args:
        path: the file; lines of a resumed run that are later than `step` are dropped, since they are computed again.
        step: the step that the run starts from.

    Raises:
        FrtrainError: the file cannot be written.
    """

    def __init__(self, path: Path, step: int):
        self.path = path
        try:
            kept = [line for line in _lines(path) if _step_of(line) <= step]
            write_atomically(path, "".join(f"{line}\n" for line in kept))
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise FrtrainError(f"{path}: cannot be written ({error.strerror})") from None

    def scalars(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Append a line.

        Raises:
            FrtrainError: the disk is full.
        """
        try:
            print(json.dumps({"step": step, "epoch": round(epoch, 4), **values}), file=self._file, flush=True)
        except OSError as error:
            raise FrtrainError(f"{self.path}: cannot be written ({error.strerror})") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard(Logger):
    """TensorBoard event files below `folder`; events later than `step` are superseded.

    Every method raises FrtrainError where the disk is full or the folder is gone.
    """

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        with self._told():
            self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None, flush_secs=30)

    def scalars(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        with self._told():
            for tag, value in values.items():
                self._writer.add_scalar(tag, value, step)

    def figure(self, step: int, tag: str, figure: Figure) -> None:
        """See `Logger`."""
        with self._told():
            self._writer.add_figure(tag, figure, step, close=False)

    def images(self, step: int, tag: str, images: torch.Tensor) -> None:
        """See `Logger`."""
        with self._told():
            self._writer.add_images(tag, images, step)

    def histogram(self, step: int, tag: str, values: torch.Tensor) -> None:
        """See `Logger`."""
        with self._told():
            self._writer.add_histogram(tag, values, step)

    def close(self) -> None:
        """Flush the event file."""
        with self._told():
            self._writer.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FrtrainError(
                f"{self.folder}: TensorBoard's events cannot be written ({error.strerror or error}); make room, or go on "
                "without them: log.tensorboard=false"
            ) from None


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a crash
