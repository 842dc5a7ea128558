"""A data set whose kind is told by what lies at `root`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from frtrain.config_files import completed
from frtrain.data.images import EXTENSIONS
from frtrain.data.known import Known
from frtrain.data.source import SOURCES, Source
from frtrain.errors import DataError

log = logging.getLogger(__name__)

PACKS = {".rec": "recordio", ".tar": "webdataset", ".parquet": "parquet"}
TABLES = frozenset({".lst", ".csv", ".tsv"})
LISTS = TABLES | {".txt"}

LOOKED_AT = 10_000
"""Entries below the folders of `root` that are looked at in search of an image."""


class Found(NamedTuple):
    """A kind of data set at a place.

    Attributes:
        kind: option of `data`.
        example: the path below `root` that tells it.
    """

    kind: str
    example: str


@SOURCES.register("auto")
def automatic(root: str, known: Known | None) -> Source:
    """The source that fits `root`, with the defaults of its own kind.

    `*.rec` is `recordio`, `*.tar` `webdataset`, `*.parquet` `parquet`, a folder of images `folder`, and a list of images
    (`*.lst`, `*.csv`, `*.tsv`, `*.txt`) `list`, if it is `root` itself or lies there without anything of the others.

    Args:
        root: a folder, or one file.
        known: what is published of the data set; `frtrain inspect` and training compare with it.

    Raises:
        DataError: there is nothing of any kind, or something of several kinds; or as the source found.
    """
    if not root:
        raise DataError("data.root: a folder is required; set it with data.root=...")
    place = Path(root).expanduser()
    kind, example = detect(place)
    log.info("%s is taken as data=%s, because of %s", root, kind, example)
    where = {"list": str(place if place.is_file() else place / example)} if kind == "list" else {"root": root}
    try:
        return SOURCES.build(completed("data", {"name": kind, **where}))
    except DataError as error:
        raise DataError(f"{error} (it was taken as data={kind}; choose that to set further keys of it)") from None


def detect(root: Path) -> Found:
    """Which kind of data set lies at `root`.

    Raises:
        DataError: none, or several; lists what was found.
    """
    if root.is_file():
        return _kind_of_file(root)
    if not root.is_dir():
        raise DataError(f"data.root={root}: no such file or folder")
    try:
        kinds = _kinds_in(root)
        if len(kinds) == 1:
            return kinds[0]
        if not kinds:
            raise DataError(
                f"data.root={root}: holds no data set: expected train.rec, *.tar, *.parquet, <identity>/<image> or a list "
                f"of images{_one_level_down(root)}"
            )
    except OSError as error:
        raise DataError(f"{error.filename or root}: cannot be listed ({error.strerror})") from None
    found = ", ".join(f"{kind} ({example})" for kind, example in kinds)
    raise DataError(
        f"data.root={root}: holds several kinds of data: {found}. Say which with "
        f"{' or '.join(f'data={found.kind}' for found in kinds)}"
    )


def _kind_of_file(path: Path) -> Found:
    extension = path.suffix.lower()
    kind = PACKS.get(extension, "list" if extension in LISTS else None)
    if kind is None:
        raise DataError(
            f"data.root={path}: is a file of no known kind ({', '.join(sorted({*PACKS, *LISTS}))}); name a folder, or "
            "choose the kind with data=..."
        )
    return Found(kind, path.name)


def _kinds_in(root: Path) -> list[Found]:
    """All kinds that lie in a folder. Lists and single pictures beside a pack belong to it, and texts beside tables."""
    files, folders = _entries(root)
    images = [name for name in files if _extension(name) in EXTENSIONS]
    kinds = {kind: name for extension, kind in PACKS.items() for name in files if _extension(name) == extension}
    is_pack = bool(kinds) or "pack.json" in files  # of python -m frtrain convert, with its lists
    tables = [] if is_pack else [name for name in files if _extension(name) in TABLES]
    below = _image_below(root, folders)
    if below is not None:
        kinds["folder"] = below
    elif images and not kinds:
        kinds["folder"] = images[0]
    if tables:
        kinds["list"] = tables[0]
    texts = [name for name in files if _extension(name) == ".txt"]
    if texts and not kinds:
        kinds["list"] = texts[0]
    return [Found(kind, kinds[kind]) for kind in sorted(kinds)]


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Names of files and of folders, sorted, without hidden ones."""
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                (folders if entry.is_dir() else files).append(entry.name)
    return sorted(files), sorted(folders)


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 (of many names)


def _image_below(root: Path, folders: list[str]) -> str | None:
    """Some image in the folders of a root, by its path; None if there is none among the first entries."""
    looked_at = 0
    for folder in folders:
        for path in _files_below(root / folder):
            if path.suffix.lower() in EXTENSIONS:
                return str(path.relative_to(root))
            looked_at += 1
            if looked_at >= LOOKED_AT:
                return None
    return None


def _files_below(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def _one_level_down(root: Path) -> str:
    """A hint at data sets in folders of `root`."""
    _, folders = _entries(root)
    for folder in folders[:LOOKED_AT]:
        files, _ = _entries(root / folder)
        if any(_extension(name) in PACKS for name in files):
            return f". There is one in data.root={root / folder}"
    return ""
