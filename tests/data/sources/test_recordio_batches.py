"""Several records read at once are what they are one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from frtrain.data.formats.recordio import MAGIC, RecordWriter, index_line, pack_record
from frtrain.data.sources.recordio import RecordIOSource
from frtrain.errors import ImageError

ORDER = [3, 0, 2, 2, 1, 4]


def file_of(number: int) -> bytes:
    """Of another length each, and one that has to be cut into frames."""
    return bytes([number]) * (40 + number) if number != 2 else b"\1" * 36 + MAGIC + b"\2" * 7 + MAGIC


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write one part; even numbers have one label, odd ones three."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def part(numbers: Sequence[int], name: str = "train.rec") -> Path:
        path = tmp_path / "pack" / name
        path.parent.mkdir(exist_ok=True)
        with RecordWriter(path) as writer:
            lines = []
            for number in numbers:
                label = [number, 7.0, 8.0] if number % 2 else number
                lines.append(index_line(number, writer.append(pack_record(file_of(number), label, number))))
        path.with_suffix(".idx").write_text("".join(lines))
        return path

    return part


def test_a_batch_is_what_single_reads_give(write: Callable[..., Path]):
    source = RecordIOSource(str(write(range(5)).parent))
    assert source.encoded_batch(ORDER) == [file_of(number) for number in ORDER]
    assert source.encoded_batch(np.array(ORDER).tolist()) == [source.encoded(number) for number in ORDER]
    assert source.encoded_batch([]) == []


def test_a_batch_crosses_the_parts_of_a_pack(write: Callable[..., Path]):
    write([0, 1], "train_0.rec")
    source = RecordIOSource(str(write([2, 3, 4], "train_1.rec").parent))
    assert source.encoded_batch(ORDER) == [file_of(number) for number in ORDER]


@pytest.mark.parametrize("byte", [0, 5, 8])
def test_a_damaged_record_is_an_error_in_its_place(write: Callable[..., Path], byte: int):
    path = write(range(5))
    source = RecordIOSource(str(path.parent))
    offset = int(source.packs[0].offsets[1])
    content = bytearray(path.read_bytes())
    content[offset + byte] ^= 0x40  # the magic word, the length, the number of labels
    path.write_bytes(content)
    found = source.encoded_batch([0, 1, 4])
    assert (found[0], found[2]) == (file_of(0), file_of(4))
    assert isinstance(found[1], ImageError)
    assert f"train.rec: record 1 at byte {offset}" in str(found[1])
    with pytest.raises(ImageError, match="record 1 at byte"):
        source.encoded(1)
