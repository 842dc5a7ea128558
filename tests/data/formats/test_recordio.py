from __future__ import annotations

import pickle
import random
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from frtrain.data.formats.recordio import (
    LARGEST_PAYLOAD,
    RecordReader,
    RecordWriter,
    frames_of,
    header_record,
    identity_record,
    index_line,
    pack_record,
    unpack_record,
)
from frtrain.data.formats.recordio_table import read_index, read_table
from frtrain.errors import DataError, ImageError

WORD = bytes.fromhex("0a23d7ce")


def payloads_in(content: bytes) -> list[bytes]:
    """The records of a file, read a second time after the format's description, with none of the package's code."""
    found: list[bytes] = []
    parts: list[bytes] = []
    at = 0
    while at < len(content):
        magic, word = struct.unpack("<II", content[at : at + 8])
        assert magic == 0xCED7230A
        part, length = word // 2**29, word % 2**29
        parts.append(content[at + 8 : at + 8 + length])
        assert len(parts[-1]) == length
        at += 8 + length
        while at % 4:
            assert content[at] == 0
            at += 1
        assert part in ((0, 1) if len(parts) == 1 else (2, 3))
        if part in (0, 3):
            found.append(WORD.join(parts))
            parts = []
    assert not parts
    return found


def awkward_payloads() -> list[bytes]:
    chance = random.Random(0)
    made = [b"x" * length for length in range(10)]
    made += [WORD, WORD * 3, b"abcd" + WORD, WORD + b"abcd", WORD + b"a", b"abcd" + WORD + b"efg", b"abcdefgh" + WORD]
    made += [b"a" + WORD, b"ab" + WORD + b"cd", b"abc" + WORD + WORD, WORD[:3], b"abcd" + WORD[:2], WORD[1:] + WORD]
    for _ in range(200):
        made.append(
            b"".join(chance.choice([WORD, WORD, b"a", b"bc", b"\0\0\0\0"]) for _ in range(chance.randrange(12)))
        )
    return made


def written(path: Path, payloads: list[bytes]) -> list[int]:
    with RecordWriter(path) as writer:
        return [writer.append(payload) for payload in payloads]


def test_what_is_written_is_what_another_reader_reads(tmp_path: Path):
    written(tmp_path / "a.rec", awkward_payloads())
    assert payloads_in((tmp_path / "a.rec").read_bytes()) == awkward_payloads()


def test_payloads_come_back_by_their_offsets(tmp_path: Path):
    offsets = written(tmp_path / "a.rec", awkward_payloads())
    reader = RecordReader(tmp_path / "a.rec")
    assert [reader.payload(offset) for offset in reversed(offsets)] == awkward_payloads()[::-1]
    assert [reader.payload(offset, reader.extent(offset)) for offset in offsets] == awkward_payloads()


def test_a_scan_finds_every_record_without_an_index(tmp_path: Path):
    offsets = written(tmp_path / "a.rec", awkward_payloads())
    scanned = list(RecordReader(tmp_path / "a.rec").scan())
    assert [offset for offset, _ in scanned] == offsets
    assert sum(extent for _, extent in scanned) == (tmp_path / "a.rec").stat().st_size


def test_a_magic_word_at_a_multiple_of_four_is_left_out_between_two_parts():
    start, end = 1 << 29 | 4, 3 << 29 | 1
    expected = WORD + struct.pack("<I", start) + b"abcd" + WORD + struct.pack("<I", end) + b"e" + b"\0\0\0"
    assert frames_of(b"abcd" + WORD + b"e") == expected


def test_the_magic_word_starts_a_frame_wherever_it_stands_at_a_multiple_of_four():
    for payload in awkward_payloads():
        content, at, starts = frames_of(payload), 0, set()
        while at < len(content):
            starts.add(at)
            at += 8 + (struct.unpack("<I", content[at + 4 : at + 8])[0] % 2**29 + 3) // 4 * 4
        assert {place for place in range(0, len(content), 4) if content[place : place + 4] == WORD} == starts


def test_a_record_of_another_writer_that_did_not_split_is_read(tmp_path: Path):
    (tmp_path / "a.rec").write_bytes(WORD + struct.pack("<I", 8) + b"abcd" + WORD)
    assert RecordReader(tmp_path / "a.rec").payload(0) == b"abcd" + WORD


def test_a_payload_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch):
    assert LARGEST_PAYLOAD == 2**29 - 1
    monkeypatch.setattr("frtrain.data.formats.recordio.LARGEST_PAYLOAD", 10)
    with pytest.raises(DataError, match="at most 10 bytes, this one has 11"):
        frames_of(bytes(11))


def test_a_writer_goes_on_at_a_length_and_cuts_what_lies_beyond(tmp_path: Path):
    path = tmp_path / "a.rec"
    with RecordWriter(path) as writer:
        writer.append(b"first")
        writer.sync()
        kept = writer.length
        writer.append(b"lost")
    with RecordWriter(path, kept) as writer:
        assert writer.append(b"second") == kept
    assert payloads_in(path.read_bytes()) == [b"first", b"second"]


def test_a_writer_does_not_go_on_beyond_the_end(tmp_path: Path):
    written(tmp_path / "a.rec", [b"first"])
    with pytest.raises(DataError, match="cannot go on at byte 100: the file ends at 16"):
        RecordWriter(tmp_path / "a.rec", 100)


def test_flushed_records_are_seen_by_a_reader(tmp_path: Path):
    writer = RecordWriter(tmp_path / "a.rec")
    offset = writer.append(b"payload")
    writer.flush()
    assert RecordReader(tmp_path / "a.rec").payload(offset) == b"payload"
    writer.close()


def test_one_label_stands_in_the_header_and_several_after_it():
    assert pack_record(b"image", 7, 12) == struct.pack("<IfQQ", 0, 7.0, 12, 0) + b"image"
    assert pack_record(b"image", np.int64(7), 12) == pack_record(b"image", 7, 12)
    expected = struct.pack("<IfQQff", 2, 0.0, 12, 0, 7.0, 1.0) + b"image"
    assert pack_record(b"image", [7, 1], 12) == expected
    assert pack_record(b"image", np.array([7, 1]), 12) == expected


def test_image_records_come_back():
    record = unpack_record(pack_record(b"image", [7, 0.5], 12), "here")
    assert (record.labels.tolist(), record.number, record.data) == ([7.0, 0.5], 12, b"image")
    record = unpack_record(pack_record(b"", 3, 2**64 - 1), "here")
    assert (record.labels.tolist(), record.number, record.data) == ([3.0], 2**64 - 1, b"")


def test_the_header_record_tells_insightface_where_images_end():
    """MXFaceDataset: images are `range(1, int(header.label[0]))` where `header.flag > 0`."""
    flag, zero, number, second, end, last = struct.unpack("<IfQQff", header_record(images=5, classes=2))
    assert flag > 0
    assert list(range(1, int(end))) == [1, 2, 3, 4, 5]
    assert (zero, number, second, last) == (0.0, 0, 0, 8.0)
    assert struct.unpack("<IfQQff", identity_record(3, 6, 7)) == (2, 0.0, 7, 0, 3.0, 6.0)


def test_a_label_that_float32_does_not_hold_is_refused():
    assert unpack_record(pack_record(b"", 2**24, 1), "here").labels.tolist() == [2**24]
    for label in (2**24 + 1, 1e300):
        with pytest.raises(DataError, match="of record 5: RecordIO keeps labels as float32"):
            pack_record(b"", label, 5)
    with pytest.raises(DataError, match="float32"):
        header_record(2**24, 3)


@pytest.mark.parametrize("payload", [b"", bytes(23), struct.pack("<IfQQf", 2, 0, 0, 0, 1), b"\xff" * 24])
def test_a_payload_too_short_for_its_header_is_an_error(payload: bytes):
    with pytest.raises(ImageError, match="here: "):
        unpack_record(payload, "here")


def test_the_real_sample_is_read(shared: Path):
    path = shared / "formats" / "train.rec"
    reader = RecordReader(path)
    table = read_table(reader, path.with_suffix(".idx"))
    assert [reader.payload(offset) for offset in table.offsets.tolist()] == payloads_in(path.read_bytes())
    assert table.numbers.tolist() == [0, 4, 7, 5, 1, 6, 3, 2]
    assert table.labels.tolist() == [0, 1, 1, 1, 0, 1, 0, 0]
    again = read_table(reader)
    for name in ("numbers", "offsets", "extents", "labels", "images"):
        assert getattr(again, name).tolist() == getattr(table, name).tolist()


def pack(folder: Path, records: list[bytes]) -> tuple[RecordReader, Path]:
    offsets = written(folder / "a.rec", records)
    (folder / "a.idx").write_text("".join(index_line(number, offset) for number, offset in enumerate(offsets)))
    return RecordReader(folder / "a.rec"), folder / "a.idx"


def test_labels_are_read_however_the_record_is_divided(tmp_path: Path):
    word_as_number = struct.unpack("<I", WORD)[0]
    label_as_word = struct.unpack("<f", WORD)[0]
    records = [
        pack_record(b"image", 3, 0),
        pack_record(WORD + b"image" + WORD, 4, 1),
        pack_record(b"", 5, 2),
        pack_record(b"i", [6, 1, 2, 3, 4], word_as_number),
        pack_record(WORD * 2, [label_as_word, 1], 4),
        struct.pack("<I", 0) + WORD + pack_record(b"image", 0, 5)[8:],
    ]
    reader, index = pack(tmp_path, records)
    table = read_table(reader, index)
    assert table.labels.tolist() == [3, 4, 5, 6, label_as_word, label_as_word]
    assert table.images.tolist() == [5, 13, 0, 1, 8, 5]
    assert table.numbers.tolist() == [0, 1, 2, 3, 4, 5]
    assert read_table(reader).numbers.tolist() == [0, 1, 2, word_as_number, 4, 5]


def test_records_without_numbers_of_their_own_are_counted(tmp_path: Path):
    reader, _ = pack(tmp_path, [pack_record(b"image", label, 0) for label in range(3)])
    assert read_table(reader).numbers.tolist() == [0, 1, 2]


def test_tables_of_many_chunks_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("frtrain.data.formats.recordio_table.RECORDS_AT_ONCE", 3)
    reader, index = pack(tmp_path, [pack_record(b"image", label, label) for label in range(10)])
    for table in (read_table(reader, index), read_table(reader)):
        assert table.labels.tolist() == table.numbers.tolist() == list(range(10))
    index.write_text(index.read_text().replace("\t", "0\t", 1).replace(f"8\t{8 * 40}", "8\t4"))
    with pytest.raises(DataError, match=r"a\.idx:9: byte 4 of .*a\.rec: no record starts here"):
        read_table(reader, index)


def test_an_index_is_read_in_the_order_of_its_lines(tmp_path: Path):
    (tmp_path / "a.idx").write_text("7\t0\n3\t123456789012345\r\n\n5\t44\n")
    numbers, offsets = read_index(tmp_path / "a.idx")
    assert numbers.tolist() == [7, 3, 5]
    assert offsets.tolist() == [0, 123456789012345, 44]


@pytest.mark.parametrize("line", ["x\t40", "1", "1\t40\t2", "1\t4.5", "1\t1e2", "1\tnan", "\xff\xfe", "1\t" + "9" * 30])
def test_a_line_of_an_index_that_is_not_two_numbers_is_named(tmp_path: Path, line: str):
    (tmp_path / "a.idx").write_text(f"0\t0\n\n{line}\n2\t80\n", encoding="latin-1")
    with pytest.raises(DataError, match=r"a\.idx:3: expected a record's number and its byte offset, .*delete a\.idx"):
        read_index(tmp_path / "a.idx")


def test_an_index_without_lines_or_absent_is_an_error(tmp_path: Path):
    (tmp_path / "a.idx").write_text("\n\n")
    with pytest.raises(DataError, match=r"a\.idx: is empty"):
        read_index(tmp_path / "a.idx")
    with pytest.raises(DataError, match=r"b\.idx: no such file"):
        read_index(tmp_path / "b.idx")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("1\t44", "byte 44 of .*: no record starts here"),
        ("1\t-40", "byte -40 of .*: reaches beyond the end"),
        ("1\t4000000000000", "byte 4000000000000 of .*: reaches beyond the end of the file"),
        ("1\t0", r"byte 0 of .* lies in the record that .*a\.idx:1 names"),
        ("2\t40", "record number 2 stands on another line too"),
        ("-1\t40", "record number -1 is below 0"),
    ],
)
def test_a_line_of_an_index_that_fits_no_record_is_named(tmp_path: Path, line: str, complaint: str):
    reader, index = pack(tmp_path, [pack_record(b"image", label, label) for label in range(3)])
    lines = index.read_text().splitlines()
    index.write_text("\n".join([lines[0], line, lines[2]]))
    with pytest.raises(DataError, match=rf"a\.idx:[23]: {complaint}"):
        read_table(reader, index)


def test_two_lines_for_overlapping_records_are_an_error(tmp_path: Path):
    inner = frames_of(pack_record(b"image", 1, 1))
    (tmp_path / "a.rec").write_bytes(WORD + struct.pack("<I", 28 + len(inner)) + pack_record(b"abcd", 0, 0) + inner)
    (tmp_path / "a.idx").write_text("0\t0\n1\t36\n")
    with pytest.raises(DataError, match=r"a\.idx:2: byte 36 of .* lies in the record that .*a\.idx:1 names"):
        read_table(RecordReader(tmp_path / "a.rec"), tmp_path / "a.idx")


def test_many_threads_read_one_file_at_once(tmp_path: Path):
    payloads = awkward_payloads()
    offsets = written(tmp_path / "a.rec", payloads)
    reader = RecordReader(tmp_path / "a.rec")
    turns = [number % len(offsets) for number in range(0, 7 * len(offsets), 3)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda turn: reader.payload(offsets[turn]), turns)) == [payloads[turn] for turn in turns]


def test_a_pickled_reader_opens_its_file_anew(tmp_path: Path):
    offsets = written(tmp_path / "a.rec", [b"first", b"second"])
    pickled = pickle.dumps(RecordReader(tmp_path / "a.rec"))
    assert pickle.loads(pickled).payload(offsets[1]) == b"second"
    written(tmp_path / "a.rec", [b"first"])
    with pytest.raises(DataError, match=r"a\.rec: had 32 bytes when it was opened and has 16 now"):
        pickle.loads(pickled)


def test_a_file_cut_after_it_was_opened_is_an_error_that_names_it(tmp_path: Path):
    offsets = written(tmp_path / "a.rec", [b"first", b"second"])
    reader = RecordReader(tmp_path / "a.rec")
    with (tmp_path / "a.rec").open("r+b") as file:
        file.truncate(18)
    with pytest.raises(ImageError, match=r"a\.rec: record at byte 16: cannot be read: the file was cut"):
        reader.payload(offsets[1], 16)


def test_what_is_no_regular_file_is_no_pack(tmp_path: Path):
    for path in (tmp_path, tmp_path / "absent.rec"):
        with pytest.raises(DataError, match="no such file"):
            RecordReader(path)
