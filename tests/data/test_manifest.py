from __future__ import annotations

from pathlib import Path

import pytest

from frtrain.data.manifest import escaped, list_line, read_classes, read_list, unescaped, write_classes
from frtrain.errors import DataError

ODD_NAMES = ["plain", "tab\there", "line\nbreak", "back\\slash", "\\x41 is no A", "nicht-ü", "undecodable\udcff", "\u2028"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_comes_back_from_one_line_of_text(name: str):
    assert len(escaped(name).splitlines()) == 1
    assert unescaped(escaped(name)) == name


def test_class_names_come_back(tmp_path: Path):
    write_classes(tmp_path / "classes.txt", ODD_NAMES)
    assert read_classes(tmp_path / "classes.txt") == ODD_NAMES


def test_a_list_comes_back(tmp_path: Path):
    path = tmp_path / "train.lst"
    path.write_text("".join(list_line(number, 7, name) for number, name in enumerate(ODD_NAMES)), encoding="utf-8")
    assert list(read_list(path)) == [(number, 7.0, name) for number, name in enumerate(ODD_NAMES)]


def test_a_broken_line_is_named(tmp_path: Path):
    path = tmp_path / "train.lst"
    path.write_text("0\t1\ta.jpg\nnonsense\n")
    with pytest.raises(DataError, match=r"train.lst:2: expected number"):
        list(read_list(path))
