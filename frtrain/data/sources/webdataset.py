"""WebDataset shards: tar files of images with their labels, read at random."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frtrain.data.encoded import EncodedSource
from frtrain.data.formats.open_files import OpenFiles
from frtrain.data.formats.tar_index import COMPRESSED, Members, refusal_of_compressed, walk
from frtrain.data.images import EXTENSIONS
from frtrain.data.index_cache import load_index, save_index, stamp_of
from frtrain.data.label_texts import LabelTexts
from frtrain.data.manifest import CLASSES, read_classes
from frtrain.data.names import Names
from frtrain.data.pack_names import listed_names, relative_name
from frtrain.data.source import SOURCES
from frtrain.errors import DataError, ImageError

log = logging.getLogger(__name__)

LIST = "images.lst"
"""What gives a pack of frtrain its image names back, beside the shards."""

LARGEST_IMAGE = 1 << 28
"""Bytes; a member above this is no face crop."""

_LONGEST_LABEL = 1000
_LABEL_KEYS = ("label", "class", "identity", "id")
_IMAGE_ENDINGS = frozenset(extension.removeprefix(".") for extension in EXTENSIONS)


@SOURCES.register("webdataset")
class WebDatasetSource(EncodedSource):
    """Tar shards as WebDataset has them: members of one sample share their name up to the first dot.

    The label is the text of the sample's `.cls`, or the value of `label`, `class`, `identity` or `id` in its `.json`: a
    number or an identity's name. If no sample of the pack has either, the first folder of the member's name is the
    identity. `classes.txt` beside the shards names the classes of numbers, `images.lst` the images; without it an image
    is called `<identity>/<member>`.

    Shards are taken in the order of their names. Their headers are walked once; the index is kept in the cache. The
    fingerprint covers names, sizes and labels, not pixels.

    Args:
        root: folder of `*.tar`, or one such file.

    Raises:
        DataError: no shards, a shard that is compressed, damaged or refused (`tar_index.walk`), a sample without a label
            or with two images, fewer than two identities.
    """

    def __init__(self, root: str):
        if not root:
            raise DataError("data.root: a folder with tar files is required; set it with data.root=...")
        self.root = Path(root).expanduser()
        shards = _shards(self.root)
        self.folder = shards[0].parent
        self.files = OpenFiles(shards)
        index = _index(shards, self.folder / CLASSES)
        self.members = index.members
        self.classes: Sequence[str] = index.classes
        self.labels, self.numbers = index.labels, index.numbers
        self.shards, self.offsets, self.sizes = index.shards, index.offsets, index.sizes
        self.label_is_folder, self.members_repeat = index.label_is_folder, index.members_repeat
        if len(self.classes) < 2:
            raise DataError(
                f"data.root={root}: identities: {len(self.classes)}, images: {len(self.labels)}, but two identities are "
                "needed at least"
            )
        digest = hashlib.sha256()
        for array in (index.members.block, index.members.ends, index.sizes, index.labels):
            digest.update(np.ascontiguousarray(array).data)
        counts = f"{len(self.labels)} images:{len(self.classes)} identities"
        self.fingerprint = f"webdataset:{counts}:{digest.hexdigest()[:16]}"
        self._names: Names | None = None

    def encoded(self, index: int) -> bytes:
        """The member's data."""
        offset, size = int(self.offsets[index]), int(self.sizes[index])
        if size > LARGEST_IMAGE:
            raise ImageError(self.describe(index), f"is enormous ({size} bytes; the limit is {LARGEST_IMAGE})")
        try:
            data = self.files.read(int(self.shards[index]), offset, size)
        except OSError as error:
            raise ImageError(self.describe(index), f"cannot be read ({error.strerror or error})") from None
        if len(data) < size:
            raise ImageError(self.describe(index), f"the shard ends after {len(data)} of {size} bytes: it has changed")
        return data

    def name(self, index: int) -> str:
        """As `images.lst` has it; else `<identity>/<member>`."""
        if self._names is None:
            self._names = self._listed_names()
        if len(self._names):
            return self._names[index]
        member = relative_name(self.members[index])
        if self.members_repeat:
            member = f"{self.files.paths[int(self.shards[index])].stem}/{member}"
        return member if self.label_is_folder else f"{self.classes[int(self.labels[index])]}/{member}"

    def describe(self, index: int) -> str:
        """Shard and member."""
        return f"{self.files.paths[int(self.shards[index])]}:{self.members[index]}"

    def _listed_names(self) -> Names:
        """Of `images.lst`, whose numbers are the members' in packs of frtrain; empty if there is none."""
        if not len(self.numbers) or not (self.folder / LIST).is_file():
            return Names.of([])
        numbers = array("q")
        for member in self.members:
            key = member.partition(".")[0]
            if not re.fullmatch("[0-9]{1,18}", key):
                return Names.of([])
            numbers.append(int(key))
        listed = listed_names([(self.folder / LIST, np.array(numbers, dtype=np.int64), self.numbers[self.labels])])
        return Names.of([]) if listed is None else listed[0]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_names": None}


@dataclass(frozen=True)
class _Index:
    """What opening finds out, per image of all shards in their order."""

    members: Names
    shards: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: Names
    numbers: NDArray[np.int64]
    label_is_folder: bool
    members_repeat: bool


def _shards(root: Path) -> list[Path]:
    if not root.is_dir():
        if not root.exists():
            raise DataError(f"data.root={root}: no such folder or tar file")
        return [root]
    try:
        files = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"data.root={root}: cannot be listed ({error.strerror})") from None
    for path in files:
        if path.suffix in COMPRESSED and (path.suffix == ".tgz" or ".tar" in path.suffixes):
            raise refusal_of_compressed(path, path.suffix)
    shards = [path for path in files if path.suffix.lower() == ".tar"]
    if not shards:
        raise DataError(f"data.root={root} has no shards: expected {root}/*.tar")
    return shards


def _index(shards: list[Path], class_file: Path) -> _Index:
    """The index of all shards: from the cache if they have not changed since, else by walking them."""
    key = f"webdataset 1:{shards[0].parent.absolute() if len(shards) > 1 else shards[0].absolute()}"
    try:
        stamp = stamp_of([*shards, class_file] if class_file.exists() else shards)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from None
    kept = load_index(key, stamp)
    if kept is None:
        index = _walk_all(shards, class_file)
        arrays: dict[str, NDArray[Any]] = {
            "member_block": index.members.block,
            "member_ends": index.members.ends,
            "shards": index.shards,
        }
        arrays |= {"offsets": index.offsets, "sizes": index.sizes, "labels": index.labels}
        arrays |= {"class_block": index.classes.block, "class_ends": index.classes.ends, "numbers": index.numbers}
        save_index(key, stamp, arrays | {"flags": np.array([index.label_is_folder, index.members_repeat])})
        return index
    whole = {name: array.astype(np.int64, copy=False) for name, array in kept.items() if not name.endswith("_block")}
    return _Index(
        members=Names(kept["member_block"].astype(np.uint8, copy=False), whole["member_ends"]),
        shards=whole["shards"],
        offsets=whole["offsets"],
        sizes=whole["sizes"],
        labels=whole["labels"],
        classes=Names(kept["class_block"].astype(np.uint8, copy=False), whole["class_ends"]),
        numbers=whole["numbers"],
        label_is_folder=bool(whole["flags"][0]),
        members_repeat=bool(whole["flags"][1]),
    )


def _walk_all(shards: list[Path], class_file: Path) -> _Index:
    where = str(shards[0].parent if len(shards) > 1 else shards[0])
    texts = LabelTexts()
    known: dict[bytes, int] = {}  # codes of the contents of .cls members
    samples = [_samples(path, texts, known) for path in shards]
    members = _joined([shard.members for shard in samples])
    codes = np.concatenate([shard.codes for shard in samples])
    if not len(codes):
        raise DataError(f"{where}: the shards have no images ({', '.join(sorted(EXTENSIONS))})")
    label_is_folder = len(texts) == 0
    if label_is_folder:
        codes = np.array([texts.code(_first_folder(member, where)) for member in members], dtype=np.int64)
    elif (codes < 0).any():
        at = int(np.flatnonzero(codes < 0)[0])
        raise DataError(
            f"{where}: {int((codes < 0).sum())} of {len(codes)} images have no label, e.g. {members[at]}: expected a "
            f".cls beside it, or a .json with one of {', '.join(_LABEL_KEYS)}"
        )
    names = read_classes(class_file) if not label_is_folder and class_file.exists() else None
    classes = texts.classes(where, names)
    hashes = np.concatenate([shard.hashes for shard in samples])
    return _Index(
        members=members,
        shards=np.repeat(np.arange(len(shards), dtype=np.int64), [len(shard.codes) for shard in samples]),
        offsets=np.concatenate([shard.offsets for shard in samples]),
        sizes=np.concatenate([shard.sizes for shard in samples]),
        labels=classes.of_code[codes],
        classes=classes.names,
        numbers=classes.numbers,
        label_is_folder=label_is_folder,
        members_repeat=len(np.unique(hashes)) < len(hashes),
    )


@dataclass(frozen=True)
class _ShardSamples:
    """The images of one shard; `codes` of label texts are -1 where an image has none."""

    members: Names
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    codes: NDArray[np.int64]
    hashes: NDArray[np.int64]


def _samples(path: Path, texts: LabelTexts, known: dict[bytes, int]) -> _ShardSamples:
    """Walk a shard and group its members to samples by the name up to the first dot."""
    grouping = _Grouping(path, texts, known)
    for found in walk(path, content_of=(".cls", ".json")):
        if not grouping.add_pairs(found):
            grouping.add(found)
    without_image = len(grouping.labels.keys() - grouping.images) if len(grouping.labels) != len(grouping.images) else 0
    if without_image:
        log.warning("%s: %d samples have a label but no image, and are left out", path, without_image)
    return _ShardSamples(
        members=Names.of(grouping.members),
        offsets=np.array(grouping.offsets, dtype=np.int64),
        sizes=np.array(grouping.sizes, dtype=np.int64),
        codes=np.array([grouping.labels.get(key, -1) for key in grouping.images], dtype=np.int64),
        hashes=np.array([hash(_plain(member)) for member in grouping.members], dtype=np.int64),
    )


class _Grouping:
    """The samples of one shard, as its members come."""

    def __init__(self, path: Path, texts: LabelTexts, known: dict[bytes, int]):
        self.path, self.texts, self.known = path, texts, known
        self.images: dict[str, str] = {}  # members by key, in their order
        self.members: list[str] = []
        self.offsets: list[int] = []
        self.sizes: list[int] = []
        self.labels: dict[str, int] = {}  # codes by key

    def add_pairs(self, found: Members) -> bool:
        """Add members that are image and .cls in turn, as nearly all are, at once; False if they are something else."""
        joined = "\0" + "\0".join(found.names)
        if joined.count(".") != len(found.names) or "/." in joined or "\0." in joined or len(found.names) % 2:
            return False
        first = int(found.names[0].endswith(".cls"))
        images, labels, contents = found.names[first::2], found.names[1 - first :: 2], found.contents[1 - first :: 2]
        keys = [image[:-4] for image in images]
        if not {image[-4:] for image in images} <= {".jpg", ".png"} or [f"{key}.cls" for key in keys] != labels:
            return False
        if not self.images.keys().isdisjoint(keys) or len(set(keys)) != len(keys):
            return False
        self.images.update(zip(keys, images, strict=True))
        self.members += images
        self.offsets += found.offsets[first::2]
        self.sizes += found.sizes[first::2]
        codes = [self._cls_code(content or b"", name) for content, name in zip(contents, labels, strict=True)]
        self.labels.update(zip(keys, codes, strict=True))
        return True

    def add(self, found: Members) -> None:
        """Add members of any kind."""
        for name, offset, size, content in zip(found.names, found.offsets, found.sizes, found.contents, strict=True):
            folder, slash, file = name.rpartition("/")
            stem, dot, ending = file.partition(".")
            if not stem or not dot:  # hidden, or without an ending
                continue
            key = folder + slash + stem
            if content is None:
                if ending.lower() in _IMAGE_ENDINGS:
                    if self.images.setdefault(key, name) is not name:
                        raise DataError(f"{self.path}: sample '{key}' has two images: {self.images[key]} and {name}")
                    self.members.append(name)
                    self.offsets.append(offset)
                    self.sizes.append(size)
            elif ending == "cls":
                self.labels[key] = self._cls_code(content, name)
            elif ending == "json" and key not in self.labels:
                label = _json_label(content, self.path, name)
                if label is not None:
                    self.labels[key] = self.texts.code(label)

    def _cls_code(self, content: bytes, name: str) -> int:
        code = self.known.get(content)
        if code is None:
            code = self.known[content] = self.texts.code(_label(content, self.path, name))
        return code


def _label(content: bytes, path: Path, name: str) -> str:
    label = content.decode("utf-8", "surrogateescape").strip()
    if not label or len(label) > _LONGEST_LABEL:
        raise DataError(f"{path}: {name} is no label: {len(label)} characters; expected a number or an identity's name")
    return label


def _json_label(content: bytes, path: Path, name: str) -> str | None:
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: {name} is not JSON ({error})") from None
    if not isinstance(record, dict):
        return None
    for key in _LABEL_KEYS:
        value = record.get(key)
        if isinstance(value, (int, str)) and not isinstance(value, bool):
            return _label(str(value).encode("utf-8", "surrogatepass"), path, name)
    return None


def _plain(member: str) -> str:
    return relative_name(member) if "./" in member or "//" in member else member


def _first_folder(member: str, where: str) -> str:
    folder, slash, _ = member.removeprefix("./").partition("/")
    if not slash:
        raise DataError(
            f"{where}: {member} has no label: expected a .cls beside it, a .json with one of {', '.join(_LABEL_KEYS)}, or "
            "names of the form <identity>/<image>"
        )
    return folder


def _joined(parts: list[Names]) -> Names:
    starts = np.cumsum([0, *(len(part.block) for part in parts)])
    ends = [part.ends + start for part, start in zip(parts, starts, strict=False)]
    return Names(np.concatenate([part.block for part in parts]), np.concatenate(ends))
