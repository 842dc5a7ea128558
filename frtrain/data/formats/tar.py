"""Tar shards, written member by member.

A tar file is a chain of 512-byte headers, each followed by its member's data filled up to whole blocks, with two blocks
of zeros at the end (POSIX 1003.1 `ustar`). `tar_index` reads them.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

BLOCK = 512
RECORD = 20 * BLOCK
"""Whole files are filled up to this, as `tar` does."""


class Place(NamedTuple):
    """Where a member's data are in the shard, in bytes."""

    offset: int
    size: int


class TarShardWriter:
    """Writes one shard. The same members give the same bytes: no times, no owners, mode 0644.

    As a context manager it completes the shard, or, when an exception passes, closes it as it is.

    Args:
        path: the file; made anew unless `resume_at` is given.
        resume_at: go on with an existing file after its first so many bytes (a `position` of an earlier writer); what
            stands behind them is cut off.

    Attributes:
        path: the file.
        position: bytes written so far, where the next member's header begins.

    Raises:
        OSError: the file cannot be written.
        ValueError: `resume_at` is no block boundary inside the file.
    """

    def __init__(self, path: Path, resume_at: int = 0):
        self.path = path
        self.position = resume_at
        self._file = path.open("r+b" if resume_at else "wb")
        if resume_at:
            if resume_at % BLOCK or resume_at > path.stat().st_size:
                self._file.close()
                raise ValueError(f"{path}: byte {resume_at} is no block boundary inside the file")
            self._file.truncate(resume_at)
            self._file.seek(resume_at)

    def add(self, name: str, data: bytes) -> Place:
        """Append one member; `name` is a relative path with `/`.

        Raises:
            OSError: the disk is full.
            ValueError: the name is empty, absolute or leads out of the archive.
        """
        if not is_inside(name):
            raise ValueError(f"{self.path}: '{name}' cannot be the name of a member: expected a relative path inside")
        header = tarfile.TarInfo(name)
        header.size = len(data)
        head = header.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        self._file.write(head)
        self._file.write(data)
        self._file.write(bytes(-len(data) % BLOCK))
        place = Place(self.position + len(head), len(data))
        self.position += len(head) + len(data) + -len(data) % BLOCK
        return place

    def flush(self) -> None:
        """See that everything added so far is on the disk.

        Raises:
            OSError: the disk is full or fails.
        """
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Complete the shard: write the end blocks, and see that all is on the disk. A second call does nothing.

        Raises:
            OSError: the disk is full or fails.
        """
        if self._file.closed:
            return
        try:
            self._file.write(bytes(2 * BLOCK + -(self.position + 2 * BLOCK) % RECORD))
            self.flush()
        finally:
            self._file.close()

    def abandon(self) -> None:
        """Close the file as it is, without end blocks; `resume_at` can go on with it.

        Raises:
            OSError: what was added does not fit on the disk.
        """
        self._file.close()

    def __enter__(self) -> TarShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


def is_inside(name: str) -> bool:
    """Whether `name` is a relative path that stays where it starts."""
    return bool(name) and "\0" not in name and name[0] != "/" and ".." not in name.split("/")
