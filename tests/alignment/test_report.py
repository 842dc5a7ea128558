from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from frtrain.alignment.report import Record, SpoolPlace, read_report
from frtrain.alignment.session import open_report
from frtrain.errors import ConfigError, DataError

SETTINGS = {"size": 112, "format": "jpg"}
RECORDS = [
    Record("Ana/1.png", "aligned", "Ana/1.jpg", [1.0, 2.0, 3.0, 4.0], [[1.0, 2.0]] * 5, 0.99, 2),
    Record("Žofie/é 2.jpg", "skipped", reason="no face was found"),
    Record("line\nbreak.jpg", "unreadable", reason="is empty (0 bytes)"),
]


def write(target: Path, records: list[Record]) -> None:
    with open_report(target, SETTINGS, redo=False) as report:
        for record in records:
            report.append(record)
            if record.output:
                (target / record.output).parent.mkdir(exist_ok=True)
                (target / record.output).touch()


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """The kernel refuses to write any file beyond `size` bytes, as on a full disk: a part first, then an error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_report_has_one_json_line_per_photograph(tmp_path: Path) -> None:
    write(tmp_path / "crops", RECORDS)
    lines = (tmp_path / "crops" / "align.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["path"] for line in lines] == [record.path for record in RECORDS]
    assert json.loads(lines[0])["points"] == [[1.0, 2.0]] * 5


def test_report_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    write(tmp_path / "crops", RECORDS)
    assert list(read_report(tmp_path / "crops").values()) == RECORDS


def test_file_name_that_is_not_utf8_comes_back(tmp_path: Path) -> None:
    record = Record(os.fsdecode(b"caf\xe9.jpg"), "skipped", reason="no face was found")
    write(tmp_path / "crops", [record])
    assert list(read_report(tmp_path / "crops").values()) == [record]


def test_place_in_the_spool_comes_back_and_is_left_out_where_there_is_none(tmp_path: Path) -> None:
    record = Record("a.png", "aligned", "a.jpg", spool=SpoolPlace("x.crops", 7, 9))
    assert Record.from_line(record.line()) == record
    assert b"spool" not in RECORDS[0].line()


def test_report_cut_at_any_byte_keeps_every_complete_line(tmp_path: Path) -> None:
    write(tmp_path, RECORDS)
    report = tmp_path / "align.jsonl"
    whole = report.read_bytes()
    for length in range(len(whole)):
        report.write_bytes(whole[:length])
        assert len(read_report(tmp_path)) == whole[:length].count(b"\n")


def test_cut_line_is_replaced_and_not_continued_by_the_next_call(tmp_path: Path) -> None:
    write(tmp_path, RECORDS[:2])
    report = tmp_path / "align.jsonl"
    report.write_bytes(report.read_bytes()[:-5])
    write(tmp_path, RECORDS[1:2])
    assert list(read_report(tmp_path).values()) == RECORDS[:2]
    assert report.read_bytes().count(b"\n") == 2


def test_done_are_what_has_its_crop_and_what_was_skipped(tmp_path: Path) -> None:
    write(tmp_path, [*RECORDS, Record("Ben/1.jpg", "aligned", "Ben/1.jpg")])
    (tmp_path / "Ben" / "1.jpg").unlink()
    with open_report(tmp_path, SETTINGS, redo=False) as report:
        assert sorted(report.records) == ["Ana/1.png", "Žofie/é 2.jpg"]


def test_other_settings_are_an_error_that_names_them(tmp_path: Path) -> None:
    write(tmp_path, RECORDS)
    with (
        pytest.raises(ConfigError, match=r"format: 'jpg' there, 'png' now"),
        open_report(tmp_path, {"size": 112, "format": "png"}, redo=False),
    ):
        pass


def test_redo_deletes_the_crops_of_the_report_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "crops"
    write(target, [*RECORDS, Record("x.jpg", "aligned", "../outside.jpg")])
    (target / "Ana" / "mine.txt").touch()
    with open_report(target, {"size": 224, "format": "png"}, redo=True) as report:
        assert not report.records
    assert not (target / "Ana" / "1.jpg").exists()
    assert (target / "Ana" / "mine.txt").exists()
    assert (tmp_path / "outside.jpg").exists()


def test_folder_with_files_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.pdf").touch()
    with pytest.raises(DataError, match=r"thesis\.pdf"), open_report(tmp_path, SETTINGS, redo=True):
        pass


def test_target_in_use_by_another_call_is_refused(tmp_path: Path) -> None:
    with (
        open_report(tmp_path, SETTINGS, redo=False),
        pytest.raises(DataError, match="in use"),
        open_report(tmp_path, SETTINGS, redo=False),
    ):
        pass


def test_target_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "crops"
    with (
        pytest.raises(DataError, match=f"target={target} cannot be written"),
        open_report(target, SETTINGS, redo=False),
    ):
        pass


def test_full_disk_leaves_only_complete_lines_in_the_report(tmp_path: Path) -> None:
    size = sum(len(record.line()) for record in RECORDS)
    with open_report(tmp_path, SETTINGS, redo=False) as report, files_limited_to(size - 10):
        report.append(RECORDS[0])
        report.append(RECORDS[1])
        with pytest.raises(DataError, match="cannot be written"):
            report.append(RECORDS[2])
    assert list(read_report(tmp_path).values()) == RECORDS[:2]
    assert (tmp_path / "align.jsonl").read_bytes().endswith(b"\n")


def test_foreign_line_in_the_report_is_an_error_with_its_number(tmp_path: Path) -> None:
    write(tmp_path, RECORDS[:1])
    with (tmp_path / "align.jsonl").open("a") as report:
        report.write('{"person": 7}\n')
    with pytest.raises(DataError, match=r"align\.jsonl:2"):
        read_report(tmp_path)
