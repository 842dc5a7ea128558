"""Writing files so that they exist whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write aside and rename. Text is UTF-8; names that are not valid Unicode are escaped.

    Raises:
        OSError: the folder cannot be written or the disk is full; nothing is left behind.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_bytes(data)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


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
