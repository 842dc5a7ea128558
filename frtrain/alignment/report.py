"""What became of each photograph: `align.jsonl`, one line per image, written so that a kill loses nothing."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from frtrain.errors import ConfigError, DataError
from frtrain.files import write_atomically

REPORT_NAME = "align.jsonl"
SETTINGS_NAME = "align.json"
Outcome = Literal["aligned", "centre", "skipped", "unreadable"]


@dataclass(frozen=True)
class Record:
    """One line of the report.

    Attributes:
        path: of the photograph, relative to the source.
        outcome: `aligned`: by its landmarks; `centre`: no face, its centre was cut out; `skipped`: no crop was made;
            `unreadable`: the file could not be decoded, and is tried again by the next call.
        output: of the crop, relative to the target; None where there is none.
        box: x1, y1, x2, y2 of the chosen face in pixels of the photograph.
        points: its five landmarks (x, y).
        confidence: the detector's.
        faces: how many faces were found.
        reason: why the outcome is not plainly `aligned`; for an aligned one, that the second search found the face.
    """

    path: str
    outcome: Outcome
    output: str | None = None
    box: list[float] | None = None
    points: list[list[float]] | None = None
    confidence: float | None = None
    faces: int = 0
    reason: str | None = None

    def line(self) -> bytes:
        """JSON and a newline, UTF-8. File names that are not UTF-8 are escaped, and come back as they were."""
        text = json.dumps(asdict(self), ensure_ascii=False)
        try:
            return f"{text}\n".encode()
        except UnicodeEncodeError:
            return f"{json.dumps(asdict(self))}\n".encode()


def read_report(target: Path) -> dict[str, Record]:
    """The last record of each photograph. A line that a kill cut short is passed over.

    Raises:
        DataError: a complete line is not a record of this report.
    """
    path = target / REPORT_NAME
    records: dict[str, Record] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1] if path.exists() else [], start=1):
        try:
            record = Record(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{path}:{number} is not a line of an alignment report ({error}); remove the line"
            ) from None
        records[record.path] = record
    return records


class Report:
    """The report of a target folder, open for appending. Use `open_report`."""

    def __init__(self, target: Path, records: dict[str, Record]):
        self._target = target
        self.records = records
        write_atomically(target / REPORT_NAME, b"".join(record.line() for record in records.values()))
        self._file = os.open(target / REPORT_NAME, os.O_WRONLY | os.O_APPEND)

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
        self.records[record.path] = record

    def close(self) -> None:
        """Bring the report to the disk."""
        os.fsync(self._file)
        os.close(self._file)


@contextmanager
def open_report(target: Path, settings: dict[str, Any], redo: bool) -> Iterator[Report]:
    """Create or go on with the report of `target`, keeping the records of photographs that are done.

    Done is what is `aligned` or `centre` and whose crop exists, and what was `skipped`.

    Args:
        target: the folder of crops; created if need be.
        settings: everything that a crop depends on, plain JSON values; stored in `align.json`.
        redo: forget the report, and delete the crops that it lists.

    Raises:
        ConfigError: the crops there were made with other settings.
        DataError: `target` cannot be written, is in use, or holds files of somebody else.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        lock = _lock(target)
    except OSError as error:
        raise unwritable(target, error) from None
    try:
        _check_owner(target)
        if redo:
            _forget(target)
        else:
            _check_settings(target, settings)
        records = {path: record for path, record in read_report(target).items() if _is_done(target, record)}
        try:
            _write_settings(target, settings)
            report = Report(target, records)
        except OSError as error:
            raise unwritable(target, error) from None
        try:
            yield report
        finally:
            report.close()
    finally:
        os.close(lock)


def unwritable(target: Path, error: OSError) -> DataError:
    """The error for a target on which a write failed: no permission, no room."""
    return DataError(
        f"target={target} cannot be written ({error.strerror or error}): choose a folder with room that you may write "
        "to, or make room; what is done is kept, and the same command goes on from there"
    )


def _lock(target: Path) -> int:
    """Hold the folder itself, so that two calls cannot write one report. Released when the process ends."""
    descriptor = os.open(target, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise DataError(f"target={target} is in use by another `frtrain align`: wait for it, or stop it") from None
    except OSError:
        pass  # some network file systems cannot lock; the user alone can then keep two calls apart
    return descriptor


def _check_owner(target: Path) -> None:
    if (target / SETTINGS_NAME).exists():
        return
    foreign = sorted(entry.name for entry in target.iterdir() if not entry.name.startswith("."))
    if foreign:
        raise DataError(
            f"target={target} is not empty and not made by `frtrain align` (it holds {foreign[0]!r} but no "
            f"{SETTINGS_NAME}): choose an empty or new folder"
        )


def _check_settings(target: Path, settings: dict[str, Any]) -> None:
    path = target / SETTINGS_NAME
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}): make the crops anew with redo=true") from None
    differing = [
        f"  {key}: {before.get(key)!r} there, {settings.get(key)!r} now"
        for key in sorted({*before, *settings})
        if before.get(key) != settings.get(key)
    ]
    if differing:
        raise ConfigError(
            f"target={target} holds crops made with other settings:\n"
            + "\n".join(differing)
            + "\nChoose another target, or replace those crops with redo=true."
        )


def _write_settings(target: Path, settings: dict[str, Any]) -> None:
    write_atomically(target / SETTINGS_NAME, json.dumps(settings, indent=2) + "\n")


def _forget(target: Path) -> None:
    for record in read_report(target).values():
        if record.output and not {"..", "/"} & set(PurePosixPath(record.output).parts):
            (target / record.output).unlink(missing_ok=True)
    (target / REPORT_NAME).unlink(missing_ok=True)


def _is_done(target: Path, record: Record) -> bool:
    if record.output is None:
        return record.outcome == "skipped"
    return (target / record.output).is_file()
