"""Log lines for a person: time and message, not cut at the width of a terminal that is not there."""

from __future__ import annotations

import logging
import time

from rich.console import Console
from rich.markup import escape

STYLES = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}


class ConsoleLines(logging.Handler):
    """Prints records of level INFO and above on a rich console, above a live progress line if there is one."""

    def __init__(self, console: Console):
        super().__init__(logging.INFO)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        text = escape(record.getMessage())
        style = STYLES.get(record.levelno)
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        self.console.print(f"[dim]{clock}[/] " + (f"[{style}]{text}[/]" if style else text))
