"""Damaged and hostile shards, tables and lists: a `DataError` or the data, nothing else, and little memory."""

from __future__ import annotations

import io
import multiprocessing
import random
import resource
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from frtrain.data import SOURCES
from frtrain.data.encoded import EncodedSource
from frtrain.errors import DataError

SPECS = {
    "webdataset": {},
    "parquet": {"image_column": None, "label_column": None, "cache_mebibytes": 1},
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def read_all(kind: str, path: Path) -> bool:
    """Whether everything could be read; raises what is no `DataError`."""
    try:
        source = SOURCES.build({"name": kind, "root": str(path), **SPECS[kind]})
    except DataError as error:
        if str(path) not in str(error):
            raise AssertionError(f"the file is not named: {error}") from error
        return False
    assert isinstance(source, EncodedSource)
    whole = True
    for index in range(len(source)):
        try:
            source.encoded(index)
            source.name(index)
        except DataError:
            whole = False
    return whole


def shard(form: int, mtime: float, long_names: bool) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for number in range(6):
            key = f"{'folder/' * 30 if long_names else ''}{number}"
            for name, data in ((f"{key}.jpg", bytes([number]) * 700), (f"{key}.cls", b"%d" % (number % 3))):
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(data), mtime
                archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


SHARDS = {
    "gnu": shard(tarfile.GNU_FORMAT, 0, long_names=False),
    "gnu_long": shard(tarfile.GNU_FORMAT, 0, long_names=True),
    "pax": shard(tarfile.PAX_FORMAT, 3.5, long_names=False),
    "pax_long": shard(tarfile.PAX_FORMAT, 3.5, long_names=True),
}


def seal(raw: bytearray, at: int) -> None:
    """Make the checksum of the header at `at` fit again, so that what it says is believed."""
    raw[at + 148 : at + 156] = b" " * 8
    raw[at + 148 : at + 156] = f"{sum(raw[at : at + 512]):06o}\0 ".encode()


def headers(raw: bytes) -> list[int]:
    return [at for at in range(0, len(raw), 512) if raw[at + 257 : at + 262] == b"ustar"]


def truncated(raw: bytearray, rng: random.Random) -> None:
    del raw[rng.randrange(len(raw)) :]


def flipped(raw: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 1, 3, 30])):
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)


def flipped_headers(raw: bytearray, rng: random.Random) -> None:
    at = rng.choice(headers(raw))
    raw[at + rng.randrange(512)] ^= 1 << rng.randrange(8)


def sealed_noise(raw: bytearray, rng: random.Random) -> None:
    at = rng.choice(headers(raw))
    for _ in range(rng.choice([1, 4, 40])):
        raw[at + rng.randrange(512)] = rng.choice([0, 32, 48, 55, 128, 255, rng.randrange(256)])
    seal(raw, at)


def sealed_sizes(raw: bytearray, rng: random.Random) -> None:
    at = rng.choice(headers(raw))
    huge = rng.choice([2**63 - 512, 2**64, 2**88 - 1, 2**31, len(raw), 0, 1, 512, 1 << 20])
    octal = b"%011o\0" % min(huge, 8**11 - 1)
    raw[at + 124 : at + 136] = rng.choice([octal, b"\x80" + huge.to_bytes(11, "big"), b"\xff" * 12, b"-%010o\0" % 512])
    seal(raw, at)


def sealed_kinds(raw: bytearray, rng: random.Random) -> None:
    at = rng.choice(headers(raw))
    raw[at + 156] = rng.choice(b"0123456789SLKxgXVMDN\0\xff")
    seal(raw, at)


def damaged_records(raw: bytearray, rng: random.Random) -> None:
    """Noise in the data of long names and pax records, whose headers stay sound."""
    places = [at for at in headers(raw) if raw[at + 156] in b"xL"] or headers(raw)
    at = rng.choice(places) + 512
    for _ in range(rng.choice([1, 2, 8])):
        raw[at + rng.randrange(60)] = rng.choice(b"0123456789 =\n\0./\xff")


def duplicated_blocks(raw: bytearray, rng: random.Random) -> None:
    at, start = (512 * rng.randrange(len(raw) // 512) for _ in range(2))
    raw[at:at] = raw[start : start + 512 * rng.randrange(1, 5)]


DAMAGES: list[Callable[[bytearray, random.Random], None]] = [
    truncated,
    flipped,
    flipped_headers,
    sealed_noise,
    sealed_sizes,
    sealed_kinds,
    damaged_records,
    duplicated_blocks,
]


@pytest.mark.parametrize("form", SHARDS)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_shards_give_data_errors_or_data(tmp_path: Path, form: str, damage):
    assert read_all("webdataset", write(tmp_path / "sound.tar", SHARDS[form]))
    tracemalloc.start()
    for seed in range(25):
        raw = bytearray(SHARDS[form])
        damage(raw, random.Random(f"{form} {damage.__name__} {seed}"))
        read_all("webdataset", write(tmp_path / f"{seed}.tar", raw))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


def write(path: Path, raw: bytes) -> Path:
    path.write_bytes(raw)
    return path


def test_a_flip_in_any_byte_of_a_header_is_found(tmp_path: Path):
    raw = SHARDS["gnu"]
    at = headers(raw)[3]
    for offset in {*range(512)} - {154, 155}:  # what stands behind the checksum's digits says nothing
        flipped_raw = bytearray(raw)
        flipped_raw[at + offset] ^= 1
        path = write(tmp_path / "a.tar", flipped_raw)
        with pytest.raises(DataError, match=rf"a\.tar: byte {at}: "):
            SOURCES.build({"name": "webdataset", "root": str(path)})


def test_a_shard_cut_off_anywhere_before_its_end_blocks_is_found(tmp_path: Path):
    raw = SHARDS["pax"].rstrip(b"\0")
    last = -(-len(raw) // 512) * 512
    for size in range(0, last + 1, 97):
        with pytest.raises(DataError, match=r"a\.tar: "):
            SOURCES.build({"name": "webdataset", "root": str(write(tmp_path / "a.tar", raw[:size]))})


def tables(folder: Path) -> list[bytes]:
    images = [{"bytes": bytes([number]) * 700, "path": f"{number}.jpg"} for number in range(12)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    content = pa.table({"image": pa.array(images, kind), "label": [number % 3 for number in range(12)]})
    texts = pa.table({"jpg": [row["bytes"] for row in images], "who": [f"p{number % 3}" for number in range(12)]})
    for number, (rows, codec) in enumerate([(content, "snappy"), (texts, "none"), (content, "zstd")]):
        pq.write_table(rows, folder / f"{number}.parquet", row_group_size=5, compression=codec)
    return [(folder / f"{number}.parquet").read_bytes() for number in range(3)]


def read_damaged_tables(folder: Path, contents: list[bytes], seeds: range) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for seed in seeds:
        rng = random.Random(seed)
        raw = bytearray(contents[seed % len(contents)])
        footer = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
        damage = rng.choice(["truncated", "flipped", "footer", "pages"])
        if damage == "truncated":
            truncated(raw, rng)
        elif damage == "flipped":
            flipped(raw, rng)
        else:
            low, high = (footer, len(raw)) if damage == "footer" else (4, footer)
            for _ in range(rng.choice([1, 2, 10])):
                raw[rng.randrange(low, high)] = rng.choice([0, 127, 128, 255, rng.randrange(256)])
        read_all("parquet", write(folder / "damaged.parquet", raw))


def test_damaged_tables_give_data_errors_or_data(tmp_path: Path):
    """In a process of their own, for Arrow is not Python: a crash there would end all tests."""
    contents = tables(tmp_path)
    for number in range(len(contents)):
        assert read_all("parquet", tmp_path / f"{number}.parquet")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    child = multiprocessing.get_context("fork").Process(
        target=read_damaged_tables, args=(tmp_path, contents, range(300))
    )
    child.start()
    child.join()
    assert child.exitcode == 0
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss - before < 2 << 20  # KiB


def test_noise_as_a_list_gives_data_errors_or_data(tmp_path: Path):
    for seed in range(150):
        rng = random.Random(seed)
        words = [
            b"a.jpg",
            b"0",
            b"1",
            b"\t",
            b" ",
            b"\n",
            b"\r\n",
            b"../b",
            b"/",
            b"\0",
            b"\xff",
            b"#",
            b".",
            b"-7",
            b"\\x00",
        ]
        raw = b"".join(rng.choices(words, k=rng.randrange(60))) if seed % 2 else rng.randbytes(200)
        spec = {"name": "list", "list": str(write(tmp_path / "l.txt", raw)), "root": None, "links": "inside"}
        try:
            source = SOURCES.build(spec)
        except DataError as error:
            if "l.txt" not in str(error):
                raise AssertionError(f"the file is not named: {error}") from error
            continue
        for index in range(len(source)):
            with pytest.raises(DataError):
                source.image(index)
