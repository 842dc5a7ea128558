"""What was found in a large folder is kept until one of its folders changes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import frtrain.data.folder_tree as folder_tree
import frtrain.data.sources.folder as folder_source
from frtrain.data.sources.folder import FolderSource
from frtrain.errors import DataError

LONG_AGO = time.time() - 1000


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The folders that were walked so far; of every folder, however small, the index is kept."""
    walked: list[Path] = []

    def walk(root: Path, links: folder_tree.Links) -> folder_tree.Tree:
        walked.append(root)
        return folder_tree.walk_images(root, links)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(folder_source, "WORTH_KEEPING", 1)
    monkeypatch.setattr(folder_source, "walk_images", walk)
    monkeypatch.setattr(folder_source.time, "time_ns", lambda: time.monotonic_ns() + 10**19)  # all is settled
    return walked


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    for name in ("a/1.jpg", "a/2.jpg", "a/old/3.jpg", "b/1.jpg", "b/notes.txt", "stray.jpg"):
        path = tmp_path / "crops" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "crops"


def opened(root: Path, links: folder_tree.Links = "inside") -> FolderSource:
    return FolderSource(str(root), "auto", links)


def contents(source: FolderSource) -> tuple[list[str], list[str], list[int], str]:
    paths = [source.name(index) for index in range(len(source))]
    return paths, list(source.classes), source.labels.tolist(), source.fingerprint


def test_an_unchanged_folder_is_not_walked_again(crops: Path, walks: list[Path], caplog: pytest.LogCaptureFixture):
    first = opened(crops)
    told = caplog.messages.copy()
    assert len(told) == 2
    caplog.clear()
    again = opened(crops)
    assert contents(again) == contents(first)
    assert again.encoded(2) == b"a/old/3.jpg"
    assert caplog.messages == told
    assert len(walks) == 1


def test_a_flat_folder_is_kept_as_well(tmp_path: Path, walks: list[Path]):
    (tmp_path / "flat").mkdir()
    for name in ("a_1.jpg", "b_1.jpg"):
        (tmp_path / "flat" / name).touch()
    assert contents(opened(tmp_path / "flat")) == contents(opened(tmp_path / "flat"))
    assert len(walks) == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda root: (root / "a" / "0.jpg").touch(), ["a/0.jpg", "a/1.jpg", "a/2.jpg", "a/old/3.jpg", "b/1.jpg"]),
        (lambda root: (root / "a" / "2.jpg").unlink(), ["a/1.jpg", "a/old/3.jpg", "b/1.jpg"]),
        (
            lambda root: (root / "a" / "2.jpg").rename(root / "a" / "9.jpg"),
            ["a/1.jpg", "a/9.jpg", "a/old/3.jpg", "b/1.jpg"],
        ),
        (lambda root: (root / "b").rename(root / "c"), ["a/1.jpg", "a/2.jpg", "a/old/3.jpg", "c/1.jpg"]),
        (lambda root: (root / "a/old/3.jpg").replace(root / "b/3.jpg"), ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/3.jpg"]),
    ],
    ids=["added", "removed", "renamed", "folder renamed", "moved"],
)
def test_a_change_is_noticed(crops: Path, walks: list[Path], change: Callable[[Path], object], expected: list[str]):
    before = opened(crops)
    change(crops)
    after = opened(crops)
    assert contents(after)[0] == expected
    assert after.fingerprint != before.fingerprint
    assert len(walks) == 2


def test_a_change_that_leaves_the_time_of_the_folder_as_it_was_is_noticed(crops: Path, walks: list[Path]):
    opened(crops)
    status = (crops / "a").stat()
    (crops / "a" / "0.jpg").touch()
    os.utime(crops / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(opened(crops)) == 5


def test_a_link_that_is_turned_outside_later_is_noticed(crops: Path, walks: list[Path], tmp_path: Path):
    (crops / "c").symlink_to("b", target_is_directory=True)
    opened(crops)
    (tmp_path / "elsewhere").mkdir()
    (crops / "c").unlink()
    (crops / "c").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(DataError, match="leads outside"):
        opened(crops)


def test_a_change_in_a_linked_folder_outside_is_noticed(crops: Path, walks: list[Path], tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (crops / "c").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert len(opened(crops, "follow")) == 4
    (tmp_path / "elsewhere" / "1.jpg").touch()
    assert len(opened(crops, "follow")) == 5


def test_another_layout_or_treatment_of_links_is_another_index(crops: Path, walks: list[Path]):
    opened(crops)
    opened(crops, "follow")
    FolderSource(str(crops), "parent_folder", "inside")
    assert len(walks) == 3


def test_a_folder_that_changed_a_moment_ago_is_not_kept(
    crops: Path, walks: list[Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(folder_source.time, "time_ns", lambda: (crops / "a").stat().st_mtime_ns + 10**9)
    opened(crops)
    opened(crops)
    assert len(walks) == 2


def test_small_folders_are_not_kept(crops: Path, walks: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(folder_source, "WORTH_KEEPING", 10)
    opened(crops)
    assert not (tmp_path / "cache").exists()
