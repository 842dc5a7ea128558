from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from frtrain.curation.embeddings import embed_source, sample_digest
from frtrain.data import SOURCES
from frtrain.errors import DataError, ImageError
from frtrain.signals import StoppedError

COUNT, BROKEN = 60, 7


class Squares:
    """Crops of one shade each, one of them broken."""

    labels = np.repeat(np.arange(6), 10)
    classes = tuple("abcdef")
    fingerprint = "squares"

    def __len__(self) -> int:
        return COUNT

    def image(self, index: int) -> np.ndarray:
        if index == BROKEN:
            raise ImageError("squares", "is broken")
        return np.full((112, 112, 3), 4 * index, dtype=np.uint8)

    def describe(self, index: int) -> str:
        return f"square {index}"


class Shade:
    """A network that embeds a crop by its shade, and counts crops."""

    def __init__(self, stop_after: int | None = None):
        self.seen, self.stop_after = 0, stop_after

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        if self.stop_after is not None and self.seen >= self.stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        shade = images[:, 0, 0, 0].float()
        return torch.stack([torch.full_like(shade, 100), shade], 1)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def expected(index: int) -> np.ndarray:
    row = np.array([100, 4 * index])
    return row / np.linalg.norm(row)


def test_every_readable_image_has_its_embedding(tmp_path: Path):
    found = embed_source(Shade(), Squares(), tmp_path, "data", 8, {"model": "a"})
    assert np.flatnonzero(~found.readable).tolist() == [BROKEN]
    assert not found.embeddings[BROKEN].any()
    for index in (0, 6, 8, 59):
        np.testing.assert_allclose(found.embeddings[index], expected(index), atol=1e-3)


def test_a_stopped_call_goes_on_where_it_was(tmp_path: Path):
    with pytest.raises(StoppedError):
        embed_source(Shade(stop_after=30), Squares(), tmp_path, "data", 8, {"model": "a"})
    network = Shade()
    found = embed_source(network, Squares(), tmp_path, "data", 8, {"model": "a"})
    assert network.seen == COUNT - 32
    np.testing.assert_allclose(found.embeddings[[3, 59]], [expected(3), expected(59)], atol=1e-3)


def test_what_another_model_has_left_is_not_taken_for_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    embed_source(Shade(), Squares(), tmp_path, "data", 8, {"model": "a"})
    with monkeypatch.context() as patched:
        patched.setattr("frtrain.curation.embeddings._Arrays.put", interrupted)  # the files are cleared already
        with pytest.raises(KeyboardInterrupt):
            embed_source(Shade(), Squares(), tmp_path, "data", 8, {"model": "b"})
    found = embed_source(Shade(), Squares(), tmp_path, "data", 8, {"model": "a"})
    np.testing.assert_allclose(found.embeddings[59], expected(59), atol=1e-3)


def test_files_that_were_deleted_are_made_anew(tmp_path: Path):
    embed_source(Shade(), Squares(), tmp_path, "data", 8, {"model": "a"})
    (tmp_path / "data.hashes.npy").unlink()
    network = Shade()
    assert embed_source(network, Squares(), tmp_path, "data", 8, {"model": "a"}).readable.sum() == COUNT - 1
    assert network.seen == COUNT - 1


@pytest.mark.parametrize("damage", ["cut", "emptied", "of another shape", "a note of nonsense"])
def test_files_that_were_damaged_are_made_anew(tmp_path: Path, damage: str):
    embed_source(Shade(), Squares(), tmp_path, "data", 8, {"model": "a"})
    path = tmp_path / "data.embeddings.npy"
    if damage == "cut":
        os.truncate(path, path.stat().st_size - 40)
    elif damage == "emptied":
        path.write_bytes(b"")
    elif damage == "of another shape":
        np.save(path, np.zeros((3, 2), np.float16))
    else:
        (tmp_path / "data.json").write_text('{"identity": {"model": "a"}, "width": 2, "done": "all"}')
    found = embed_source(Shade(), Squares(), tmp_path, "data", 8, {"model": "a"})
    np.testing.assert_allclose(found.embeddings[59], expected(59), atol=1e-3)


def test_new_crops_under_the_old_names_have_another_sample(crops_folder: Callable[..., Path]):
    root = crops_folder(3, 2)
    source = SOURCES.build({"name": "folder", "root": str(root), "layout": "auto", "links": "inside"})
    before = sample_digest(source)
    assert sample_digest(source) == before
    for path in root.rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"\0")
    assert sample_digest(source) != before
    assert sample_digest(Squares())


def test_a_disk_without_room_for_all_is_told_before_the_first_image_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    with pytest.raises(DataError, match="cannot be written"):
        embed_source(Shade(), Squares(), tmp_path, "data", 8, {"model": "a"})
    assert list(tmp_path.iterdir()) == []
