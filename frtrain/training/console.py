"""Log lines for a person: time and message, not cut at the width of a terminal that is not there."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

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
    """`train.log`. When the disk is full it falls silent instead of interrupting the run it reports on."""

    def __init__(self, path: Path):
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the name is logging's)
        """Called by `emit` when a line could not be written."""

    def close(self) -> None:
        """Close the file, whose last lines may have found no room."""
        with contextlib.suppress(OSError):
            super().close()
