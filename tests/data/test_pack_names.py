from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from frtrain.data.pack_names import extension_of, listed_names, relative_name


@pytest.mark.parametrize(
    ("name", "below"),
    [("Ann/1.jpg", "Ann/1.jpg"), ("/etc//passwd", "etc/passwd"), ("../.././a/../b", "a/b"), ("..", ""), ("", "")],
)
def test_a_name_stays_below_the_folder_it_is_put_in(name: str, below: str):
    assert relative_name(name) == below


def test_the_extension_follows_the_first_bytes():
    beginnings = [b"\xff\xd8\xff\xe1", b"\x89PNG\r\n", b"RIFF\0\0", b"BM6", b"what", b""]
    assert [extension_of(one) for one in beginnings] == ["jpg", "png", "webp", "bmp", "jpg", "jpg"]


def test_names_of_several_packs_are_all_there_or_none(tmp_path: Path):
    numbers, labels = np.array([2, 1]), np.array([0, 5])
    for pack, folder in enumerate("ab"):
        (tmp_path / f"{pack}.lst").write_text(f"1\t5\t{folder}/1.jpg\n2\t0\t{folder}/2.jpg\n3\t5\t{folder}/3.jpg\n")
    lists = [(tmp_path / f"{pack}.lst", numbers, labels) for pack in range(3)]
    names = listed_names(lists[:2])
    assert names is not None
    assert [list(part) for part in names] == [["a/2.jpg", "a/1.jpg"], ["b/2.jpg", "b/1.jpg"]]
    assert listed_names(lists) is None
    assert listed_names([lists[0], lists[0]]) is None
