"""A folder of aligned crops, `<root>/<identity>/<image>.jpg`."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from frtrain.data.encoded import EncodedSource
from frtrain.data.images import EXTENSIONS, is_image_path, read_file
from frtrain.data.source import SOURCES
from frtrain.errors import DataError
from frtrain.schema import PositiveInt

log = logging.getLogger(__name__)

ALIGNMENT_FILES = frozenset({"align.json", "align.jsonl"})
"""What `frtrain align` leaves beside its crops: no reason for a warning."""

Layout = Literal["auto", "top_folder", "parent_folder", "file_name"]


@SOURCES.register("folder")
class FolderSource(EncodedSource):
    """Image files below a folder; the identity is part of each file's path.

    Layouts (`auto` takes `file_name` when images lie only in the root itself, else `top_folder`):
        top_folder: `<root>/<identity>/.../<image>`; sessions or videos below an identity belong to it.
        parent_folder: `<root>/.../<identity>/<image>`; the identity is named by its whole relative path.
        file_name: `<root>/<identity>_<number>.<ext>`, as LFW names its files.

    Symbolic links to files and folders are followed (each real folder once, so loops end). Names may be any Unicode.
    Classes are in the order of their names. The fingerprint covers names, not pixels.

    Raises:
        DataError: no such folder, no images, fewer than two identities, or a listed identity is missing.
    """

    def __init__(self, root: str, identities: str | None, min_images: PositiveInt, layout: Layout):
        if not root:
            raise DataError("data.root: a folder is required; set it with data.root=...")
        self.root = Path(root).expanduser()
        paths = list(_image_paths(self.root))
        if not paths:
            raise DataError(
                f"data.root={root} has no images: expected {root}/<identity>/<image> with one of "
                f"{', '.join(sorted(EXTENSIONS))}"
            )
        by_identity = self._group(paths, layout)
        if identities is not None:
            by_identity = _only_listed(by_identity, Path(identities).expanduser(), root)
        kept = {name: files for name, files in by_identity.items() if len(files) >= min_images}
        if len(kept) < 2:
            raise DataError(
                f"data.root={root}: identities with at least {min_images} image(s): {len(kept)}, but two are needed at least. "
                f"Expected {root}/<identity>/<image>; images found: {len(paths)}, identities: {len(by_identity)}"
            )
        self.classes = sorted(kept)
        self.paths = [path for name in self.classes for path in sorted(kept[name])]
        self.labels: NDArray[np.int64] = np.repeat(
            np.arange(len(self.classes), dtype=np.int64), [len(kept[name]) for name in self.classes]
        )
        digest = hashlib.sha256("\n".join(self.paths).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self.fingerprint = f"folder:{len(self.paths)} images:{len(self.classes)} identities:{digest}"

    def encoded(self, index: int) -> bytes:
        """The file's content."""
        return read_file(self.root / self.paths[index])

    def name(self, index: int) -> str:
        """The path below the root."""
        return self.paths[index].replace(os.sep, "/")

    def describe(self, index: int) -> str:
        """The file's path."""
        return str(self.root / self.paths[index])

    def _group(self, paths: list[str], layout: Layout) -> dict[str, list[str]]:
        in_root = [path for path in paths if os.sep not in path]
        if layout == "auto":
            layout = "file_name" if len(in_root) == len(paths) else "top_folder"
        by_identity: dict[str, list[str]] = defaultdict(list)
        if layout == "file_name":
            for path in paths:
                by_identity[_name_before_number(path)].append(path)
            return by_identity
        if in_root:
            log.warning(
                "%s: %d images outside identity folders are left out, e.g. %s", self.root, len(in_root), in_root[0]
            )
        for path in paths:
            folder, _, _ = path.rpartition(os.sep)
            if folder:
                name = folder.replace(os.sep, "/") if layout == "parent_folder" else folder.partition(os.sep)[0]
                by_identity[name].append(path)
        return by_identity


def _image_paths(root: Path) -> Iterator[str]:
    """Relative paths of all images below `root`, in a fixed order; other files are counted in one warning."""
    if not root.is_dir():
        raise DataError(f"data.root={root}: no such folder")
    seen: set[str] = set()
    others: Counter[str] = Counter()
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=_raise_unreadable):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        relative = os.path.relpath(folder, root)
        for name in sorted(files):
            if is_image_path(Path(name)):
                yield name if relative == "." else os.path.join(relative, name)  # noqa: PTH118 (relative paths are kept as text)
            elif not name.startswith(".") and name not in ALIGNMENT_FILES:
                others[Path(name).suffix or name] += 1
    if others:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        log.warning("%s: files that are not images are left out: %s", root, listed)


def _raise_unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be listed ({error.strerror})")


def _name_before_number(path: str) -> str:
    stem = Path(path).stem
    name, separator, number = stem.rpartition("_")
    return name if separator and number.isdigit() else stem


def _only_listed(by_identity: dict[str, list[str]], listing: Path, root: str) -> dict[str, list[str]]:
    """Keep the identities of a list file: one name per line; LFW's own `name<TAB>count` lines and count headers work."""
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.identities={listing}: cannot be read ({error})") from None
    names = [line.split("\t")[0].strip() for line in lines if line.strip()]
    names = [name for name in names if not name.isdigit() or name in by_identity]  # LFW's lists have headers of counts
    missing = [name for name in names if name not in by_identity]
    if missing:
        raise DataError(
            f"data.identities={listing}: {len(missing)} of {len(names)} identities have no images below {root}, "
            f"e.g. {', '.join(missing[:3])}"
        )
    return {name: by_identity[name] for name in names}
