from __future__ import annotations

import os
from pathlib import Path

import pytest

from frtrain.alignment.photographs import list_photographs, plan_outputs
from frtrain.errors import DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_nested_and_flat_photographs_are_found_with_any_name(tmp_path: Path) -> None:
    names = ["flat.JPG", "Ana/1.png", "Ana/deep/2.webp", "Łukasz Żółć/ü 1.jpeg", "日本/写真.bmp", "a'b\"c/[x].jpg"]
    assert list_photographs(touch(tmp_path / "source", *names), tmp_path / "target").photographs == sorted(names)


def test_file_name_that_is_not_utf8_is_found(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    try:
        source = touch(tmp_path / "source", name)
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    assert list_photographs(source, tmp_path / "target").photographs == [name]


def test_other_files_are_counted_by_extension(tmp_path: Path) -> None:
    source = touch(
        tmp_path / "source", "a.jpg", "notes.txt", "b/more.TXT", "b/film.mp4", "README", ".DS_Store", "._a.jpg"
    )
    expected = {".txt": 2, ".mp4": 1, "(no extension)": 1, "(hidden)": 2}
    assert list_photographs(source, tmp_path / "target").ignored == expected


def test_link_loop_ends_and_is_named(tmp_path: Path) -> None:
    source = touch(tmp_path / "source", "Ana/1.jpg")
    (source / "Ana" / "again").symlink_to(source)
    listing = list_photographs(source, tmp_path / "target")
    assert listing.photographs == ["Ana/1.jpg"]
    assert "Ana/again" in listing.passed_over[0]


def test_second_name_of_a_folder_does_not_make_a_second_identity(tmp_path: Path) -> None:
    source = touch(tmp_path / "source", "Zoe/1.jpg")
    (source / "Alias").symlink_to(source / "Zoe")
    assert list_photographs(source, tmp_path / "target").photographs == ["Zoe/1.jpg"]


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A source with links to a folder and a file outside, and to a file inside."""
    touch(tmp_path / "elsewhere", "1.jpg", "deep/2.jpg")
    source = touch(tmp_path / "source", "Ana/0.jpg")
    (source / "Ben").symlink_to(tmp_path / "elsewhere")
    (source / "Ana" / "3.jpg").symlink_to(tmp_path / "elsewhere" / "1.jpg")
    (source / "Ana" / "4.jpg").symlink_to("0.jpg")
    return source


def test_links_that_lead_outside_are_passed_over_by_name(linked: Path, tmp_path: Path) -> None:
    listing = list_photographs(linked, tmp_path / "target")
    assert listing.photographs == ["Ana/0.jpg", "Ana/4.jpg"]
    assert [sentence.split(" is ")[0] for sentence in listing.passed_over] == ["Ana/3.jpg", "Ben"]
    assert all("links=follow" in sentence for sentence in listing.passed_over)


def test_links_that_lead_outside_are_followed_on_request(linked: Path, tmp_path: Path) -> None:
    listing = list_photographs(linked, tmp_path / "target", links="follow")
    assert listing.photographs == ["Ana/0.jpg", "Ana/3.jpg", "Ana/4.jpg", "Ben/1.jpg", "Ben/deep/2.jpg"]
    assert listing.outside_links == 1
    assert listing.passed_over == []


def test_linked_source_is_inside_of_itself(linked: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(linked)
    assert list_photographs(tmp_path / "link", tmp_path / "target").photographs == ["Ana/0.jpg", "Ana/4.jpg"]


def test_source_of_links_to_elsewhere_alone_is_an_error_that_tells_the_key(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "1.jpg")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "Ben").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"holds no images; Ben is a link .*links=follow"):
        list_photographs(tmp_path / "source", tmp_path / "target")


def test_linked_target_is_not_read(tmp_path: Path) -> None:
    target = touch(tmp_path / "target", "Ana/1.jpg")
    source = touch(tmp_path / "source", "Ana/1.jpg")
    (source / "crops").symlink_to(target)
    assert list_photographs(source, target).photographs == ["Ana/1.jpg"]


def test_broken_link_is_listed_so_that_it_is_reported(tmp_path: Path) -> None:
    source = touch(tmp_path / "source", "a.jpg")
    (source / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert list_photographs(source, tmp_path / "target").photographs == ["a.jpg", "gone.jpg"]


def test_named_pipe_is_not_read(tmp_path: Path) -> None:
    source = touch(tmp_path / "source", "a.jpg")
    os.mkfifo(source / "pipe.jpg")
    assert list_photographs(source, tmp_path / "target").photographs == ["a.jpg"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, "does not exist"),
        ([], "holds no images"),
        (["a.txt", "b/c.txt"], r"holds no images \(other files: .txt 2"),
    ],
)
def test_source_without_images_is_an_error_that_says_what_is_there(
    tmp_path: Path, names: list[str] | None, message: str
) -> None:
    if names is not None:
        (tmp_path / "source").mkdir()
        touch(tmp_path / "source", *names)
    with pytest.raises(DataError, match=message):
        list_photographs(tmp_path / "source", tmp_path / "target")


def test_crops_keep_folder_and_stem() -> None:
    assert plan_outputs(["Ana/1.png", "x.jpeg"], ".jpg", {}) == {"Ana/1.png": "Ana/1.jpg", "x.jpeg": "x.jpg"}


def test_photographs_with_one_stem_get_different_crops() -> None:
    outputs = plan_outputs(["a.jpg", "a.jpg.jpg", "a.png", "a.png.png"], ".jpg", {})
    assert outputs["a.png"] == "a.png-2.jpg"
    assert len(set(outputs.values())) == 4


def test_crop_does_not_take_the_name_of_a_folder() -> None:
    assert plan_outputs(["a.jpg/1.png", "a.png"], ".jpg", {})["a.png"] == "a.png.jpg"


def test_recorded_names_stay_when_a_photograph_is_added() -> None:
    assert plan_outputs(["a.jpg", "a.png"], ".jpg", {"a.jpg": "a.jpg"}) == {"a.jpg": "a.jpg", "a.png": "a.png.jpg"}
