"""A pack in InsightFace's RecordIO layout: `train.rec`, `train.idx`, `property`, `train.lst`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

from frtrain.data.formats import recordio
from frtrain.data.formats.recordio import RecordWriter, header_record, identity_record, index_line, pack_record
from frtrain.data.manifest import list_line, read_list
from frtrain.data.pack_names import extension_of, relative_name
from frtrain.data.packs.appended import AppendedFile
from frtrain.data.packs.container import Container, State, part_of
from frtrain.data.packs.target import PART
from frtrain.data.preprocessing import Preprocessing

RECORDS, INDEX, LIST, PROPERTY = "train.rec", "train.idx", "train.lst", "property"
BUFFERED_LINES = 1 << 16


class RecordIOContainer(Container):
    """Images as records 1, 2, ... in their order; InsightFace's record 0 and its identity records behind them.

    Identity records state from where to where an identity's images reach. They are written where all images of every
    identity lie together; otherwise record 0 announces none: InsightFace's `arcface_torch` reads either, and no image
    changes its place for them. Record 0 holds float32 and cannot count above 2^24: larger packs do without it, their
    images are then numbered from 0 (which InsightFace reads as well).

    Args:
        target: the folder.
        state: as `state` gave it; None: begin.
    """

    list_name: ClassVar[str] = LIST
    first_number: ClassVar[int] = 1

    def __init__(self, target: Path, state: State | None):
        self._target = target
        self._records = RecordWriter(part_of(target / RECORDS), state["records"] if state else 0)
        self._index = AppendedFile(part_of(target / INDEX), state["index"] if state else 0)
        self._lines = bytearray()

    def place(self, data: bytes, label: int, name: str, number: int) -> str:
        """The name itself; without one `<label>/<number>`."""
        return relative_name(name) or f"{label}/{number}.{extension_of(data)}"

    def add(self, data: bytes, label: int, name: str, number: int) -> None:
        """Write the record and its line of the index."""
        self._write(pack_record(data, label, number), number)

    def sync(self) -> None:
        """See `Container.sync`."""
        self._records.sync()
        self._write_lines()
        self._index.sync()

    def state(self) -> dict[str, Any]:
        """Bytes of both files."""
        return {"records": self._records.length, "index": self._index.length}

    def complete(self, labels: Iterator[int], classes: Sequence[str]) -> list[tuple[str, str]]:
        """Write record 0, the identity records and `property`."""
        renames = [(f"{name}{PART}", name) for name in (RECORDS, INDEX, PROPERTY)]
        images, ranges = _ranges(labels)
        identities = len(classes) if ranges is not None else 0
        if images + identities + 1 > recordio.EXACT_FLOAT32:
            self.sync()
            self._number_from_zero()
            renames += [(_renumbered(Path(name)).name, name) for name in (INDEX, LIST)]
        else:
            self._write(header_record(images, identities), 0)
            for label in range(identities):
                start, end = (ranges or {}).get(label, (1, 1))
                number = images + 1 + label
                self._write(identity_record(start, end, number), number)
        self.sync()
        side = Preprocessing().size
        part_of(self._target / PROPERTY).write_text(f"{len(classes)},{side},{side}")
        return renames

    def close(self) -> None:
        """See `Container.close`."""
        try:
            self._records.close()
        finally:
            self._index.close()

    @staticmethod
    def files(target: Path) -> Iterator[Path]:
        """See `Container.files`."""
        for path in (target / name for name in (RECORDS, INDEX, LIST, PROPERTY)):
            yield from (path, part_of(path), _renumbered(path))

    def _write(self, payload: bytes, number: int) -> None:
        self._lines += index_line(number, self._records.append(payload)).encode()
        if len(self._lines) > BUFFERED_LINES:
            self._write_lines()

    def _write_lines(self) -> None:
        self._index.write(bytes(self._lines))
        self._lines.clear()

    def _number_from_zero(self) -> None:
        """Index and list anew; the old ones stay, so that a killed call can begin this again."""
        with part_of(self._target / INDEX).open() as lines, _renumbered(self._target / INDEX).open("w") as index:
            for line in lines:
                number, _, offset = line.partition("\t")
                index.write(index_line(int(number) - 1, int(offset)))
        with _renumbered(self._target / LIST).open("w", encoding="utf-8") as listed:
            for key, label, name in read_list(part_of(self._target / LIST)):
                listed.write(list_line(key - 1, int(label), name))


def _renumbered(path: Path) -> Path:
    return part_of(path.with_name(f"{path.name}.renumbered"))


def _ranges(labels: Iterable[int]) -> tuple[int, dict[int, tuple[int, int]] | None]:
    """How many images there are, and the numbers of each identity's (first, last + 1) if they lie together."""
    ranges: dict[int, tuple[int, int]] = {}
    images, is_grouped = 0, True
    for label, group in groupby(labels):
        count = sum(1 for _ in group)
        is_grouped = is_grouped and label not in ranges
        ranges[label] = (images + 1, images + 1 + count)
        images += count
    return images, ranges if is_grouped else None
