"""`metrics.jsonl`: the numbers of a run, a line of JSON each time they are published."""

from __future__ import annotations

import errno
import json
import os
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from frtrain.errors import FrtrainError
from frtrain.files import write_atomically
from frtrain.training.logbook import Logger

KEPT_LINES = 100_000
"""Lines that found no room on the disk wait in memory, the newest so many."""


class JsonLines(Logger):
    """One line per call of `scalars`, with `step` and `epoch`. A line is in the file as a whole or not at all.

    Args:
        path: the file; lines of a resumed run that are later than `step` are dropped, since they are computed again.
        step: the step that the run starts from.

    Raises:
        FrtrainError: the file cannot be written.
    """

    def __init__(self, path: Path, step: int):
        self.path = path
        self._waiting: deque[str] = deque(maxlen=KEPT_LINES)
        try:
            kept = [line for line in _lines(path) if _step_of(line) <= step]
            write_atomically(path, "".join(f"{line}\n" for line in kept))
        except OSError as error:
            raise FrtrainError(f"{path}: cannot be written ({error.strerror})") from None

    def scalars(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Append a line, and those that found no room before.

        Raises:
            FrtrainError: there is no room now.
        """
        self._waiting.append(json.dumps({"step": step, "epoch": round(epoch, 4), **values}))
        self._write()

    def close(self) -> None:
        """Append what still waits.

        Raises:
            FrtrainError: there is no room now.
        """
        if self._waiting:
            self._write()

    def _write(self) -> None:
        # Opened each time: a folder that was removed meanwhile is made anew, where an open file would take lines nowhere.
        text = "".join(f"{line}\n" for line in self._waiting).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                before = os.fstat(file.fileno()).st_size
                try:
                    complete = file.write(text) == len(text)
                except OSError:
                    os.ftruncate(file.fileno(), before)
                    raise
                if not complete:
                    os.ftruncate(file.fileno(), before)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise FrtrainError(f"{self.path}: cannot be written ({error.strerror})") from None
        self._waiting.clear()


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a crash
