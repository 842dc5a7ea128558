"""Walking a folder of images: every folder is listed once, links are followed or refused, and what was found can be kept.

A million images in two hundred thousand folders are listed in about the time of a bare walk: no file is looked at, only
its folder's entry. What was found is kept as long as no folder changed, which costs one look at each folder.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from frtrain.data.images import EXTENSIONS
from frtrain.errors import DataError

Links = Literal["inside", "follow"]

_PACK_FILES = ("pack.json", "checksums.sha256", "classes.txt", "images.lst", "pairs.tsv", "pairs.txt")
ALIGNMENT_FILES = frozenset({"align.json", "align.jsonl", *_PACK_FILES})
"""What `frtrain align` and `frtrain convert` leave beside images: no reason for a warning."""

_ENDINGS = tuple(EXTENSIONS)
_UNSIGNED = 0xFFFF_FFFF_FFFF_FFFF
_YOUNG_NANOSECONDS = 2_000_000_000  # the coarsest clock of a file system, FAT's


@dataclass
class Tree:
    """What lies below a folder.

    Attributes:
        images: per folder that has some, by its path below the root (`""` is the root itself, `/` between names): the
            names of its images in order, joined by NUL.
        others: how many other files there are, by extension.
        folders: the paths of all folders that were listed, in the order of `stamps`.
        stamps: of each folder device, inode, time of the last change of its entries and of itself, when it was listed.
    """

    images: dict[str, str] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)
    folders: list[str] = field(default_factory=list)
    stamps: array[int] = field(default_factory=lambda: array("Q"))

    def stamp_rows(self) -> NDArray[np.uint64]:
        """The stamps, `uint64 [F, 4]`."""
        return np.array(self.stamps, dtype=np.uint64).reshape(-1, 4)

    def inodes_from(self, listed: int) -> Iterator[tuple[int, int]]:
        """Device and inode of the folders after the first `listed`."""
        later = self.stamps[4 * listed :]
        return zip(later[0::4], later[1::4], strict=True)


def walk_images(root: Path, links: Links) -> Tree:
    """List all images below `root`.

    Hidden files and folders are passed over. Links to folders are walked after everything else and each real folder
    once, so that a folder keeps its own name, and loops end.

    Args:
        root: an existing folder.
        links: `inside` refuses links that lead outside the root; `follow` follows them, too.

    Raises:
        DataError: a folder cannot be listed, or a link leads outside; names it.
    """
    tree = Tree()
    real_root = os.path.realpath(root)
    waiting = deque(_walk_below("", root, real_root, links, tree))
    if not waiting:
        return tree
    seen = set(tree.inodes_from(0))
    while waiting:
        link = waiting.popleft()
        if links == "inside":
            _refuse_outside(str(root / link), real_root)
        try:
            status = (root / link).stat()
        except OSError as error:
            raise DataError(f"{root / link}: cannot be listed ({error.strerror})") from None
        if (status.st_dev, status.st_ino) not in seen:
            listed = len(tree.folders)
            waiting += _walk_below(link, root, real_root, links, tree)
            seen.update(tree.inodes_from(listed))
    return tree


def unchanged(root: Path, folders: Iterable[str], stamps: NDArray[np.uint64]) -> bool:
    """Whether the folders of an earlier walk have the same entries as then."""
    now = array("Q")
    try:
        for folder in folders:
            _add_stamp(now, os.stat(f"{root}/{folder}"))  # noqa: PTH116 (as text: there may be millions)
    except OSError:
        return False
    rows = np.array(now, dtype=np.uint64).reshape(-1, 4)
    return rows.shape == stamps.shape and bool(
        (rows[:, 1:] == stamps[:, 1:]).all()
    )  # devices are renumbered at a start


def is_settled(stamps: NDArray[np.uint64], began_ns: int) -> bool:
    """Whether all folders had been left alone for a while when the walk began.

    A folder that changed a moment before may change again within one tick of its file system's clock, unnoticed.
    """
    return bool(stamps[:, 2:].astype(np.int64).max(initial=0) < began_ns - _YOUNG_NANOSECONDS)


def _walk_below(start: str, root: Path, real_root: str, links: Links, tree: Tree) -> list[str]:
    """List `start` and the real folders below it; returns the links to folders that were met, sorted."""
    base = str(root)
    stack, met = [start], []
    while stack:
        folder = stack.pop()
        path = f"{base}/{folder}" if folder else base
        below = f"{folder}/" if folder else ""
        names = []
        try:
            # Looked at before it is listed: what changes in between is noticed the next time.
            _add_stamp(tree.stamps, os.stat(path))  # noqa: PTH116 (as text: there may be millions)
            with os.scandir(path) as entries:
                for entry in entries:
                    name = entry.name
                    if name[0] == ".":
                        continue
                    is_link = entry.is_symlink()
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(below + name)
                    elif is_link and _leads_to_folder(entry):
                        met.append(below + name)
                    elif name.endswith(_ENDINGS) or name.lower().endswith(_ENDINGS):
                        if is_link and links == "inside":
                            _refuse_outside(entry.path, real_root)
                        names.append(name)
                    elif name not in ALIGNMENT_FILES:
                        tree.others[Path(name).suffix or name] += 1
        except OSError as error:
            raise DataError(f"{error.filename or path}: cannot be listed ({error.strerror})") from None
        tree.folders.append(folder)
        if names:
            names.sort()
            tree.images[folder] = "\0".join(names)
    met.sort()
    return met


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def _refuse_outside(path: str, real_root: str) -> None:
    target = os.path.realpath(path)
    if target != real_root and not target.startswith(os.path.join(real_root, "")):  # noqa: PTH118 (with a separator at its end)
        raise DataError(
            f"{path}: is a link that leads outside the data set, to {target}. data.links=follow takes such links in; or "
            "remove it"
        )


def _add_stamp(stamps: array[int], status: os.stat_result) -> None:
    stamps.append(status.st_dev & _UNSIGNED)
    stamps.append(status.st_ino & _UNSIGNED)
    stamps.append(status.st_mtime_ns & _UNSIGNED)
    stamps.append(status.st_ctime_ns & _UNSIGNED)
