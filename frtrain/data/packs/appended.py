"""A file that lines are appended to, and that can be cut back to a former length."""

from __future__ import annotations

import os
from pathlib import Path

from frtrain.errors import DataError


class AppendedFile:
    """Lines in the operating system's hands as soon as `write` returns.

    Args:
        path: the file.
        length: bytes of an existing file to keep; 0: a new file.

    Attributes:
        length: bytes written.

    Raises:
        DataError: the existing file is shorter.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, length: int = 0):
        present = path.stat().st_size if length else 0
        if present < length:
            raise DataError(
                f"{path}: has {present:,} bytes, but {length:,} were written before: something else has cut it. "
                "Make the pack anew with redo=true"
            )
        self.length = length
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        os.ftruncate(self._file, length)

    def write(self, data: bytes) -> None:
        """Append.

        Raises:
            OSError: the disk is full.
        """
        while data:  # on a nearly full disk a part is written first, and no error raised
            written = os.pwrite(self._file, data, self.length)
            self.length += written
            data = data[written:]

    def sync(self) -> None:
        """Wait until everything is on the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        """Let go of the file; may be called again."""
        descriptor, self._file = self._file, -1
        if descriptor >= 0:
            os.close(descriptor)
