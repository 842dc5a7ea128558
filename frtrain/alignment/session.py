"""A call's hold on its target: who may work there at a time, what is done already, and the end, when all is done.

One process alone holds the folder and writes `align.jsonl` itself. Ranks hold it together, and each holds its own part of the
report. What concerns all of them, taking up a part and the end, is done by one at a time, under `finishing`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from frtrain.alignment.report import REPORT_NAME, Record, ReportWriter, gather_report, part_files, read_lines
from frtrain.alignment.shards import ALONE, Rank
from frtrain.alignment.spool import Spool
from frtrain.alignment.target import (
    FINISHING_NAME,
    check_owner,
    check_settings,
    is_certain,
    lock,
    unwritable,
    write_settings,
)
from frtrain.data.packs.target import PACK
from frtrain.data.packs.writer import forget as forget_pack
from frtrain.errors import ConfigError, DataError
from frtrain.signals import StoppedError, StopRequest

_POLL_SECONDS = 0.2
_READ_WRITE = os.O_RDWR | os.O_CREAT | os.O_APPEND


class Report:
    """The report of a target folder, open for appending. Use `open_report`.

    Attributes:
        records: of the photographs that are done, those of other ranks' earlier calls included; without box, points and
            confidence.
        is_packed: the pack in the target is complete.
    """

    def __init__(self, records: dict[str, Record], writer: ReportWriter, is_packed: bool):
        self.records = records
        self.is_packed = is_packed
        self._writer = writer

    def append(self, record: Record) -> None:
        """Add a line; it is in the operating system's hands when this returns.

        Raises:
            DataError: the disk is full; the report is then as it was before.
        """
        self._writer.append(record)
        self.records[record.path] = record.brief()


@contextmanager
def open_report(
    target: Path, settings: Mapping[str, Any], redo: bool, rank: Rank = ALONE, stop: StopRequest | None = None
) -> Iterator[Report]:
    """Create or go on with the report of `target`, keeping the records of photographs that are done.

    Done is what is `aligned` or `centre` and whose crop exists, and what was `skipped`. In a complete pack everything is.

    Args:
        target: the folder of crops; created if need be.
        settings: everything that a crop depends on, plain JSON values; stored in `align.json`.
        redo: forget the report, and delete the crops that it lists.
        rank: whose part of the report is written.
        stop: ends the wait for another rank that is just finishing.

    Raises:
        ConfigError: the crops there were made with other settings; or several ranks are asked to forget them.
        DataError: `target` cannot be written, is in use, or holds files of somebody else.
        StoppedError: while waiting.
    """
    if redo and not rank.alone:
        raise ConfigError("redo=true: several ranks cannot delete what each other make; delete the target folder first")
    try:
        target.mkdir(parents=True, exist_ok=True)
        held: list[int] = []
        try:
            if rank.alone:
                report, writer = _open_alone(target, settings, redo, held)
            else:
                with finishing(target, stop):
                    report, writer = _open_part(target, settings, rank, held)
        except BaseException:
            _release(held)
            raise
    except OSError as error:
        raise unwritable(target, error) from None
    try:
        yield report
    finally:
        writer.close()
        _release(held)


def _open_alone(target: Path, settings: Mapping[str, Any], redo: bool, held: list[int]) -> tuple[Report, ReportWriter]:
    held.append(_locked(target, target))
    for part in part_files(target):
        os.close(_locked(part, target, flags=os.O_RDWR))
    (target / FINISHING_NAME).unlink(missing_ok=True)
    check_owner(target)
    if redo:
        _forget(target)
    else:
        check_settings(target, settings)
    done = _Done(target)
    records = gather_report(target, done.is_done)
    write_settings(target, settings)
    writer = ReportWriter(target, os.open(target / REPORT_NAME, _READ_WRITE, 0o666))
    return Report(records, writer, done.is_packed), writer


def _open_part(target: Path, settings: Mapping[str, Any], rank: Rank, held: list[int]) -> tuple[Report, ReportWriter]:
    held.append(_locked(target, target, shared=True))
    check_owner(target)
    check_settings(target, settings)
    write_settings(target, settings)
    part = target / part_name(rank)
    descriptor = lock(part, flags=_READ_WRITE)
    if descriptor is None:
        raise DataError(
            f"target={target} is in use by another process with RANK={rank.number}: wait for it, or stop it"
        )
    held_writer = ReportWriter(target, descriptor)
    done = _Done(target)
    records = {path: record for path, record in read_brief(target).items() if done.is_done(record)}
    return Report(records, held_writer, done.is_packed), held_writer


def part_name(rank: Rank) -> str:
    """The file that a rank reports to."""
    return REPORT_NAME if rank.alone else f"align.rank{rank.number}.jsonl"


def read_brief(target: Path) -> dict[str, Record]:
    """As `frtrain.alignment.report.read_report`, without box, points and confidence."""
    records: dict[str, Record] = {}
    for file in (target / REPORT_NAME, *part_files(target)):
        for _, record in read_lines(file):
            if record.replaces(records.get(record.path)):
                records[record.path] = record.brief()
    return records


@contextmanager
def finishing(target: Path, stop: StopRequest | None = None) -> Iterator[bool]:
    """What is done within this context is done by one rank at a time. No call of one process alone runs meanwhile.

    Yields:
        Whether that is certain: it is not on a file system without locks.

    Raises:
        StoppedError: a stop signal came while this one waited.
        DataError: one process alone works in the target.
        OSError: the target cannot be written.
    """
    path = target / FINISHING_NAME
    while True:
        descriptor = lock(path, flags=_READ_WRITE)
        if descriptor is not None:
            if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
                break
            os.close(descriptor)  # the one before deleted the file: the end has come meanwhile
            continue
        if stop is not None and stop.signal is not None:
            raise StoppedError(stop.signal, "another rank is finishing the target; nothing of it is lost")
        time.sleep(_POLL_SECONDS)
    held = [descriptor]
    try:
        held.append(_locked(target, target, shared=True))
        yield is_certain(descriptor)
    finally:
        _release(held)


def others_at_work(target: Path) -> bool:
    """Whether another rank writes to its part of the report. Asked within `finishing`, after this one's is closed."""
    for part in part_files(target):
        descriptor = lock(part, flags=os.O_RDWR)
        if descriptor is None:
            return True
        os.close(descriptor)
    return False


def gather_parts(target: Path) -> None:
    """Make one report of all ranks' parts. Called within `finishing`, when all photographs have a line.

    Raises:
        DataError: the target cannot be written.
    """
    try:
        gather_report(target, lambda record: True)
    except OSError as error:
        raise unwritable(target, error) from None


class _Done:
    """Which records stand for photographs that need not be touched again."""

    def __init__(self, target: Path):
        self.is_packed = (target / PACK).exists()
        self._target = target
        self._spool = Spool(target)

    def is_done(self, record: Record) -> bool:
        if self.is_packed:
            return True
        if record.output is None:
            return record.outcome == "skipped"
        if record.spool is not None:
            return self._spool.holds(record)
        return (self._target / record.output).is_file()


def _locked(path: Path, target: Path, shared: bool = False, flags: int = os.O_RDONLY) -> int:
    descriptor = lock(path, shared, flags)
    if descriptor is None:
        raise DataError(f"target={target} is in use by another `frtrain align`: wait for it, or stop it")
    return descriptor


def _release(held: list[int]) -> None:
    while held:
        os.close(held.pop())


def _forget(target: Path) -> None:
    folders: set[Path] = set()
    for record in read_brief(target).values():
        if record.output and record.spool is None and not {"..", "/"} & set(PurePosixPath(record.output).parts):
            (target / record.output).unlink(missing_ok=True)
            folders.update(target / parent for parent in PurePosixPath(record.output).parents[:-1])
    for folder in sorted(folders, reverse=True):
        with suppress(OSError):  # not empty: somebody else's files
            folder.rmdir()
    forget_pack(target)
    Spool(target).remove()
    for file in (target / REPORT_NAME, *part_files(target)):
        file.unlink(missing_ok=True)
