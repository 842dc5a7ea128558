"""A text file of image paths with labels."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from frtrain.data.encoded import EncodedSource
from frtrain.data.images import EXTENSIONS, is_image_path, read_file
from frtrain.data.index_cache import load_index, save_index, stamp_of
from frtrain.data.label_texts import LabelTexts
from frtrain.data.manifest import unescaped
from frtrain.data.names import Names
from frtrain.data.source import SOURCES
from frtrain.errors import DataError, ImageError

log = logging.getLogger(__name__)

OUTSIDE = "outside"
"""First part of the names of images that are not below the root."""

_FOLDERS_REMEMBERED = 1 << 16
_LONGEST_LINE = 1 << 16
_ENDINGS = tuple(EXTENSIONS)
_COLUMN_NAMES = {
    "path",
    "file",
    "filename",
    "file_name",
    "image",
    "image_path",
    "label",
    "class",
    "identity",
    "id",
    "name",
}


@SOURCES.register("list")
class ListSource(EncodedSource):
    """Images that a text file lists, one per line:

        path label                 separated by the last blank or by a tab: paths may have blanks
        number<tab>label<tab>path  as im2rec's lists
        flag<tab>path<tab>label    as InsightFace's older lists; told from im2rec's by the first such line

    A label is a whole number or an identity's name. Classes are in the order of the numbers, or of the names. Empty
    lines, lines that begin with `#` and a first line of column names (`path label`) are passed over. A path that a second line lists with the same label is left out
    and told; with another label it is an error. Files are not looked at before they are read. The fingerprint covers
    paths and labels, not pixels.

    Args:
        list: the text file.
        root: folder that relative paths start from; None: the list's own.
        links: `inside` refuses paths that lead out of the root, by themselves when the list is opened, by symbolic links
            when the image is read. `follow` takes them.

    Raises:
        DataError: no such file or folder, a line of another form, a path that leads outside, fewer than two identities.
    """

    def __init__(self, list: str, root: str | None, links: Literal["inside", "follow"]):
        if not list:
            raise DataError("data.list: a text file is required; set it with data.list=...")
        self.list = Path(list).expanduser()
        self.root = Path(os.path.abspath(Path(root).expanduser() if root else self.list.parent))  # noqa: PTH100 (links stay)
        if self.list.exists() and not self.list.is_file():
            raise DataError(f"data.list={list}: is not a text file")
        if not self.root.is_dir():
            raise DataError(f"data.root={self.root}: no such folder")
        self.links = links
        self._real_root = os.path.realpath(self.root)
        self._real_folders: dict[str, str] = {}
        listed = self._opened()
        self.classes: Sequence[str] = listed.classes
        self.labels, self.paths = listed.labels, listed.paths
        if listed.repeated:
            log.warning(
                "%s: %d lines name an image that an earlier line names; they are left out", list, listed.repeated
            )
        if len(self.classes) < 2:
            raise DataError(
                f"data.list={list}: identities: {len(self.classes)}, images: {len(self.labels)}, but two identities are "
                "needed at least. Expected lines of the form: path label"
            )
        digest = hashlib.sha256()
        for array in (self.paths.block, self.paths.ends, self.labels):
            digest.update(np.ascontiguousarray(array).data)
        counts = f"{len(self.labels)} images:{len(self.classes)} identities"
        self.fingerprint = f"list:{counts}:{digest.hexdigest()[:16]}"

    def encoded(self, index: int) -> bytes:
        """The file's content.

        Raises:
            ImageError: it cannot be read, or a link leads out of the root.
        """
        path = self.describe(index)
        return read_file(path if self.links == "follow" else self._resolved(path))

    def name(self, index: int) -> str:
        """The path below the root."""
        path = self.paths[index]
        if path.startswith(("/", "../")):
            return f"{OUTSIDE}/" + "/".join("_" if part == ".." else part for part in path.split("/") if part)
        return path

    def describe(self, index: int) -> str:
        """The file's path."""
        return os.path.join(self.root, self.paths[index])  # noqa: PTH118 (a Path would cost more than the check)

    def _resolved(self, path: str) -> str:
        """The real path, links resolved; folders are looked at once."""
        folder, file = os.path.split(path)
        real = self._real_folders.get(folder)
        if real is None:
            if len(self._real_folders) >= _FOLDERS_REMEMBERED:
                self._real_folders.clear()
            real = self._real_folders[folder] = os.path.realpath(folder)
        found = os.path.join(real, file)  # noqa: PTH118
        if os.path.islink(found):  # noqa: PTH114
            found = os.path.realpath(found)
        if not _is_below(found, self._real_root):
            raise ImageError(path, f"is a link that leads out of {self.root}; data.links=follow reads it all the same")
        return found

    def _opened(self) -> _Listed:
        """What the file lists: from the cache if it has not changed since, else by reading it."""
        key = f"list 2:{self.list.absolute()}:{self.root}:{self.links}"
        try:
            stamp = stamp_of([self.list])
        except OSError as error:
            raise DataError(f"data.list={self.list}: cannot be read ({error.strerror})") from None
        kept = load_index(key, stamp)
        if kept is not None:
            whole = {
                name: array.astype(np.int64, copy=False) for name, array in kept.items() if not name.endswith("_block")
            }
            return _Listed(
                paths=Names(kept["path_block"].astype(np.uint8, copy=False), whole["path_ends"]),
                labels=whole["labels"],
                classes=Names(kept["class_block"].astype(np.uint8, copy=False), whole["class_ends"]),
                repeated=int(whole["repeated"]),
            )
        listed = self._read()
        arrays: dict[str, NDArray[Any]] = {
            "path_block": listed.paths.block,
            "path_ends": listed.paths.ends,
            "labels": listed.labels,
        }
        arrays |= {"class_block": listed.classes.block, "class_ends": listed.classes.ends}
        save_index(key, stamp, arrays | {"repeated": np.array(listed.repeated)})
        return listed

    def _read(self) -> _Listed:
        texts = LabelTexts()
        code_of: dict[str, int] = {}
        repeated = 0
        relabelled: list[tuple[int, str, int]] = []  # line, path, code of lines that may contradict an earlier one
        for line_number, path, label in _lines(self.list):
            place = path if _is_plain(path) else self._placed(path, line_number)
            code = texts.code(label)
            known = len(code_of)
            earlier = code_of.setdefault(place, code)
            if len(code_of) == known:
                repeated += 1
                if earlier != code:
                    relabelled.append((line_number, place, code))
        classes = texts.classes(str(self.list))
        for line_number, place, code in relabelled:
            if classes.of_code[code] != classes.of_code[code_of[place]]:
                raise DataError(
                    f"{self.list}:{line_number}: {place} has the label {classes.names[int(classes.of_code[code])]} here, and "
                    f"{classes.names[int(classes.of_code[code_of[place]])]} on an earlier line"
                )
        codes = np.fromiter(code_of.values(), dtype=np.int64, count=len(code_of))
        return _Listed(Names.of(code_of), classes.of_code[codes], classes.names, repeated)

    def _placed(self, path: str, line_number: int) -> str:
        """A path with `.`, `..` or a beginning `/`, relative to the root where it lies below it."""
        where = f"{self.list}:{line_number}"
        if "\0" in path:
            raise DataError(f"{where}: {path[:80]!r} is no path")
        normal = os.path.normpath(path)
        if normal.startswith("/"):
            normal = "/" + normal.lstrip("/")
            for root in (str(self.root), self._real_root):
                if _is_below(normal, root):
                    normal = os.path.relpath(normal, root)
                    break
        if normal == ".":
            raise DataError(f"{where}: {path} is the folder itself, not an image")
        if self.links == "inside" and (normal.startswith("/") or normal.split("/")[0] == ".."):
            raise DataError(
                f"{where}: {path} leads out of data.root={self.root}; set data.root to a folder above all images, or "
                "data.links=follow"
            )
        return normal

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_real_folders": {}}


@dataclass(frozen=True)
class _Listed:
    paths: Names
    labels: NDArray[np.int64]
    classes: Names
    repeated: int


def _lines(file: Path) -> Iterator[tuple[int, str, str]]:
    """Line number, path and label of every line that has them."""
    label_last: bool | None = None  # of lines with three fields: InsightFace's order
    is_first = True
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(_LONGEST_LINE), ""), start=1):
                text = line.strip()
                if not text or text[0] == "#":
                    continue
                fields = text.split("\t") if "\t" in text else text.rsplit(None, 1)
                if len(line) >= _LONGEST_LINE or not 2 <= len(fields) <= 3:
                    raise DataError(
                        f"{file}:{number}: expected: path label (or number, label, path with tabs); found {text[:80]!r}"
                    )
                if len(fields) == 2:
                    path, label = fields
                else:
                    if label_last is None:
                        label_last = is_image_path(Path(fields[1])) and not is_image_path(Path(fields[2]))
                    path, label = (fields[1], fields[2]) if label_last else (unescaped(fields[2]), fields[1])
                path, label = path.strip(), label.strip()
                if not path or not label:
                    raise DataError(f"{file}:{number}: the {'label' if path else 'path'} is missing: {text[:80]!r}")
                if label.lower().endswith(_ENDINGS) and not path.lower().endswith(_ENDINGS):
                    raise DataError(
                        f"{file}:{number}: the image stands where the label is expected: {text[:80]!r}; expected: path label "
                        "(or number, label, path with tabs)"
                    )
                if is_first and {path.lower(), label.lower()} <= _COLUMN_NAMES:
                    is_first = False
                    continue
                is_first = False
                yield number, path, label
    except OSError as error:
        raise DataError(f"data.list={file}: cannot be read ({error.strerror})") from None


def _is_plain(path: str) -> bool:
    """Whether a path is relative and in its shortest form, so that it stays below the root without a closer look."""
    return path[0] not in "./" and "/." not in path and "//" not in path and path[-1] != "/" and "\0" not in path


def _is_below(path: str, root: str) -> bool:
    return path.startswith(root if root.endswith("/") else root + "/")
