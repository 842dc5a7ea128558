"""The folder that the crops go to: whose it is, who works in it, and what its crops were made with."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frtrain.data.packs.target import check_settings as check_same
from frtrain.errors import DataError
from frtrain.files import write_atomically

SETTINGS_NAME = "align.json"
FINISHING_NAME = ".align.finishing"

_BEFORE_THERE_WAS_A_CHOICE = {"margin": 0.0, "to": "folder", "landmarks": None}
"""Settings that `align.json` of earlier versions lacks, with what was done then."""


def unwritable(target: Path, error: OSError) -> DataError:
    """The error for a target on which a write failed: no permission, no room."""
    return DataError(
        f"target={target} cannot be written ({error.strerror or error}): choose a folder with room that you may write "
        "to, or make room; what is done is kept, and the same command goes on from there"
    )


def lock(path: Path, shared: bool = False, flags: int = os.O_RDONLY) -> int | None:
    """Lock a file or folder without waiting; the lock ends with the descriptor, and with the process.

    Returns:
        The descriptor; None if somebody else holds the lock. On a file system that cannot lock, it counts as held: the
        user alone can then keep two calls apart.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, flags, 0o666)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        pass
    return descriptor


def is_certain(descriptor: int) -> bool:
    """Whether a lock that `lock` gave is one: the file system knows locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def check_owner(target: Path) -> None:
    """See that the folder is empty or was made by `frtrain align`.

    Raises:
        DataError: it holds files of somebody else.
    """
    foreign = sorted(entry.name for entry in target.iterdir() if not entry.name.startswith("."))
    if foreign and not (target / SETTINGS_NAME).exists():
        raise DataError(
            f"target={target} is not empty and not made by `frtrain align` (it holds {foreign[0]!r} but no "
            f"{SETTINGS_NAME}): choose an empty or new folder"
        )


def check_settings(target: Path, settings: Mapping[str, Any]) -> None:
    """See that the crops there, if any, were made with these settings.

    Raises:
        ConfigError: they were made with others.
        DataError: the file of settings is damaged.
    """
    before = _read_settings(target)
    if before is None:
        return
    before, now = {**_BEFORE_THERE_WAS_A_CHOICE, **before}, {**_BEFORE_THERE_WAS_A_CHOICE, **settings}
    check_same(target, before, now, "crops made with other settings", "those crops")


def write_settings(target: Path, settings: Mapping[str, Any]) -> None:
    """Store the settings, unless they stand there already.

    Raises:
        OSError: the folder cannot be written.
    """
    if _read_settings(target) != settings:
        write_atomically(target / SETTINGS_NAME, json.dumps(dict(settings), indent=2) + "\n")


def _read_settings(target: Path) -> dict[str, Any] | None:
    path = target / SETTINGS_NAME
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("not a JSON object")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}): make the crops anew with redo=true") from None
    return settings
