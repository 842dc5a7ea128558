"""TensorBoard event files: curves, pictures, histograms."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from frtrain.errors import FrtrainError
from frtrain.training.logbook import Logger

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

FLUSH_SECONDS = 30.0

WRITERS_THREAD = "_AsyncWriterThread"
"""The class of TensorBoard's thread that writes. What it meets is raised again by the next call, which tells it."""


class TensorBoard(Logger):
    """Event files below `folder`; events later than `step` are superseded.

    Every method raises FrtrainError where the disk is full; the next call begins another event file, in a folder that is made
    anew if it is gone.
    """

    def __init__(self, folder: Path, step: int):
        self.folder = folder
        self._writer: SummaryWriter | None = None
        self._flushed = time.monotonic()
        with self._told():
            # Also a run that was killed before its first checkpoint has left events, which are computed again.
            used = any(folder.glob("events.out.tfevents.*"))
            self._writer = self._new(step + 1 if used else None)

    def scalars(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        with self._told():
            for tag, value in values.items():
                self._open().add_scalar(tag, value, step)
            # Its own clock is that of the day, which somebody may set back.
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self._flushed = time.monotonic()
                self._open().flush()

    def figure(self, step: int, tag: str, figure: Figure) -> None:
        """See `Logger`."""
        with self._told():
            self._open().add_figure(tag, figure, step, close=False)

    def images(self, step: int, tag: str, images: torch.Tensor) -> None:
        """See `Logger`."""
        with self._told():
            self._open().add_images(tag, images, step)

    def histogram(self, step: int, tag: str, values: torch.Tensor) -> None:
        """See `Logger`."""
        with self._told():
            self._open().add_histogram(tag, values, step)

    def flush(self) -> None:
        """See `Logger`."""
        with self._told():
            self._open().flush()

    def close(self) -> None:
        """Flush the event file."""
        if self._writer is not None:
            with self._told():
                self._writer.close()

    def _open(self) -> SummaryWriter:
        if self._writer is not None and not self.folder.is_dir():
            self._abandon()
        if self._writer is None:
            self._writer = self._new(None)
        return self._writer

    def _new(self, purge_step: int | None) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        threading.excepthook = _but_for_writers(threading.excepthook)
        return SummaryWriter(str(self.folder), purge_step=purge_step, flush_secs=int(FLUSH_SECONDS))

    def _abandon(self) -> None:
        """A writer that failed once fails for ever."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._abandon()
            raise FrtrainError(
                f"{self.folder}: TensorBoard's events cannot be written ({error.strerror or error}); make room, or go on "
                "without them: log.tensorboard=false"
            ) from None


Hook = Callable[[threading.ExceptHookArgs], object]


def _but_for_writers(hook: Hook) -> Hook:
    """The hook, silent about TensorBoard's writers: a traceback on the screen would hide the message."""
    if getattr(hook, "but_for_writers", False):
        return hook

    def told(arguments: threading.ExceptHookArgs) -> object:
        of_a_writer = type(arguments.thread).__name__ == WRITERS_THREAD and issubclass(arguments.exc_type, OSError)
        return None if of_a_writer else hook(arguments)

    told.but_for_writers = True  # type: ignore[attr-defined] # a mark, so that it is put on once
    return told
