"""RecordIO packs: `train.rec` of InsightFace, of MXNet's im2rec and of `frtrain convert`."""

from __future__ import annotations

import hashlib
import logging
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frtrain.data.encoded import EncodedSource
from frtrain.data.manifest import CLASSES, read_classes
from frtrain.data.names import Names
from frtrain.data.pack_names import extension_of, listed_names, relative_name
from frtrain.data.source import SOURCES
from frtrain.data.sources.recordio_pack import Pack, open_pack, pack_files
from frtrain.errors import DataError, ImageError

log = logging.getLogger(__name__)

PROPERTY = "property"
PROPERTY_BYTES = 1000


@SOURCES.register("recordio")
class RecordIOSource(EncodedSource):
    """Images of a RecordIO pack, in the order of the file.

    `root` is a folder with `train.rec`, or with parts `<name>0.rec`, `<name>1.rec`, ... whose labels mean the same
    identities; or one `.rec` itself. `train.idx` beside it says where the records are; without it the file is read
    once from end to end. InsightFace's header and identity records are known and left out.

    Classes are the labels that occur, in ascending order, however many numbers there are between them. They are named
    by `classes.txt` where that is there, otherwise by the label as text. Images are named by `train.lst` if its numbers
    and labels are those of the records, otherwise `<class>/<record number>.jpg`. The fingerprint covers labels, record
    numbers, sizes and class names, not pixels.

    Attributes:
        packs: the files.
        identities: `int64 [C]`, the label in the file by class.

    Raises:
        DataError: no pack, several unrelated ones, a damaged one, labels that are no numbers of identities, or fewer
            than two identities.
    """

    def __init__(self, root: str):
        if not root:
            raise DataError("data.root: a folder with train.rec is required; set it with data.root=...")
        self.root = Path(root).expanduser()
        self.packs = [open_pack(path) for path in pack_files(self.root)]
        self._ends = list(accumulate(len(pack) for pack in self.packs))
        self.identities, self.labels = np.unique(
            np.concatenate([pack.labels for pack in self.packs]), return_inverse=True
        )
        if len(self.identities) < 2:
            raise DataError(
                f"data.root={root}: all {len(self.labels)} images have the label {self.identities[0]}, but two identities are "
                "needed at least"
            )
        self.classes: Sequence[str] = _class_names(self.packs[0].path.parent, self.identities)
        if self.root.is_dir():
            _compare_property(self.root / PROPERTY, len(self.identities))
        self.fingerprint = self._fingerprint()
        self._names: list[Names] | None = None  # [] once it is known that there are none

    def encoded(self, index: int) -> bytes:
        """The image file in the record: one read."""
        pack, at = self._place(index)
        return pack.encoded(at)

    def encoded_batch(self, indices: Sequence[int]) -> list[bytes | ImageError]:
        """See `EncodedSource`; what of it can be done for all at once takes half the time of one by one."""
        if len(self.packs) > 1:
            return super().encoded_batch(indices)
        return self.packs[0].encoded_batch(np.asarray(indices, dtype=np.int64))

    def name(self, index: int) -> str:
        """The path in the list, or `<class>/<record number>.<extension by the kind of image>`."""
        if self._names is None:
            lists = ((pack.path.with_suffix(".lst"), pack.numbers, pack.labels) for pack in self.packs)
            self._names = listed_names(lists) or []
        pack, at = self._place(index)
        if self._names:
            return self._names[self.packs.index(pack)][at]
        label = self.labels[index]
        identity = relative_name(self.classes[label]) or str(self.identities[label])
        part = f"{pack.path.stem}_" if len(self.packs) > 1 else ""
        return f"{identity}/{part}{pack.numbers[at]}.{extension_of(pack.beginning(at))}"

    def describe(self, index: int) -> str:
        """File, record number and byte."""
        pack, at = self._place(index)
        return pack.describe(at)

    def _place(self, index: int) -> tuple[Pack, int]:
        index = range(len(self.labels))[index]
        part = bisect_right(self._ends, index)
        return self.packs[part], index - (self._ends[part - 1] if part else 0)

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for pack in self.packs:
            for values in (pack.numbers, pack.sizes, pack.labels):
                digest.update(values.astype("<i8").tobytes())
        digest.update("\n".join(self.classes).encode("utf-8", "surrogateescape"))
        return f"recordio:{len(self.labels)} images:{len(self.classes)} identities:{digest.hexdigest()[:16]}"


def _class_names(folder: Path, identities: NDArray[np.int64]) -> Names:
    """Of `classes.txt` where each label has a line of its own there, otherwise the labels as text."""
    path = folder / CLASSES
    if path.is_file():
        names = read_classes(path)
        if identities[-1] < len(names) == len(set(names)):
            return Names.of(names[label] for label in identities.tolist())
        log.warning(
            "%s: has %d different names in %d lines, but labels go up to %d: identities are named by label",
            *(path, len(set(names)), len(names), identities[-1]),
        )
    return Names.of(str(label) for label in identities.tolist())


def _compare_property(path: Path, classes: int) -> None:
    """InsightFace's `property` says how many classes there are; the labels are counted all the same."""
    if not path.is_file():
        return
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            announced = int(file.read(PROPERTY_BYTES).split(",")[0])
    except (OSError, ValueError):
        log.warning("%s: does not start with a number of classes; it is not needed", path)
        return
    if announced != classes:
        log.warning(
            "%s: announces %d classes, but %d labels occur. The labels count; packs of InsightFace may announce more",
            *(path, announced, classes),
        )
