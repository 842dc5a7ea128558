"""Where the threads of this process stand, told without reading a source file: the disk may be what they wait for."""

from __future__ import annotations

import linecache
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any


@dataclass(frozen=True)
class Place:
    """Where a thread is.

    Attributes:
        line: of the function that was asked for, 0 if the thread is not in it; rises as the function goes on.
        text: the statement there, and the innermost call below it.
    """

    line: int
    text: str


class PlaceFinder:
    """Finds where in a function a thread is; reads the function's source when it is made, not later.

    Args:
        function: that the thread is in, e.g. the training loop.
        thread: its identifier; None: the one that makes this object.
    """

    def __init__(self, function: Callable[..., Any], thread: int | None = None):
        self.code: CodeType = function.__code__  # type: ignore[attr-defined] # any Python function has it
        self.thread = threading.get_ident() if thread is None else thread
        self._lines = linecache.getlines(self.code.co_filename)

    def place(self) -> Place:
        """Where the thread is now."""
        innermost = sys._current_frames().get(self.thread)
        if innermost is None:
            return Place(0, "has no Python frame")
        frame: FrameType | None = innermost
        while frame is not None and frame.f_code is not self.code:
            frame = frame.f_back
        if frame is None:
            return Place(0, f"in {_described(innermost)}")
        line = frame.f_lineno
        statement = self._lines[line - 1].strip() if line <= len(self._lines) else ""
        return Place(line, f"at `{statement}` ({Path(self.code.co_filename).name}:{line}), in {_described(innermost)}")


def all_stacks() -> str:
    """The stacks of all threads of this process, the newest call last, one call a line."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for identifier, innermost in sys._current_frames().items():
        lines: list[str] = []
        frame: FrameType | None = innermost
        while frame is not None:
            lines.append(f"  {_described(frame)}")
            frame = frame.f_back
        parts.append("\n".join([f"thread {names.get(identifier, identifier)}:", *reversed(lines)]))
    return "\n".join(parts)


def _described(frame: FrameType) -> str:
    code = frame.f_code
    name = getattr(code, "co_qualname", code.co_name)  # since Python 3.11
    return f"{name} ({code.co_filename}:{frame.f_lineno})"
