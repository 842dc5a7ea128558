"""Writing files so that they exist whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write aside and rename. Text is UTF-8; names that are not valid Unicode are escaped.

    Raises:
        OSError: the folder cannot be written or the disk is full; nothing is left behind.
    """
    with atomic_file(path) as file:
        file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its place when the context ends, unless an exception passes: then nothing is left.

    A link is followed. A device or a pipe, as /dev/stdout, is written to and not replaced.

    Raises:
        OSError: as `write_atomically`.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        with path.open("wb") as file:
            yield file
        return
    path = path.resolve() if path.is_symlink() else path
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            yield file
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_durably(path: Path, content: bytes) -> None:
    """Write aside, wait for the disk, rename.

    Raises:
        OSError: the disk is full; nothing is left behind.
    """
    aside = path.with_name(f".{path.name}.new")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def read_text_file(path: Path) -> str:
    """A text file as a whole: UTF-8, with or without a byte order mark; bytes that are no UTF-8 become lone surrogates.

    Raises:
        OSError: it cannot be read, or is a pipe or a device, which may never end.
    """
    if not path.is_dir() and path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return path.read_text(encoding="utf-8-sig", errors="surrogateescape")


def make_writable_folder(path: Path) -> None:
    """Create a folder if it is absent, and see that files can be written into it.

    Raises:
        OSError: it cannot be created or written.
    """
    path.mkdir(parents=True, exist_ok=True)
    probe = path / f".writable.{os.getpid()}"
    try:
        probe.write_bytes(bytes(65536))  # an empty file fits on a full disk
    finally:
        probe.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Wait until a file is on the disk.

    Raises:
        OSError: it is not there, or the disk fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the file system can do that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
