from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frtrain.data import SOURCES
from frtrain.data.sources.listing import ListSource
from frtrain.errors import ConfigError, DataError, ImageError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def opened(text: str | bytes, folder: Path, root: Path | None = None, links: str = "inside") -> ListSource:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "list.txt").write_bytes(text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text)
    return opened_again(folder, root, links)


def opened_again(folder: Path, root: Path | None = None, links: str = "inside") -> ListSource:
    where = None if root is None else str(root)
    source = SOURCES.build({"name": "list", "list": str(folder / "list.txt"), "root": where, "links": links})
    assert isinstance(source, ListSource)
    return source


def names(source: ListSource) -> list[str]:
    return [source.name(index) for index in range(len(source))]


def identities(source: ListSource) -> list[str]:
    return [source.classes[label] for label in source.labels]


def put(path: Path, content: bytes = b"face") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_numbers_are_classes_in_their_order(tmp_path: Path):
    source = opened("a.jpg 10\nb.jpg 9\nc.jpg 10\n", tmp_path)
    assert list(source.classes) == ["9", "10"]
    assert source.labels.tolist() == [1, 0, 1]
    assert source.labels.dtype == np.int64


def test_identities_may_be_named(tmp_path: Path):
    source = opened("x/1.jpg Łukasz\nx/2.jpg Ana\n", tmp_path)
    assert list(source.classes) == ["Ana", "Łukasz"]
    assert identities(source) == ["Łukasz", "Ana"]


def test_paths_may_have_blanks(tmp_path: Path):
    source = opened("my faces/Ana Ruiz 1.jpg 0\nmy faces/b  c.jpg\tBo Li\n", tmp_path)
    assert names(source) == ["my faces/Ana Ruiz 1.jpg", "my faces/b  c.jpg"]
    assert identities(source) == ["0", "Bo Li"]


def test_the_lists_of_im2rec_are_read(tmp_path: Path):
    source = opened("0\t7.000000\tm.7/1.jpg\n1\t3.000000\tm.3/a b.jpg\n2\t3\tm.3/c\\x09d.jpg\n", tmp_path)
    assert names(source) == ["m.7/1.jpg", "m.3/a b.jpg", "m.3/c\td.jpg"]
    assert identities(source) == ["7", "3", "3"]


def test_the_older_lists_of_insightface_are_read(tmp_path: Path):
    source = opened("1\tm.7/1.jpg\t7\n1\tm.3/1.jpg\t3\n", tmp_path)
    assert names(source) == ["m.7/1.jpg", "m.3/1.jpg"]
    assert identities(source) == ["7", "3"]


def test_comments_empty_lines_and_foreign_line_ends_are_passed_over(tmp_path: Path):
    source = opened("\ufeff# faces\r\n\r\na.jpg 0\r\n   \n  # more\nb.jpg\t1\r\n\nc.jpg 1", tmp_path)
    assert names(source) == ["a.jpg", "b.jpg", "c.jpg"]
    assert source.labels.tolist() == [0, 1, 1]


def test_names_of_any_bytes_come_back_as_they_were(tmp_path: Path):
    put(tmp_path / "caf\udce9.jpg", b"latin")
    source = opened(b"caf\xe9.jpg 0\nb.jpg 1\n", tmp_path)
    assert source.encoded(0) == b"latin"


def test_files_are_read_as_they_are_and_missing_ones_told_when_read(tmp_path: Path):
    put(tmp_path / "crops" / "a" / "1.jpg", b"one")
    source = opened("a/1.jpg 0\na/2.jpg 1\n", tmp_path / "lists", root=tmp_path / "crops")
    assert source.encoded(0) == b"one"
    with pytest.raises(ImageError, match=r"crops/a/2\.jpg: cannot be read \(No such file"):
        source.encoded(1)


def test_relative_paths_start_from_the_folder_of_the_list(tmp_path: Path):
    put(tmp_path / "a.jpg")
    assert opened("a.jpg 0\nb.jpg 1\n", tmp_path).describe(0) == str(tmp_path / "a.jpg")


def test_images_come_as_they_are_in_the_files(tmp_path: Path, make_crops):
    make_crops(tmp_path / "crops", 2, 1)
    source = opened("person_000/0.png 0\nperson_001/0.png 1\n", tmp_path / "crops")
    assert np.array_equal(source.image(1), np.asarray(Image.open(tmp_path / "crops/person_001/0.png")))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("./a/1.jpg", "a/1.jpg"),
        ("a//1.jpg", "a/1.jpg"),
        ("b/../a/1.jpg", "a/1.jpg"),
        (".hidden/1.jpg", ".hidden/1.jpg"),
    ],
)
def test_paths_are_brought_into_their_shortest_form(tmp_path: Path, path: str, name: str):
    assert opened(f"{path} 0\nb.jpg 1\n", tmp_path).name(0) == name


def test_absolute_paths_inside_the_root_are_fine(tmp_path: Path):
    put(tmp_path / "real" / "a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    source = opened(f"{tmp_path}/real/a.jpg 0\n{tmp_path}/link/b.jpg 1\n", tmp_path, root=tmp_path / "link")
    assert names(source) == ["a.jpg", "b.jpg"]
    assert source.encoded(0) == b"face"


@pytest.mark.parametrize("path", ["../a.jpg", "x/../../a.jpg", "/etc/passwd", "..", "{root}x/a.jpg"])
def test_paths_that_lead_out_of_the_root_are_refused(tmp_path: Path, path: str):
    with pytest.raises(DataError, match=r"list\.txt:2: .* leads out of data\.root=.*data\.links=follow"):
        opened(f"a.jpg 0\n{path.format(root=tmp_path / 'root')} 1\n", tmp_path / "root")


def test_paths_out_of_the_root_are_read_where_they_may_be_followed(tmp_path: Path):
    put(tmp_path / "other" / "a.jpg", b"other")
    source = opened(f"../other/a.jpg 0\n{tmp_path}/other/a.jpg 1\n", tmp_path / "root", links="follow")
    assert [source.encoded(index) for index in range(2)] == [b"other", b"other"]
    assert source.name(0) == "outside/_/other/a.jpg"
    assert len(set(names(source))) == 2


@pytest.mark.parametrize("where", ["file", "folder", "chain"])
def test_links_out_of_the_root_are_refused_unless_followed(tmp_path: Path, where: str):
    put(tmp_path / "secret" / "a.jpg", b"secret")
    root = tmp_path / "root"
    (root / "x").mkdir(parents=True)
    if where == "file":
        (root / "x" / "a.jpg").symlink_to("../../secret/a.jpg")
    elif where == "folder":
        (root / "x").rmdir()
        (root / "x").symlink_to(tmp_path / "secret")
    else:
        (root / "y.jpg").symlink_to(tmp_path / "secret" / "a.jpg")
        (root / "x" / "a.jpg").symlink_to("../y.jpg")
    with pytest.raises(ImageError, match=r"x/a\.jpg: is a link that leads out of .*data\.links=follow"):
        opened("x/a.jpg 0\nb.jpg 1\n", root).encoded(0)
    assert opened("x/a.jpg 0\nb.jpg 1\n", root, links="follow").encoded(0) == b"secret"


def test_links_inside_the_root_are_followed(tmp_path: Path):
    put(tmp_path / "real" / "a.jpg", b"one")
    (tmp_path / "b.jpg").symlink_to("real/a.jpg")
    (tmp_path / "folder").symlink_to("real")
    source = opened("b.jpg 0\nfolder/a.jpg 1\n", tmp_path)
    assert [source.encoded(index) for index in range(2)] == [b"one", b"one"]


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="is not a regular file"):
        opened("a.jpg 0\nb.jpg 1\n", tmp_path).encoded(0)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_list_that_is_no_file_is_told(tmp_path: Path, make):
    make(tmp_path / "list.txt")
    with pytest.raises(DataError, match=r"data\.list=.*list\.txt: is not a text file"):
        opened_again(tmp_path)


def test_a_repeated_line_is_left_out_and_told_each_time(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    opened("a.jpg 0\nb.jpg 1\n./a.jpg 0\na.jpg 0.0\n", tmp_path)
    assert "2 lines name an image that an earlier line names" in caplog.text
    caplog.clear()
    assert names(opened_again(tmp_path)) == ["a.jpg", "b.jpg"]
    assert "2 lines name an image that an earlier line names" in caplog.text


def test_one_image_with_two_labels_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match=r"list\.txt:3: a\.jpg has the label 2 here, and 0 on an earlier line"):
        opened("a.jpg 0\nb.jpg 1\na.jpg 2\n", tmp_path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a.jpg 0\nb.jpg\n", r"list\.txt:2: expected: path label .* found 'b\.jpg'"),
        ("a.jpg 0\nb.jpg\t\t\t1\n", r"list\.txt:2: expected: path label"),
        ("a.jpg 0\n1\t\tb.jpg\n", r"list\.txt:2: the label is missing"),
        ("a.jpg 0\nb.jpg -1\n", "has the label -1; expected numbers from 0 on"),
        ("a.jpg 0\nb.jpg ../x\n", r"'\.\./x' cannot be the name of an identity"),
        ("a.jpg 0\nb\0.jpg 1\n", r"list\.txt:2: 'b\\x00\.jpg' is no path"),
        ("a.jpg 0\n. 1\n", r"list\.txt:2: \. is the folder itself"),
        ("a.jpg 0\n" + "x" * 100_000, r"list\.txt:2: expected: path label"),
        ("a.jpg 0\n" + "x " * 100_000, r"list\.txt:2: expected: path label"),
        ("", "identities: 0, images: 0, but two identities are needed"),
        ("# nothing\n", "identities: 0, images: 0"),
        ("a.jpg 0\nb.jpg 0\n", "identities: 1, images: 2"),
    ],
)
def test_what_cannot_be_trained_on_is_told_with_its_line(tmp_path: Path, text: str, complaint: str):
    with pytest.raises(DataError, match=complaint):
        opened(text, tmp_path)


def test_a_missing_list_and_a_missing_root_are_told(tmp_path: Path):
    spec = {"name": "list", "list": str(tmp_path / "none.txt"), "root": None, "links": "inside"}
    with pytest.raises(DataError, match=r"data\.list=.*none\.txt: cannot be read \(No such file"):
        SOURCES.build(spec)
    with pytest.raises(DataError, match=r"data\.root=.*nowhere: no such folder"):
        SOURCES.build({**spec, "root": str(tmp_path / "nowhere")})


def test_links_is_one_of_two_words(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"data\.links='all'.*'inside' or 'follow'"):
        SOURCES.build({"name": "list", "list": "a.txt", "root": None, "links": "all"})


def test_the_cache_gives_the_same_as_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = opened("a.jpg Ana\nb/c.jpg Łukasz\n", tmp_path)
    monkeypatch.delattr(ListSource, "_read")
    second = opened_again(tmp_path)
    assert (names(second), identities(second)) == (names(first), identities(first))
    assert second.fingerprint == first.fingerprint


def test_a_list_that_changes_is_read_anew(tmp_path: Path):
    first = opened("a.jpg 0\nb.jpg 1\n", tmp_path)
    second = opened("a.jpg 0\nb.jpg 1\nc.jpg 1\n", tmp_path)
    assert len(second) == 3
    assert second.fingerprint != first.fingerprint


def test_a_pickled_source_reads_on_its_own(tmp_path: Path):
    put(tmp_path / "a.jpg")
    source = pickle.loads(pickle.dumps(opened("a.jpg 0\nb.jpg 1\n", tmp_path)))
    assert source.encoded(0) == b"face"


def test_a_line_of_column_names_is_passed_over(tmp_path: Path):
    assert identities(opened("path\tlabel\na.jpg\t10\nb.jpg\t9\n", tmp_path)) == ["10", "9"]
    assert list(opened("path\tlabel\na.jpg\t10\nb.jpg\t9\n", tmp_path / "again").classes) == ["9", "10"]


def test_labels_before_paths_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"list\.txt:1: the image stands where the label is expected"):
        opened("0 a.jpg\n1 b.jpg\n", tmp_path)
