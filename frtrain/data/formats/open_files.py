"""Random access to many large files with few of them open."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

AT_MOST = 128
"""Files open at one time: a process may have 1024, and there are sources of several packs."""


class OpenFiles:
    """Reads by file number, offset and size. Files are opened when first read and kept open, the latest used ones.

    Threads may share it. Forked processes may too: no file has a position that they could move for each other. Pickling
    leaves the open files behind.

    Args:
        paths: by file number.
        at_most: files that are kept open.
    """

    def __init__(self, paths: Sequence[Path], at_most: int = AT_MOST):
        self.paths = paths
        self.at_most = at_most
        self._open: dict[int, _OpenFile] = {}  # least recently used first

    def read(self, number: int, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on, fewer where the file ends before.

        Raises:
            OSError: the file cannot be opened or read.
        """
        file = self._open.pop(number, None)
        if file is None:
            file = self._opened(self.paths[number])
        self._open[number] = file
        while len(self._open) > self.at_most:
            self._drop_oldest()
        return os.pread(file.descriptor, size, offset)

    def _opened(self, path: Path) -> _OpenFile:
        try:
            return _OpenFile(path)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._open:
                raise
            self._open.clear()
            return _OpenFile(path)

    def _drop_oldest(self) -> None:
        try:
            self._open.pop(next(iter(self._open)), None)
        except (StopIteration, RuntimeError):  # another thread has changed it meanwhile
            return

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": {}}


class _OpenFile:
    """Closed when nobody holds it any more, so that no thread reads from a descriptor that another one closed."""

    def __init__(self, path: Path):
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
