"""Names of images as paths of files that can be written, and read again, below a folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

import numpy as np

from frtrain.data.images import EXTENSIONS
from frtrain.data.pack_names import extension_of

MERGED_AT = 200_000


class SafePaths:
    """Gives every image of a folder pack its path: relative, inside, seen by `data=folder`, and nobody else's.

    The path is the name of the image, changed where it must be: empty parts go, `..` becomes `_`, a leading `.` (hidden
    files are not read) becomes `_`, NUL becomes `_`; a name without an image's extension gets one; one that does not lie
    below its identity's folder is put there; one that is taken gets `~2`, `~3`, ... The result depends on the names so
    far alone.
    """

    def __init__(self, taken: Iterable[str] = ()):
        self._files = _Seen()
        self._folders: set[str] = set()
        for path in taken:
            self._take(path)

    def take(self, name: str, identity: str, data: bytes) -> str:
        """The path of the next image.

        Args:
            name: of the image.
            identity: the identity's name; its folder.
            data: the encoded image.
        """
        folder, parts = _cleaned(identity) or ["_"], _cleaned(name) or ["image"]
        if parts[: len(folder)] != folder or len(parts) == len(folder):
            parts = folder + parts
        if PurePosixPath(parts[-1]).suffix.lower() not in EXTENSIONS:
            parts[-1] += f".{extension_of(data)}"
        for depth in range(1, len(parts)):
            parts[depth - 1] = self._free("/".join(parts[:depth]), is_folder=True).rpartition("/")[2]
        path = self._free("/".join(parts), is_folder=False)
        self._take(path)
        return path

    def _free(self, path: str, is_folder: bool) -> str:
        folder, slash, file = path.rpartition("/")
        stem, dot, extension = (file, "", "") if is_folder else file.rpartition(".")
        number = 1
        while path in self._files or (not is_folder and path in self._folders):
            number += 1
            path = f"{folder}{slash}{stem}~{number}{dot}{extension}"
        return path

    def _take(self, path: str) -> None:
        self._files.add(path)
        folder = path.rpartition("/")[0]
        while folder and folder not in self._folders:
            self._folders.add(folder)
            folder = folder.rpartition("/")[0]


def _cleaned(name: str) -> list[str]:
    parts = [part.replace("\0", "_") for part in name.split("/") if part not in ("", ".")]
    return ["_" if part == ".." else f"_{part[1:]}" if part[0] == "." else part for part in parts]


class _Seen:
    """A set of texts of which 8 bytes each are kept: their 64-bit hashes. Two texts are mixed up once in 10^19."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._sorted = np.empty(0, dtype=np.int64)

    def __contains__(self, text: str) -> bool:
        code = hash(text)
        if code in self._recent:
            return True
        at = int(np.searchsorted(self._sorted, code))
        return at < len(self._sorted) and int(self._sorted[at]) == code

    def add(self, text: str) -> None:
        self._recent.add(hash(text))
        if len(self._recent) >= MERGED_AT:
            recent = np.fromiter(self._recent, dtype=np.int64, count=len(self._recent))
            self._sorted = np.union1d(self._sorted, recent)
            self._recent.clear()
