from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from frtrain.data.index_cache import cache_folder, load_index, save_index, stamp_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_arrays_come_back_while_the_stamp_is_the_same():
    save_index("key", "stamp", {"labels": np.arange(3)})
    kept = load_index("key", "stamp")
    assert kept is not None
    assert kept["labels"].tolist() == [0, 1, 2]
    assert load_index("key", "another stamp") is None
    assert load_index("another key", "stamp") is None


def test_a_damaged_cache_is_passed_over():
    save_index("key", "stamp", {"labels": np.arange(3)})
    (file,) = (cache_folder() / "index").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert load_index("key", "stamp") is None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    save_index("key", "stamp", {"labels": np.arange(3)})
    assert load_index("key", "stamp") is None


def test_the_stamp_changes_with_a_file(tmp_path: Path):
    path = tmp_path / "data"
    path.write_text("one")
    before = stamp_of([path])
    path.write_text("four")
    assert stamp_of([path]) != before
