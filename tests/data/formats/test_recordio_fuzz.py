"""Damaged RecordIO files: each gives an error of ours or what can still be read, at once and within the file's memory."""

from __future__ import annotations

import random
import re
import signal
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from frtrain.data.formats.recordio import (
    MAGIC,
    RecordReader,
    RecordWriter,
    header_record,
    identity_record,
    index_line,
    pack_record,
)
from frtrain.data.sources.recordio import RecordIOSource
from frtrain.errors import DataError, ImageError

PATIENCE_SECONDS = 100
MEMORY_BYTES = 4_000_000
IMAGES, IDENTITIES = 6, 3
PLACES = r"byte -?\d+|header record announces the images|is empty \(0 bytes\)|all 1 images"


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(PATIENCE_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """InsightFace's layout with records of several parts."""
    folder = tmp_path / "pack"
    folder.mkdir()
    records = [header_record(IMAGES, IDENTITIES)]
    for number in range(1, IMAGES + 1):
        image = b"\xff\xd8\xff\xe0" + bytes([number]) * (number * 7) + b"\0" * (-number * 7 % 4) + MAGIC * (number % 3)
        records.append(pack_record(image + b"end", [(number - 1) // 2, 1], number))
    records += [identity_record(1 + 2 * label, 3 + 2 * label, IMAGES + 1 + label) for label in range(IDENTITIES)]
    with RecordWriter(folder / "train.rec") as writer:
        lines = [index_line(number, writer.append(record)) for number, record in enumerate(records)]
    (folder / "train.idx").write_text("".join(lines))
    (folder / "train.lst").write_text("".join(f"{n}\t{(n - 1) // 2}\ta/{n}.jpg\n" for n in range(1, IMAGES + 1)))
    return folder


def read_all(folder: Path) -> list[str]:
    """Open it and read all there is. Returns the messages of what cannot be read; anything but an error of ours escapes."""
    try:
        source = RecordIOSource(str(folder))
    except DataError as error:
        return [str(error)]
    problems = []
    for index in range(len(source)):
        for read in (source.encoded, source.name, source.describe):
            try:
                assert read(index)
            except ImageError as error:
                problems.append(str(error))
    return problems


def frames(content: bytes) -> list[int]:
    return [at for at in range(0, len(content), 4) if content[at : at + 4] == MAGIC]


def with_word(content: bytes, at: int, word: int) -> bytes:
    return content[: at + 4] + struct.pack("<I", word & 0xFFFFFFFF) + content[at + 8 :]


def truncated(content: bytes) -> Iterator[bytes]:
    for at in [*frames(content), len(content)]:
        for more in (-1, 0, 1, 4, 7, 8, 9, 20, 32, 36):
            yield content[: max(0, at + more)]


def with_lengths(content: bytes) -> Iterator[bytes]:
    for at in frames(content):
        (word,) = struct.unpack_from("<I", content, at + 4)
        for length in (0, 1, 23, 24, 27, 2**29 - 1, 2**28, len(content), len(content) - at - 8):
            yield with_word(content, at, word & ~(2**29 - 1) | length)


def with_parts(content: bytes) -> Iterator[bytes]:
    for at in frames(content):
        (word,) = struct.unpack_from("<I", content, at + 4)
        for part in range(8):
            yield with_word(content, at, part << 29 | word & (2**29 - 1))


def with_flags(content: bytes) -> Iterator[bytes]:
    for at in frames(content):
        for flag in (1, 3, 100, 2**30, 2**32 - 1):
            yield content[: at + 8] + struct.pack("<I", flag) + content[at + 12 :]


def with_flipped_bits(content: bytes) -> Iterator[bytes]:
    chance = random.Random(0)
    for _ in range(300):
        changed = bytearray(content)
        for _ in range(chance.choice([1, 1, 2, 8])):
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        yield bytes(changed)


MUTATIONS: list[Callable[[bytes], Iterator[bytes]]] = [
    truncated,
    with_lengths,
    with_parts,
    with_flags,
    with_flipped_bits,
]


@pytest.mark.parametrize("has_index", [True, False], ids=["index", "no index"])
@pytest.mark.parametrize("mutations", MUTATIONS, ids=lambda mutations: mutations.__name__)
def test_a_damaged_pack_gives_errors_that_name_it_and_takes_no_memory(
    pack: Path, mutations: Callable[[bytes], Iterator[bytes]], has_index: bool
):
    records, index = pack / "train.rec", pack / "train.idx"
    content = records.read_bytes()
    if not has_index:
        index.unlink()
    assert read_all(pack) == []
    tracemalloc.start()
    try:
        for damaged in mutations(content):
            records.write_bytes(damaged)
            for problem in read_all(pack):
                assert "train.rec" in problem or "all 1 images have the label" in problem, problem
                assert re.search(PLACES, problem), problem
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES
    finally:
        tracemalloc.stop()


def damaged_indexes(text: str) -> Iterator[str]:
    chance = random.Random(0)
    lines = text.splitlines()
    values = [
        "-1",
        "-8",
        "0",
        "1",
        "4",
        "8",
        "40",
        "99999999999",
        str(2**63 - 1),
        str(2**63),
        "9" * 400,
        "x",
        "",
        "1e3",
        "\0",
    ]
    yield from ("", "\n", "\t", "\0" * 100, text * 2, text[:-3], text.replace("\t", " "), text.replace("\t", ","))
    yield "\n".join(reversed(lines))
    for at in range(len(lines)):
        number, offset = lines[at].split("\t")
        for value in values:
            for line in (f"{number}\t{value}", f"{value}\t{offset}"):
                yield "\n".join([*lines[:at], line, *lines[at + 1 :]])
    for _ in range(100):
        changed = list(text)
        changed[chance.randrange(len(changed))] = chance.choice("0123456789\t\n-. x")
        yield "".join(changed)


def test_a_damaged_index_gives_errors_that_name_it_and_takes_no_memory(pack: Path):
    index = pack / "train.idx"
    tracemalloc.start()
    try:
        for damaged in damaged_indexes(index.read_text()):
            index.write_text(damaged)
            for problem in read_all(pack):
                assert re.search(r"train\.idx|have the label", problem), problem
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES
    finally:
        tracemalloc.stop()


def test_hostile_lengths_at_any_offset_take_no_memory(tmp_path: Path):
    """The reader alone, without a table that would refuse the file beforehand."""
    content = b"".join(MAGIC + struct.pack("<I", part << 29 | (2**29 - 1)) for part in range(8)) * 10
    (tmp_path / "a.rec").write_bytes(content)
    reader = RecordReader(tmp_path / "a.rec")
    tracemalloc.start()
    try:
        for offset in range(-8, len(content) + 8):
            for stored in (None, 0, 7, 8, 100, 2**29, 2**62, -1):
                with pytest.raises(ImageError, match=rf"a\.rec: record at byte {offset}: "):
                    reader.payload(offset, stored)
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES
    finally:
        tracemalloc.stop()


def test_a_record_of_a_great_many_empty_parts_ends(tmp_path: Path):
    parts = [1, *[2] * 20_000]
    (tmp_path / "a.rec").write_bytes(b"".join(MAGIC + struct.pack("<I", part << 29) for part in parts))
    with pytest.raises(ImageError, match="reaches beyond the end of the file"):
        RecordReader(tmp_path / "a.rec").payload(0)
