"""A folder of aligned crops, `<root>/<identity>/<image>.jpg`."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from frtrain.data.encoded import EncodedSource
from frtrain.data.folder_tree import Links, Tree, is_settled, unchanged, walk_images
from frtrain.data.images import EXTENSIONS, read_file
from frtrain.data.index_cache import load_index, save_index
from frtrain.data.names import Names
from frtrain.data.source import SOURCES
from frtrain.errors import DataError

log = logging.getLogger(__name__)

Layout = Literal["auto", "top_folder", "parent_folder", "file_name"]

WORTH_KEEPING = 10_000
"""Images from which on the index is kept: fewer are found again in a moment."""

FEW, MANY = 5, 50
"""So few identities with so many folders each are more often the parts of a data set, as `train` and `test`."""

INDEX_VERSION = "1"
"""Of the arrays that are kept, and of the rules by which they are made."""


@SOURCES.register("folder")
class FolderSource(EncodedSource):
    """Image files below a folder; the identity is part of each file's path.

    Layouts (`auto` takes `file_name` when images lie only in the root itself, else `top_folder`):
        top_folder: `<root>/<identity>/.../<image>`; sessions or videos below an identity belong to it.
        parent_folder: `<root>/.../<identity>/<image>`; the identity is named by its whole relative path.
        file_name: `<root>/<identity>_<number>.<ext>`, as LFW names its files.

    Links (each real folder is listed once, by its own name where it has one below the root, so loops end):
        inside: links within the root are followed; one that leads outside is an error.
        follow: all are followed.

    Names may be any Unicode. Classes are in the order of their names. The fingerprint covers names, not pixels. What was
    found in a large folder is kept (`frtrain.data.index_cache`) for as long as none of its folders changes.

    Raises:
        DataError: no such folder, no images, fewer than two identities, or a link that leads outside.
    """

    def __init__(self, root: str, layout: Layout, links: Links):
        if not root:
            raise DataError("data.root: a folder is required; set it with data.root=...")
        self.root = Path(root).expanduser()
        index = _index_of(self.root, layout, links)
        for note in index.notes:
            log.warning("%s: %s", self.root, note)
        if not len(index.paths):
            raise DataError(
                f"data.root={root} has no images: expected {root}/<identity>/<image> with one of "
                f"{', '.join(sorted(EXTENSIONS))}"
            )
        if len(index.classes) < 2:
            raise DataError(
                f"data.root={root}: {len(index.classes)} identity ({', '.join(index.classes)}) with {len(index.paths)} "
                f"images, but two are needed at least. Expected {root}/<identity>/<image>"
            )
        self.classes = index.classes
        self.paths = index.paths
        self.labels: NDArray[np.int64] = np.repeat(np.arange(len(index.classes), dtype=np.int64), index.counts)
        self.fingerprint = f"folder:{len(self.paths)} images:{len(self.classes)} identities:{index.digest}"

    def encoded(self, index: int) -> bytes:
        """The file's content."""
        return read_file(f"{self.root}/{self.paths[index]}")  # joining paths would take as long as reading

    def name(self, index: int) -> str:
        """The path below the root."""
        return self.paths[index]

    def describe(self, index: int) -> str:
        """The file's path."""
        return str(self.root / self.paths[index])


@dataclass(frozen=True)
class _Index:
    """The images of a folder by identity.

    Attributes:
        paths: of all images below the root, identity by identity.
        classes: identities in the order of their names.
        counts: `int64 [C]`, images of each.
        digest: of the paths.
        notes: what the user should know of what was left out.
    """

    paths: Names
    classes: list[str]
    counts: NDArray[np.int64]
    digest: str
    notes: list[str]


def _index_of(root: Path, layout: Layout, links: Links) -> _Index:
    """From what an earlier call has kept if no folder changed since, otherwise by a walk."""
    if not root.is_dir():
        raise DataError(f"data.root={root}: no such folder")
    key = f"folder:{INDEX_VERSION}:{os.path.realpath(root)}:{layout}:{links}"
    kept = load_index(key, INDEX_VERSION)
    if kept is not None and unchanged(root, _texts(kept["folders"]), kept["stamps"].astype(np.uint64)):
        return _Index(
            paths=Names(kept["paths"].astype(np.uint8, copy=False), kept["ends"].astype(np.int64, copy=False)),
            classes=_texts(kept["classes"]),
            counts=kept["counts"].astype(np.int64, copy=False),
            digest=str(kept["digest"]),
            notes=_texts(kept["notes"]),
        )
    began = time.time_ns()
    tree = walk_images(root, links)
    index = _indexed(tree, layout)
    stamps = tree.stamp_rows()
    if len(index.paths) >= WORTH_KEEPING and is_settled(stamps, began):
        arrays: dict[str, NDArray[np.generic]] = {
            "folders": _bytes("\0".join(folder or "." for folder in tree.folders)),
            "stamps": stamps,
            "paths": index.paths.block,
            "ends": index.paths.ends,
            "classes": _bytes("\0".join(index.classes)),
            "counts": index.counts,
            "digest": np.array(index.digest),
            "notes": _bytes("\0".join(index.notes)),
        }
        save_index(key, INDEX_VERSION, arrays)
    return index


def _indexed(tree: Tree, layout: Layout) -> _Index:
    """Group the images of a tree by identity."""
    if layout == "auto":
        layout = "file_name" if list(tree.images) == [""] else "top_folder"
    groups = _by_file_name(tree) if layout == "file_name" else _by_folder(tree, layout)
    classes = sorted(groups)
    paths = [groups[name] for name in classes]
    joined = "\0".join(paths).encode("utf-8", "surrogateescape")
    block = np.frombuffer(joined, dtype=np.uint8)
    is_text = block != 0
    ends = np.append(np.flatnonzero(~is_text), len(block)) if joined else np.zeros(0, np.int64)
    return _Index(
        paths=Names(block[is_text], (ends - np.arange(len(ends))).astype(np.int64)),
        classes=classes,
        counts=np.array([text.count("\0") + 1 for text in paths], dtype=np.int64),
        digest=hashlib.sha256(joined.replace(b"\0", b"\n")).hexdigest()[:16],
        notes=list(_notes(tree, layout)),
    )


def _by_folder(tree: Tree, layout: Layout) -> Mapping[str, str]:
    """The sorted paths of each identity, joined by NUL."""
    folders: dict[str, list[str]] = defaultdict(list)
    for folder in tree.images:
        if folder:
            folders[folder if layout == "parent_folder" else folder.partition("/")[0]].append(folder)
    groups = {}
    for identity, parts in folders.items():
        texts = [_full_paths(folder, tree.images[folder]) for folder in parts]
        groups[identity] = texts[0] if len(texts) == 1 else "\0".join(sorted("\0".join(texts).split("\0")))
    return groups


def _by_file_name(tree: Tree) -> Mapping[str, str]:
    paths: dict[str, list[str]] = defaultdict(list)
    for folder, names in tree.images.items():
        for path in _full_paths(folder, names).split("\0"):
            paths[_name_before_number(path)].append(path)
    return {identity: "\0".join(sorted(files)) for identity, files in paths.items()}


def _full_paths(folder: str, names: str) -> str:
    return f"{folder}/" + names.replace("\0", f"\0{folder}/") if folder else names


def _notes(tree: Tree, layout: Layout) -> Iterator[str]:
    if tree.others:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in tree.others.most_common(5))
        yield f"files that are not images are left out: {listed}"
    identities = {folder.partition("/")[0] for folder in tree.images if folder}
    if layout == "top_folder" and 0 < len(identities) <= FEW and len(tree.images) >= MANY * len(identities):
        yield (
            f"{len(identities)} identities ({', '.join(sorted(identities))}) have {len(tree.images)} folders of images: if "
            "those are the identities, data.root is a folder too high, or data.layout=parent_folder is meant"
        )
    if layout != "file_name" and "" in tree.images:
        strays = tree.images[""].split("\0")
        yield f"{len(strays)} images outside identity folders are left out, e.g. {strays[0]}"


def _name_before_number(path: str) -> str:
    stem = Path(path).stem
    name, separator, number = stem.rpartition("_")
    return name if separator and number.isdigit() else stem


def _bytes(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode("utf-8", "surrogateescape"), dtype=np.uint8)


def _texts(data: NDArray[np.generic]) -> list[str]:
    text = data.tobytes().decode("utf-8", "surrogateescape")
    return text.split("\0") if text else []
