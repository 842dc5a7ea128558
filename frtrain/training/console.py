"""Log lines for a person: time and message, not cut at the width of a terminal that is not there."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

log = logging.getLogger(__name__)

STYLES = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}

SAME_EVERYWHERE = (logging.Filter("frtrain.losses"), logging.Filter("frtrain.classifier"))
"""Whose records are the same on every process: each sets up the same loss for the same classes."""


class ConsoleLines(logging.Handler):
    """Prints records on a rich console, above a live progress line if there is one.

    Args:
        console: where.
        level: of the records that are shown.
        prefix: before each message.
    """

    def __init__(self, console: Console, level: int = logging.INFO, prefix: str = ""):
        super().__init__(level)
        self.console = console
        self.prefix = prefix

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        text = escape(f"{self.prefix}{record.getMessage()}")
        style = STYLES.get(record.levelno)
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        try:
            self.console.print(f"[dim]{clock}[/] " + (f"[{style}]{text}[/]" if style else text))
        except OSError:
            self.console.quiet = True  # nobody is listening any more; the log file is, and the run goes on


class LinesOfARank(ConsoleLines):
    """Warnings and errors of a process other than the first, with its rank, but for those that process 0 gives alike.

    Args:
        console: where.
        rank: of the process.
    """

    def __init__(self, console: Console, rank: int):
        super().__init__(console, logging.WARNING, f"rank {rank}: ")
        self.addFilter(lambda record: not any(logger.filter(record) for logger in SAME_EVERYWHERE))


class LogFile(logging.FileHandler):
    """`train.log` of process 0, `logs/rank-N.log` of the others; their folder is made, and made anew if it is removed.

    When the disk is full it says so once on the screen instead of interrupting the run it reports on, and goes on trying;
    what it could not write it writes as soon as there is room.

    Args:
        path: of the file.
        within: a folder that is another's to make: while it is gone nothing is written. None: there is none.
    """

    def __init__(self, path: Path, within: Path | None = None):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._within = within
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._error: BaseException | None = None
        self._failing = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self._error = None
        try:
            if self._follow():
                super().emit(record)
        except OSError as error:
            self._error = error
        if self._error is not None and not self._failing:
            self._failing = True
            log.warning("%s cannot be written, the run goes on without: %s", self.baseFilename, self._error)
        elif self._error is None and self._failing:
            self._failing = False
            log.info("%s is written again", self.baseFilename)

    def _follow(self) -> bool:
        """Begin a new file where the old one was removed: what is written to it would be lost. False where it has no place."""
        if self.stream is not None and os.fstat(self.stream.fileno()).st_nlink > 0:
            return True
        if self._within is not None and not self._within.is_dir():
            return False
        if self.stream is None:
            return True  # `FileHandler.emit` opens it
        with contextlib.suppress(OSError):
            self.stream.close()
        self.stream = None  # type: ignore[assignment] # as `FileHandler.close` leaves it
        Path(self.baseFilename).parent.mkdir(parents=self._within is None, exist_ok=True)
        self.stream = self._open()
        log.warning("%s was removed while the run is writing to it; it begins anew", self.baseFilename)
        return True

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the name is logging's)
        """Called by `emit` when a line could not be written."""
        self._error = sys.exc_info()[1]

    def close(self) -> None:
        """Close the file, whose last lines may have found no room."""
        with contextlib.suppress(OSError):
            super().close()


def log_of_rank(folder: Path, rank: int) -> list[logging.Handler]:
    """Everything that a process other than 0 says, warnings or not, to `logs/rank-N.log` of the run folder.

    Where it cannot be written (the folder is another machine's), this is told, and the list is empty.
    """
    if rank == 0:
        return []  # its log is the run's
    path = folder / "logs" / f"rank-{rank}.log"
    try:
        handler = LogFile(path, within=folder)  # which process 0 makes, and removes where nothing was trained
    except OSError as error:
        log.warning("%s: cannot be written (%s); this process has no log", path, error.strerror)
        return []
    logging.getLogger("frtrain").addHandler(handler)
    return [handler]
