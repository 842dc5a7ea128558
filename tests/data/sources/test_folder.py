from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frtrain.data import SOURCES, Source
from frtrain.errors import DataError, ImageError


def folder(root: Path, **parameters: object) -> Source:
    defaults = {"identities": None, "min_images": 1, "layout": "auto"}
    return SOURCES.build({"name": "folder", "root": str(root), **defaults, **parameters})


def put(path: Path, size: int = 112) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (9, 90, 200)).save(path)
    return path


def test_identities_are_counted_and_labelled_in_the_order_of_their_names(tmp_path: Path):
    for name in ("b/1.jpg", "a/2.png", "a/1.jpg"):
        put(tmp_path / name)
    source = folder(tmp_path)
    assert source.classes == ["a", "b"]
    assert source.labels.tolist() == [0, 0, 1]
    assert source.describe(1).endswith(f"a{os.sep}2.png")


def test_folders_below_an_identity_belong_to_it(tmp_path: Path):
    for name in ("a/session1/1.jpg", "a/session2/1.jpg", "b/1.jpg"):
        put(tmp_path / name)
    assert folder(tmp_path).labels.tolist() == [0, 0, 1]


def test_the_parent_folder_layout_names_identities_by_their_whole_path(tmp_path: Path):
    for name in ("set1/a/1.jpg", "set2/a/1.jpg"):
        put(tmp_path / name)
    assert folder(tmp_path, layout="parent_folder").classes == ["set1/a", "set2/a"]


def test_a_flat_folder_takes_identities_from_file_names(tmp_path: Path):
    for name in ("Ann_Lee_0001.jpg", "Ann_Lee_0002.jpg", "Bo_0001.jpg"):
        put(tmp_path / name)
    assert folder(tmp_path).classes == ["Ann_Lee", "Bo"]


def test_unicode_names_and_upper_case_extensions_are_read(tmp_path: Path):
    put(tmp_path / "Łukasz Żółć" / "фото 1.JPG")
    put(tmp_path / "山田" / "1.jpeg")
    source = folder(tmp_path)
    assert source.classes == ["Łukasz Żółć", "山田"]
    assert source.image(0).shape == (112, 112, 3)


def test_links_to_files_and_folders_are_followed_and_loops_end(tmp_path: Path):
    put(tmp_path / "elsewhere" / "1.jpg")
    root = tmp_path / "root"
    put(root / "a" / "1.jpg")
    (root / "a" / "link.jpg").symlink_to(tmp_path / "elsewhere" / "1.jpg")
    (root / "b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "a" / "loop").symlink_to(root, target_is_directory=True)
    source = folder(root)
    assert source.classes == ["a", "b"]
    assert source.labels.tolist() == [0, 0, 1]


def test_hidden_files_and_other_files_are_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    put(tmp_path / "a/1.jpg")
    put(tmp_path / "b/1.jpg")
    put(tmp_path / "a/._1.jpg")
    (tmp_path / "a" / "notes.txt").write_text("hello")
    assert len(folder(tmp_path)) == 2
    assert "1 .txt" in caplog.text


def test_images_outside_identity_folders_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for name in ("a/1.jpg", "b/1.jpg", "stray.jpg"):
        put(tmp_path / name)
    assert len(folder(tmp_path)) == 2
    assert "stray.jpg" in caplog.text


def test_a_list_file_chooses_identities(tmp_path: Path):
    for name in ("a/1.jpg", "b/1.jpg", "c/1.jpg"):
        put(tmp_path / "crops" / name)
    (tmp_path / "people.txt").write_text("2\nc\t1\na\t1\n")
    assert folder(tmp_path / "crops", identities=str(tmp_path / "people.txt")).classes == ["a", "c"]


def test_a_listed_identity_without_images_is_an_error_that_names_it(tmp_path: Path):
    put(tmp_path / "crops/a/1.jpg")
    (tmp_path / "people.txt").write_text("a\nzoe\n")
    with pytest.raises(DataError, match=r"1 of 2 identities have no images.*zoe"):
        folder(tmp_path / "crops", identities=str(tmp_path / "people.txt"))


def test_identities_with_too_few_images_are_left_out(tmp_path: Path):
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg", "c/1.jpg"):
        put(tmp_path / name)
    assert folder(tmp_path, min_images=2).classes == ["a", "b"]


def test_a_missing_folder_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(DataError, match=r"data\.root=.*nowhere: no such folder"):
        folder(tmp_path / "nowhere")


def test_an_empty_folder_is_an_error_that_shows_what_is_expected(tmp_path: Path):
    with pytest.raises(DataError, match=r"has no images: expected .*<identity>/<image>"):
        folder(tmp_path)


def test_one_identity_alone_is_an_error(tmp_path: Path):
    put(tmp_path / "a/1.jpg")
    put(tmp_path / "a/2.jpg")
    with pytest.raises(DataError, match=r"identities with at least 1 image\(s\): 1, but two are needed"):
        folder(tmp_path)


def test_a_photograph_that_is_no_crop_is_an_error_that_names_align(tmp_path: Path):
    put(tmp_path / "a/1.jpg", size=250)
    put(tmp_path / "b/1.jpg")
    with pytest.raises(ImageError, match=r"is 250x250, not an aligned 112x112 crop.*frtrain align"):
        folder(tmp_path).image(0)


def test_the_fingerprint_changes_when_an_image_is_added(crops_folder: Callable[..., Path]):
    root = crops_folder(identities=2, images=2)
    before = folder(root).fingerprint
    assert before == folder(root).fingerprint
    put(root / "person_000" / "new.jpg")
    assert folder(root).fingerprint != before


def test_images_come_as_they_are_in_the_files(crops_folder: Callable[..., Path]):
    root = crops_folder(identities=2, images=1)
    expected = np.asarray(Image.open(root / "person_001" / "0.png"))
    assert np.array_equal(folder(root).image(1), expected)
