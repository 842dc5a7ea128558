from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from frtrain.config_files import completed
from frtrain.data import SOURCES
from frtrain.data.sources.automatic import detect
from frtrain.errors import DataError


def put(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["train.rec", "train.idx", "train.lst", "property", "lfw.bin"], "recordio"),
        (["train.rec", "classes.txt", "sample.jpg"], "recordio"),
        (["train-000000.tar", "train-000001.tar", "images.lst", "classes.txt"], "webdataset"),
        (["train-00000-of-00001.parquet", "README.md"], "parquet"),
        (["Ana/1.jpg", "Bo/1.jpg", "align.jsonl", "notes.txt"], "folder"),
        (["Ana/session 1/video/1.PNG", "Bo/notes.txt"], "folder"),
        (["Ana_0001.jpg", "Bo_0001.jpg", "notes.txt"], "folder"),
        (["list.txt", "images.zip"], "list"),
        (["train.csv"], "list"),
        ([".hidden/train.rec", "._train.rec", "Ana/1.jpg"], "folder"),
    ],
)
def test_a_folder_is_told_by_what_lies_in_it(tmp_path: Path, names: list[str], kind: str):
    assert detect(put(tmp_path, *names)).kind == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.rec", "recordio"), ("a.TAR", "webdataset"), ("a.parquet", "parquet"), ("a.lst", "list"), ("a.txt", "list")],
)
def test_a_file_is_told_by_its_extension(tmp_path: Path, name: str, kind: str):
    assert detect(put(tmp_path, name) / name).kind == kind


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["train.rec", "a.tar"],
            r"recordio \(train\.rec\), webdataset \(a\.tar\)\. Say which with data=recordio or data=web",
        ),
        (["train.rec", "Ana/1.jpg"], r"folder \(Ana/1\.jpg\), recordio \(train\.rec\)"),
        (["train.lst", "Ana/1.jpg"], r"folder \(Ana/1\.jpg\), list \(train\.lst\)"),
    ],
)
def test_several_kinds_in_one_folder_are_an_error_that_lists_them(tmp_path: Path, names: list[str], message: str):
    with pytest.raises(DataError, match=message):
        detect(put(tmp_path, *names))


def test_nothing_is_an_error_that_says_what_is_expected(tmp_path: Path):
    with pytest.raises(DataError, match=r"data\.root=.*: holds no data set: expected train\.rec"):
        detect(put(tmp_path, "README.md"))
    with pytest.raises(DataError, match=r"nowhere: no such file or folder"):
        detect(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"faces\.zip: is a file of no known kind"):
        detect(put(tmp_path, "faces.zip") / "faces.zip")


def test_a_pack_one_folder_down_is_pointed_at(tmp_path: Path):
    with pytest.raises(DataError, match=r"There is one in data\.root=.*/faces_emore$"):
        detect(put(tmp_path, "faces_emore/train.rec", "faces_emore/train.idx"))


def test_the_source_is_built_with_the_defaults_of_its_kind(
    crops_folder: Callable[..., Path], caplog: pytest.LogCaptureFixture
):
    root = str(crops_folder(identities=2, images=2))
    with caplog.at_level(logging.INFO):
        source = SOURCES.build(completed("data", {"name": "auto", "root": root}))
    assert caplog.messages == [f"{root} is taken as data=folder, because of person_000/0.png"]
    assert source.fingerprint == SOURCES.build(completed("data", {"name": "folder", "root": root})).fingerprint


def test_an_error_of_the_source_says_what_it_was_taken_as(tmp_path: Path):
    (put(tmp_path / "root", "a/1.jpg", "b/1.jpg") / "a" / "2.jpg").symlink_to(put(tmp_path, "x.jpg") / "x.jpg")
    with pytest.raises(DataError, match=r"data\.links=follow.*\(it was taken as data=folder;"):
        SOURCES.build(completed("data", {"name": "auto", "root": str(tmp_path / "root")}))
