"""What the heads of all records of a `.rec` say: where each lies, its number and its label.

One small read per record, whether an `.idx` names their offsets or the frames are followed from the first to the last.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frtrain.data.formats.recordio import (
    FRAME,
    IMAGE_HEADER,
    LARGEST_PAYLOAD,
    MAGIC,
    RecordReader,
    unpack_record,
)
from frtrain.errors import DataError, ImageError

RECORDS_AT_ONCE = 65536

_HEAD = np.dtype(
    [
        ("magic", "<u4"),
        ("word", "<u4"),
        ("flag", "<u4"),
        ("label", "<f4"),
        ("number", "<u8"),
        ("second", "<u8"),
        ("first", "<f4"),
    ]
)
"""Frame, image header and the first label after it."""

_MAGIC = int.from_bytes(MAGIC, "little")


@dataclass(frozen=True, eq=False)
class RecordTable:
    """Image records of a file, in the order of the file. All arrays are `[N]`.

    Attributes:
        numbers: `int64`, keys of the `.idx`; without one the numbers in the records, or 0 .. N-1 where those repeat.
        offsets: `int64`, where each record starts.
        extents: `int64`, bytes it occupies.
        labels: `float32`, the label, of several the first.
        images: `int64`, bytes of the image file; 0 for InsightFace's header and identity records.
    """

    numbers: NDArray[np.int64]
    offsets: NDArray[np.int64]
    extents: NDArray[np.int64]
    labels: NDArray[np.float32]
    images: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)


def read_table(reader: RecordReader, index: Path | None = None) -> RecordTable:
    """Read the heads of all records, or of those that `index` names.

    Raises:
        DataError: the index cannot be read, is not made of numbers, or names an offset where no record lies; the message
            names its line. `ImageError` (a `DataError` too): a record is damaged or no image record; names its offset.
    """
    if index is None:
        return _table_in_order(reader)
    numbers, offsets = read_index(index)
    order = np.argsort(offsets, kind="stable")
    numbers, offsets = numbers[order], offsets[order]
    table = _table_at(reader, index, order, numbers, offsets)
    _check_overlap(reader, index, order, table)
    _check_numbers(index, order, numbers)
    return table


def read_index(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The keys and byte offsets of an `.idx`, `int64 [N]` each, in the order of its lines.

    Raises:
        DataError: it cannot be read, is empty, or a line is not two numbers; names the line.
    """
    try:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        with path.open(encoding="latin-1") as lines, warnings.catch_warnings():
            warnings.simplefilter("error")  # an empty file, and numbers that are not whole
            columns = np.loadtxt(lines, dtype=np.int64, comments=None, ndmin=2)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, OverflowError, Warning):
        columns = np.empty((0, 0), dtype=np.int64)
    if columns.shape[1] != 2:
        raise DataError(_first_bad_line(path))
    return columns[:, 0], columns[:, 1]


def _first_bad_line(path: Path) -> str:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.split()
            if fields and not (len(fields) == 2 and all(field.isdigit() and len(field) < 19 for field in fields)):
                return f"{path}:{number}: expected a record's number and its byte offset, found {line[:60]!r}; {_remedy(path)}"
    return f"{path}: is empty; {_remedy(path)}"


def _remedy(index: Path) -> str:
    return f"delete {index.name} to have it made anew from the .rec"


def _line_of(index: Path, row: int) -> str:
    """`file:line` of the row-th line that is not blank."""
    with index.open("rb") as lines:
        numbers = (number for number, line in enumerate(lines, start=1) if line.strip())
        return f"{index}:{next(itertools.islice(numbers, row, None))}"


def _table_at(
    reader: RecordReader,
    index: Path,
    rows: NDArray[np.int64],
    numbers: NDArray[np.int64],
    offsets: NDArray[np.int64],
) -> RecordTable:
    tables = []
    for start in range(0, len(offsets), RECORDS_AT_ONCE):
        chunk = offsets[start : start + RECORDS_AT_ONCE]
        try:
            table = _table_of(reader, chunk, _heads_at(reader, chunk.tolist()))
        except ImageError as error:
            row, reason = _first_problem(reader, chunk) or (0, error.reason)
            raise DataError(
                f"{_line_of(index, int(rows[start + row]))}: byte {chunk[row]} of {reader.path}: {reason}. The two files do "
                f"not belong together, or the .rec is damaged or cut short ({reader.size} bytes); if it is whole, "
                f"{_remedy(index)}"
            ) from None
        tables.append(table)
    joined = _joined(tables)
    return RecordTable(numbers, joined.offsets, joined.extents, joined.labels, joined.images)


def _first_problem(reader: RecordReader, offsets: NDArray[np.int64]) -> tuple[int, str] | None:
    """Which of the records cannot be used, and why."""
    for row in range(len(offsets)):
        one = offsets[row : row + 1]
        try:
            _table_of(reader, one, _heads_at(reader, one.tolist()))
        except ImageError as error:
            return row, error.reason
    return None


def _table_in_order(reader: RecordReader) -> RecordTable:
    heads = _heads_in_order(reader)
    tables = []
    while chunk := list(itertools.islice(heads, RECORDS_AT_ONCE)):
        offsets = np.array([offset for offset, _ in chunk], dtype=np.int64)
        tables.append(_table_of(reader, offsets, (head for _, head in chunk)))
    if not tables:
        raise DataError(f"{reader.path}: is empty (0 bytes): no records")
    table = _joined(tables)
    if len(np.unique(table.numbers)) == len(table) and table.numbers.min() >= 0:
        return table
    numbers = np.arange(len(table), dtype=np.int64)
    return RecordTable(numbers, table.offsets, table.extents, table.labels, table.images)


def _heads_at(reader: RecordReader, offsets: list[int]) -> Iterator[bytes]:
    size = reader.size
    for offset in offsets:
        count = _HEAD.itemsize if 0 <= offset <= size - _HEAD.itemsize else max(FRAME.size, size - offset)
        yield reader.read(offset, min(count, _HEAD.itemsize))


def _heads_in_order(reader: RecordReader) -> Iterator[tuple[int, bytes]]:
    """Offset and head of each record, from the first to the last byte of the file."""
    at, size = 0, reader.size
    while at < size:
        head = reader.read(at, max(FRAME.size, min(_HEAD.itemsize, size - at)))
        yield at, head
        magic, word = FRAME.unpack_from(head)
        end = at + FRAME.size + word + (-word % 4)
        whole = magic == MAGIC and word <= LARGEST_PAYLOAD and end <= size
        at = end if whole else at + reader.extent(at)


def _table_of(reader: RecordReader, offsets: NDArray[np.int64], heads: Iterable[bytes]) -> RecordTable:
    """Make numbers of heads; the rare ones that are not one whole plain frame are looked at one by one."""
    fields = np.frombuffer(b"".join(head.ljust(_HEAD.itemsize, b"\0") for head in heads), dtype=_HEAD)
    length = fields["word"].astype(np.int64)
    extents = FRAME.size + length + (-length % 4)
    flags = fields["flag"].astype(np.int64)
    images = length - IMAGE_HEADER.size - 4 * flags
    plain = (
        (fields["magic"] == _MAGIC) & (length <= LARGEST_PAYLOAD) & (images >= 0) & (offsets + extents <= reader.size)
    )
    labels = np.where(flags == 0, fields["label"], fields["first"])
    numbers = fields["number"].astype(np.int64)
    for row in np.flatnonzero(~plain).tolist():
        offset = int(offsets[row])
        extents[row] = reader.extent(offset)
        record = unpack_record(reader.payload(offset, int(extents[row])), reader.where(offset))
        labels[row], images[row] = record.labels[0], len(record.data)
        numbers[row] = np.uint64(record.number).astype(np.int64)
    return RecordTable(numbers, offsets, extents, labels, images)


def _joined(tables: list[RecordTable]) -> RecordTable:
    return RecordTable(
        np.concatenate([table.numbers for table in tables]),
        np.concatenate([table.offsets for table in tables]),
        np.concatenate([table.extents for table in tables]),
        np.concatenate([table.labels for table in tables]),
        np.concatenate([table.images for table in tables]),
    )


def _check_overlap(reader: RecordReader, index: Path, rows: NDArray[np.int64], table: RecordTable) -> None:
    ends = table.offsets + table.extents
    inside = np.flatnonzero(ends[:-1] > table.offsets[1:])
    if len(inside):
        row = int(inside[0])
        raise DataError(
            f"{_line_of(index, int(rows[row + 1]))}: byte {table.offsets[row + 1]} of {reader.path} lies in the record that "
            f"{_line_of(index, int(rows[row]))} names ({table.offsets[row]} to {ends[row]}); {_remedy(index)}"
        )


def _check_numbers(index: Path, rows: NDArray[np.int64], numbers: NDArray[np.int64]) -> None:
    order = np.lexsort((rows, numbers))
    negative = numbers[order[0]] < 0
    twice = np.flatnonzero(np.diff(numbers[order]) == 0)
    if not negative and not len(twice):
        return
    row = int(order[0] if negative else order[twice[0] + 1])
    problem = "is below 0" if negative else "stands on another line too"
    raise DataError(f"{_line_of(index, int(rows[row]))}: record number {numbers[row]} {problem}; {_remedy(index)}")
