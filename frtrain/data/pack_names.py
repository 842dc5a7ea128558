"""Names of the images of a pack: from the list beside it, or made of what the pack knows."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frtrain.data.manifest import read_list
from frtrain.data.names import Names
from frtrain.errors import DataError

log = logging.getLogger(__name__)

_BEGINNINGS = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp", b"BM": "bmp"}


def extension_of(beginning: bytes) -> str:
    """The extension of an image file by its first bytes, `jpg` where they say nothing."""
    return next((extension for magic, extension in _BEGINNINGS.items() if beginning.startswith(magic)), "jpg")


def relative_name(name: str) -> str:
    """A name that stays below whatever folder it is put in: without a leading `/`, `.` and `..`; may be empty."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))


def listed_names(
    packs: Iterable[tuple[Path, NDArray[np.int64], NDArray[np.int64]]],
) -> list[Names] | None:
    """Names of the images of all packs, or `None` where a list is missing or is of something else (in a warning).

    Args:
        packs: of each the list, and number and label of its images, `int64 [N]`. The list must name each number with the
            same label; it may name more.
    """
    packs = list(packs)
    if not all(path.is_file() for path, _, _ in packs):
        return None
    try:
        names = [_names_by_number(*pack) for pack in packs]
    except DataError as error:
        log.warning("%s. Images are named by label and record number", error)
        return None
    if not _are_unique(name for part in names for name in part):
        log.warning("%s: names two images alike. Images are named by label and record number", packs[0][0])
        return None
    return names


def _names_by_number(path: Path, numbers: NDArray[np.int64], labels: NDArray[np.int64]) -> Names:
    listed_numbers, listed_labels = array("q"), array("d")

    def names() -> Iterator[str]:
        for number, label, name in read_list(path):
            listed_numbers.append(number)
            listed_labels.append(label)
            yield relative_name(name)

    try:
        listed = Names.of(names())
    except OverflowError:
        raise DataError(f"{path}: a number in it is too large") from None
    keys = np.frombuffer(listed_numbers, dtype=np.int64)
    order = np.argsort(keys, kind="stable")
    at = np.searchsorted(keys[order], numbers)
    present = at < len(keys)
    rows = order[at[present]]
    if not present.all() or not np.array_equal(keys[rows], numbers):
        raise DataError(f"{path}: does not list all {len(numbers)} records by their numbers")
    if not np.array_equal(np.frombuffer(listed_labels, dtype=np.float64)[rows], labels):
        raise DataError(f"{path}: has other labels than the records")
    if not np.diff(listed.ends, prepend=0)[rows].all():
        raise DataError(f"{path}: has images without a name")
    return listed if np.array_equal(rows, np.arange(len(listed))) else Names.of(listed[row] for row in rows.tolist())


def _are_unique(names: Iterable[str]) -> bool:
    """Told by 64-bit hashes, in a tenth of the memory of a set."""
    hashes = np.frombuffer(array("q", map(hash, names)), dtype=np.int64)
    return len(np.unique(hashes)) == len(hashes)
