from __future__ import annotations

import hashlib
import multiprocessing
import pickle
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from frtrain.data.formats.recordio import MAGIC, RecordWriter, pack_record
from frtrain.data.sources.recordio import RecordIOSource


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def content(number: int) -> bytes:
    return random.Random(number).randbytes(4 * number) + MAGIC * (number % 3)


def opened(root: Path, labels: Sequence[int]) -> RecordIOSource:
    with RecordWriter(root / "train.rec") as writer:
        for number, label in enumerate(labels):
            writer.append(pack_record(content(number + 1), label, number))
    return RecordIOSource(str(root))


def digest(source: RecordIOSource, seed: int) -> str:
    order = random.Random(seed).sample(range(len(source)), len(source)) * 5
    contents = {index: source.encoded(index) for index in order}
    return hashlib.sha256(b"".join(contents[index] for index in range(len(source)))).hexdigest()


_opened: RecordIOSource


def digest_of_opened(seed: int) -> str:
    return digest(_opened, seed)


def test_forked_processes_read_the_same_bytes_from_one_source_at_once(tmp_path: Path):
    global _opened
    labels = [number % 7 for number in range(60)]
    _opened = opened(tmp_path, labels)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        digests = pool.map(digest_of_opened, range(16), chunksize=1)
    assert set(digests) == {hashlib.sha256(b"".join(content(number + 1) for number in range(60))).hexdigest()}


def test_a_pickled_source_reads_on_its_own(tmp_path: Path):
    source = opened(tmp_path, [0, 1, 1])
    again = pickle.loads(pickle.dumps(source))
    assert [again.encoded(index) for index in range(3)] == [source.encoded(index) for index in range(3)]
    assert again.labels.tolist() == source.labels.tolist()
