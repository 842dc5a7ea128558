from __future__ import annotations

import pytest

from frtrain.data.packs import paths
from frtrain.data.packs.paths import SafePaths

JPEG = b"\xff\xd8\xff"


@pytest.mark.parametrize(
    ("name", "identity", "path"),
    [
        ("Ana/1.jpg", "Ana", "Ana/1.jpg"),
        ("Ana Bé/x y.z.JPG", "Ana Bé", "Ana Bé/x y.z.JPG"),
        ("Ana/\udcff.jpg", "Ana", "Ana/\udcff.jpg"),
        ("1.jpg", "Ana", "Ana/1.jpg"),
        ("Ana_1.jpg", "Ana", "Ana/Ana_1.jpg"),
        ("images/1.jpg", "Ana", "Ana/images/1.jpg"),
        ("a/b/1.jpg", "a/b", "a/b/1.jpg"),
        ("/raid/faces/1.jpg", "7", "7/raid/faces/1.jpg"),
        ("../../etc/1.jpg", "Ana", "Ana/_/_/etc/1.jpg"),
        ("Ana/./../1.jpg", "Ana", "Ana/_/1.jpg"),
        ("..", "..", "_/_.jpg"),
        ("", "", "_/image.jpg"),
        ("Ana/", "Ana", "Ana/Ana.jpg"),
        ("Ana/.hidden.jpg", "Ana", "Ana/_hidden.jpg"),
        (".Ana/1.jpg", ".Ana", "_Ana/1.jpg"),
        ("Ana/1\0.jpg", "Ana", "Ana/1_.jpg"),
        ("Ana/1", "Ana", "Ana/1.jpg"),
        ("Ana/1.txt", "Ana", "Ana/1.txt.jpg"),
    ],
)
def test_paths_stay_inside_and_are_seen_by_readers(name: str, identity: str, path: str) -> None:
    assert SafePaths().take(name, identity, JPEG) == path


@pytest.mark.parametrize(
    ("data", "extension"), [(JPEG, "jpg"), (b"\x89PNG\r\n", "png"), (b"RIFF0000WEBP", "webp"), (b"BM", "bmp")]
)
def test_missing_extension_is_that_of_the_image(data: bytes, extension: str) -> None:
    assert SafePaths().take("Ana/1", "Ana", data) == f"Ana/1.{extension}"


def test_names_that_clash_are_told_apart_in_their_order() -> None:
    taken = SafePaths()
    names = ["Ana/1.jpg", "Ana/1.png", "Ana//1.jpg", "Ana/./1.jpg", "Ana/1.jpg/2.jpg", "Ana/d/1.jpg", "Ana/d.jpg"]
    assert [taken.take(name, "Ana", JPEG) for name in names] == [
        "Ana/1.jpg",
        "Ana/1.png",
        "Ana/1~2.jpg",
        "Ana/1~3.jpg",
        "Ana/1.jpg~2/2.jpg",
        "Ana/d/1.jpg",
        "Ana/d.jpg",
    ]


def test_file_does_not_take_the_place_of_a_folder() -> None:
    taken = SafePaths()
    assert taken.take("Ana/x.jpg/1.jpg", "Ana", JPEG) == "Ana/x.jpg/1.jpg"
    assert taken.take("Ana/x.jpg", "Ana", JPEG) == "Ana/x~2.jpg"


def test_going_on_gives_the_same_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "MERGED_AT", 4)
    names = [f"Ana/{number % 7}.jpg" for number in range(30)]
    whole = SafePaths()
    expected = [whole.take(name, "Ana", JPEG) for name in names]
    assert len(set(expected)) == 30
    later = SafePaths(expected[:13])
    assert [later.take(name, "Ana", JPEG) for name in names[13:]] == expected[13:]
