"""A pack as a folder of image files, `<target>/<identity>/<image>`."""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from frtrain.data.formats.tar import is_inside
from frtrain.data.manifest import read_list
from frtrain.data.packs.appended import AppendedFile
from frtrain.data.packs.container import Container, State, checksum_line, part_of
from frtrain.data.packs.paths import SafePaths
from frtrain.files import sync_file, sync_folder

CHECKSUMS = "checksums.sha256"
ASIDE = ".image.part"
LIST = "images.lst"


class FolderContainer(Container):
    """Image files under the names that the source gave them, as far as such files can be (`SafePaths`).

    Args:
        target: the folder.
        state: as `state` gave it; None: begin.
        classes: identity names, for images whose name has no folder; None: the label is the name.
    """

    list_name: ClassVar[str] = LIST
    first_number: ClassVar[int] = 0

    def __init__(self, target: Path, state: State | None, classes: Sequence[str] | None):
        self._target = target
        self._classes = classes
        images = state["images"] if state else 0
        self._paths = SafePaths(_listed(part_of(target / LIST), images))
        self._checksums = AppendedFile(part_of(target / CHECKSUMS), state["checksums"] if state else 0)
        self._images = images
        self._unsynced: list[str] = []

    def place(self, data: bytes, label: int, name: str, number: int) -> str:
        """The file's path below the folder."""
        identity = str(label) if self._classes is None else self._classes[label]
        if self._classes is None and "/" in name.strip("/"):
            identity = name.strip("/").partition("/")[0]
        return self._paths.take(name, identity, data)

    def add(self, data: bytes, label: int, name: str, number: int) -> None:
        """Write the file aside and rename it."""
        path, aside = self._target / name, self._target / ASIDE
        aside.write_bytes(data)
        try:
            aside.replace(path)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.replace(path)
        self._checksums.write(checksum_line(hashlib.sha256(data).hexdigest(), name))
        self._images += 1
        self._unsynced.append(name)

    def sync(self) -> None:
        """Wait for every file since the last call: all of the file system at once where that is possible, else one by one."""
        if not _sync_file_system(self._target):
            folders = {Path(name).parent for name in self._unsynced}
            folders |= {parent for folder in folders for parent in folder.parents}
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(sync_file, (self._target / name for name in self._unsynced)))
                list(pool.map(sync_folder, (self._target / folder for folder in folders)))
        self._checksums.sync()
        self._unsynced = []

    def state(self) -> dict[str, Any]:
        """Images, and bytes of the checksums."""
        return {"images": self._images, "checksums": self._checksums.length}

    def complete(self, labels: Iterator[int], classes: Sequence[str]) -> list[tuple[str, str]]:
        """Nothing comes after the last image. The checksums are finished by the pack."""
        (self._target / ASIDE).unlink(missing_ok=True)
        self._checksums.close()
        return []

    def close(self) -> None:
        """See `Container.close`."""
        (self._target / ASIDE).unlink(missing_ok=True)
        self._checksums.close()

    @staticmethod
    def files(target: Path) -> Iterator[Path]:
        """The images of the list, and nothing else that may have come into these folders, or lies behind a link."""
        root = target.resolve()
        within: dict[str, bool] = {}
        for path in (target / LIST, part_of(target / LIST)):
            for name in _listed(path, None):
                folder = name.rpartition("/")[0]
                if is_inside(name) and folder not in within:
                    within[folder] = (root / folder).resolve().is_relative_to(root)
                if is_inside(name) and within[folder]:
                    yield target / name
        yield target / ASIDE


def _listed(path: Path, images: int | None) -> Iterator[str]:
    """The names of the first `images` lines; of all whole ones for None."""
    if images == 0 or not path.exists():
        return
    if images is None:
        with path.open("rb") as lines:
            images = sum(line.endswith(b"\n") for line in lines)
    for _, _, name in islice(read_list(path), images):
        yield name


def _sync_file_system(folder: Path) -> bool:
    """Linux's `syncfs`: thousands of small files in the time of a few. False where there is none."""
    try:
        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except (AttributeError, OSError, TypeError):
        return False
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return syncfs(descriptor) == 0
    finally:
        os.close(descriptor)
