"""What became of each photograph: `align.jsonl`, one line per image, written so that a kill loses nothing.

Where several ranks work, each writes a part of its own, `align.rank3.jsonl`, until all are done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from frtrain.alignment.target import unwritable
from frtrain.errors import DataError

REPORT_NAME = "align.jsonl"
Outcome = Literal["aligned", "centre", "skipped", "unreadable"]

SECOND_SEARCH = "found by the second search"
"""The reason of an `aligned` record whose face the detector found only with its more lenient thresholds."""


class SpoolPlace(NamedTuple):
    """Where an encoded crop waits for its pack."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class Record:
    """One line of the report.

    Attributes:
        path: of the photograph, relative to the source.
        outcome: `aligned`: by its landmarks; `centre`: no face, its centre was cut out; `skipped`: no crop was made;
            `unreadable`: the file could not be decoded, and is tried again by the next call.
        output: of the crop, relative to the target, or its name in the pack; None where there is none.
        box: x1, y1, x2, y2 of the chosen face in pixels of the photograph.
        points: its five landmarks (x, y).
        confidence: the detector's.
        faces: how many faces were found.
        reason: why the outcome is not plainly `aligned`; for an aligned one, that the second search found the face.
        spool: where the crop waits for its pack; None where each crop is a file. Left out of the line then.
    """

    path: str
    outcome: Outcome
    output: str | None = None
    box: list[float] | None = None
    points: list[list[float]] | None = None
    confidence: float | None = None
    faces: int = 0
    reason: str | None = None
    spool: SpoolPlace | None = None

    def line(self) -> bytes:
        """JSON and a newline, UTF-8. File names that are not UTF-8 are escaped, and come back as they were."""
        values = asdict(self)
        if self.spool is None:
            del values["spool"]
        try:
            return f"{json.dumps(values, ensure_ascii=False)}\n".encode()
        except UnicodeEncodeError:
            return f"{json.dumps(values)}\n".encode()

    @classmethod
    def from_line(cls, line: bytes) -> Record:
        """The inverse of `line`.

        Raises:
            ValueError, TypeError: the line is not a record.
        """
        record = cls(**json.loads(line))
        return record if record.spool is None else replace(record, spool=SpoolPlace(*record.spool))

    def brief(self) -> Record:
        """Without what only the file needs to keep: millions of these are held in memory."""
        return replace(self, box=None, points=None, confidence=None)

    def replaces(self, other: Record | None) -> bool:
        """Whether this record counts, `other` being an earlier one of the same photograph."""
        return other is None or self.outcome != "unreadable" or other.outcome == "unreadable"


class Line(NamedTuple):
    """Where a complete line of a report stands."""

    file: Path
    offset: int
    length: int


def part_files(target: Path) -> list[Path]:
    """The parts that ranks have written, in a fixed order."""
    return sorted(target.glob("align.rank*.jsonl"))


def read_lines(path: Path) -> Iterator[tuple[Line, Record]]:
    """The complete lines of one file, in order. A line that a kill cut short is passed over.

    Raises:
        DataError: a complete line is not a record of this report.
    """
    if not path.exists():
        return
    offset = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record = Record.from_line(line)
            except (ValueError, TypeError) as error:
                raise DataError(
                    f"{path}:{number} is not a line of an alignment report ({error}); remove the line"
                ) from None
            yield Line(path, offset, len(line)), record
            offset += len(line)


def read_report(target: Path) -> dict[str, Record]:
    """The last record of each photograph, those in the parts of ranks included.

    Raises:
        DataError: a complete line is not a record of this report.
    """
    records: dict[str, Record] = {}
    for file in (target / REPORT_NAME, *part_files(target)):
        for _, record in read_lines(file):
            if record.replaces(records.get(record.path)):
                records[record.path] = record
    return records


def gather_report(target: Path, wanted: Callable[[Record], bool]) -> dict[str, Record]:
    """Make `align.jsonl` the whole report: one line per photograph whose record is `wanted`, and no parts.

    The lines of parts are sorted in between those of the report by the path of the photograph. Only places of lines and
    brief records are held in memory.

    Returns:
        The records, without box, points and confidence.

    Raises:
        OSError: the target cannot be written. The report and its parts are then as they were.
        DataError: a complete line is not a record of this report.
    """
    whole, parts = target / REPORT_NAME, part_files(target)
    places: dict[str, Line] = {}
    records: dict[str, Record] = {}
    read, total = 0, 0
    for file in (whole, *parts):
        for place, record in read_lines(file):
            read += 1
            if record.replaces(records.get(record.path)):
                places[record.path], records[record.path] = place, record.brief()
        total += file.stat().st_size if file.exists() else 0
    records = {path: record for path, record in records.items() if wanted(record)}
    complete = sum(place.length for place in places.values()) == total
    if parts or read != len(records) or not complete or not whole.exists():
        paths = sorted(records) if parts else list(records)
        _write_lines(whole, [places[path] for path in paths])
        for part in parts:
            part.unlink()
    return records


def _write_lines(whole: Path, places: list[Line]) -> None:
    aside = whole.with_name(f".{whole.name}.{os.getpid()}.part")
    files: dict[Path, BinaryIO] = {}
    try:
        with aside.open("wb") as out:
            for place in places:
                if place.file not in files:
                    files[place.file] = place.file.open("rb")
                files[place.file].seek(place.offset)
                out.write(files[place.file].read(place.length))
            out.flush()
            os.fsync(out.fileno())
        aside.replace(whole)
    finally:
        for file in files.values():
            file.close()
        aside.unlink(missing_ok=True)


class ReportWriter:
    """Appends to the report of one process, or to a rank's part of it.

    Args:
        target: the folder, for messages.
        descriptor: of the file, open for reading and appending; closed by `close`.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, target: Path, descriptor: int):
        self._target = target
        self._file = descriptor
        self._drop_cut_line()

    def append(self, record: Record) -> None:
        """Add a line; it is in the operating system's hands when this returns.

        Raises:
            DataError: the disk is full; the report is then as it was before.
        """
        rest, size = record.line(), os.fstat(self._file).st_size
        try:
            while rest:  # on a nearly full disk a part of the line is written first, and no error raised
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            os.ftruncate(self._file, size)
            raise unwritable(self._target, error) from None

    def close(self) -> None:
        """Bring the report to the disk."""
        os.fsync(self._file)
        os.close(self._file)

    def _drop_cut_line(self) -> None:
        """What a killed call left behind the last newline."""
        end = os.fstat(self._file).st_size
        position = end
        while position:
            start = max(0, position - 65536)
            block = os.pread(self._file, position - start, start)
            if (newline := block.rfind(b"\n")) >= 0:
                position = start + newline + 1
                break
            position = start
        if position != end:
            os.ftruncate(self._file, position)
