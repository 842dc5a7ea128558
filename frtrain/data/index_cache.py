"""What was found out about a large data set, kept for the next time: offsets, labels, names.

Only plain arrays are kept, nothing that reading would execute. A cache that cannot be written or read costs time, never
a run.
"""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frtrain.files import atomic_file

log = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[np.generic]]
_STAMP = "stamp"


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/frtrain`, by default `~/.cache/frtrain`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "frtrain"


def load_index(key: str, stamp: str) -> dict[str, NDArray[np.generic]] | None:
    """The arrays kept under `key`, if they were kept with the same `stamp`.

    Args:
        key: what they are of and how they were made, e.g. `"folder:/faces/casia:top_folder"`.
        stamp: changes whenever the data change, e.g. sizes and times of the files.
    """
    path = _path(key)
    try:
        with np.load(path, allow_pickle=False) as kept:
            if str(kept[_STAMP]) != stamp:
                return None
            return {name: kept[name] for name in kept.files if name != _STAMP}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.debug("%s: passed over (%s)", path, error)
        return None


def save_index(key: str, stamp: str, arrays: Arrays) -> None:
    """Keep `arrays` under `key`."""
    path = _path(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            np.savez(file, **{_STAMP: np.array(stamp)}, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        log.debug("%s: not kept (%s)", path, error)


def stamp_of(paths: list[Path]) -> str:
    """A stamp of files or folders: their paths, sizes and times of change.

    Raises:
        OSError: one of them cannot be looked at.
    """
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        digest.update(
            f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}\n".encode("utf-8", "surrogateescape")
        )
    return digest.hexdigest()


def _path(key: str) -> Path:
    return cache_folder() / "index" / f"{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.npz"
