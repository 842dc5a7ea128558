from __future__ import annotations

import queue
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frtrain.alignment import reading
from frtrain.alignment.reading import Batches, Photograph, read_ahead
from frtrain.errors import ImageError


def photograph(number: int, height: int, width: int) -> Photograph:
    return Photograph(f"{number}.png", np.zeros((height, width, 3), np.uint8))


def write_greys(folder: Path, count: int) -> list[str]:
    for value in range(count):
        Image.new("RGB", (20, 10), (value,) * 3).save(folder / f"{value}.png")
    return [f"{value}.png" for value in range(count)]


def test_photographs_come_in_order_and_a_bad_one_as_its_error(tmp_path: Path) -> None:
    paths = write_greys(tmp_path, 5)
    (tmp_path / "2.png").write_bytes(b"")
    results = list(read_ahead(tmp_path, paths))
    assert [path for path, _ in results] == paths
    assert isinstance(results[2][1], ImageError)
    assert [result.image[0, 0, 0] for _, result in results if isinstance(result, Photograph)] == [0, 1, 3, 4]


def test_memory_for_less_than_one_photograph_still_reads_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "READ_AHEAD_PIXELS", 150)
    assert len(list(read_ahead(tmp_path, write_greys(tmp_path, 6)))) == 6


def test_decoding_stops_when_no_more_photographs_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "READ_AHEAD_PIXELS", 150)
    decoded = read_ahead(tmp_path, write_greys(tmp_path, 50))
    next(decoded)
    (decoder,) = [thread for thread in threading.enumerate() if thread.name == "decoder"]
    decoded.close()
    decoder.join(timeout=30)
    assert not decoder.is_alive()


def test_unexpected_error_of_the_decoder_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(reading, "read_image", broken)
    with pytest.raises(ZeroDivisionError):
        list(read_ahead(tmp_path, ["a.png"]))


def test_batches_hold_every_photograph_once_and_in_order() -> None:
    batches = Batches(batch_size=3)
    sizes = [(10, 10), (10, 20), (20, 10)] * 3
    full = [batch for number, size in enumerate(sizes[:8]) if (batch := batches.add(photograph(number, *size)))]
    assert [[one.path for one in batch] for batch in full] == [["0.png", "1.png", "2.png"], ["3.png", "4.png", "5.png"]]
    assert [one.path for one in batches.rest()] == ["6.png", "7.png"]
    assert batches.rest() == []


def test_batches_of_large_photographs_are_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BATCH_PIXELS", 200)
    batches = Batches(batch_size=32)
    assert not batches.add(photograph(0, 10, 10))
    assert len(batches.add(photograph(1, 10, 10))) == 2
    assert len(batches.add(photograph(2, 100, 100))) == 1


def test_closing_does_not_wait_for_a_path_that_never_comes(tmp_path: Path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    more: queue.SimpleQueue[str] = queue.SimpleQueue()
    more.put("a.png")
    photographs = read_ahead(tmp_path, iter(more.get, None))
    assert next(photographs)[0] == "a.png"
    photographs.close()
    more.put("a.png")
