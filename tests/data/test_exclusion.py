from __future__ import annotations

from pathlib import Path

import pytest

from frtrain.data.exclusion import Exclusion, read_exclusions, write_exclusions
from frtrain.errors import DataError

AWKWARD = [
    Exclusion("image", "Ana/1.jpg", "nearly the same\tas Ana/2.jpg\n"),
    Exclusion("identity", "Bo\tand\nCy"),
    Exclusion("image", "caf\udce9/\\x09.jpg"),
    Exclusion("identity", "identity", "image"),
    Exclusion("identity", "4038"),
    Exclusion(None, "#1.jpg"),
    Exclusion(None, "山田"),
]


def test_what_is_written_is_read_back(tmp_path: Path):
    write_exclusions(tmp_path / "list.txt", AWKWARD, remarks=["made by hand", "two\nlines"])
    assert read_exclusions(tmp_path / "list.txt") == AWKWARD
    text = (tmp_path / "list.txt").read_text(encoding="utf-8")
    assert text.startswith("# made by hand\n# two\\x0alines\nimage\tAna/1.jpg\tnearly")
    assert len(text.splitlines()) == len(AWKWARD) + 2


def test_a_list_written_by_hand_is_read(tmp_path: Path):
    (tmp_path / "list.txt").write_bytes(
        b"# remark\r\n\r\nAna\r\nimage\tBo/1.jpg\treason\twith a tab\r\nidentity\tCy\r\ncaf\xe9\r\n"
    )
    assert read_exclusions(tmp_path / "list.txt") == [
        Exclusion(None, "Ana"),
        Exclusion("image", "Bo/1.jpg", "reason\twith a tab"),
        Exclusion("identity", "Cy"),
        Exclusion(None, "caf\udce9"),
    ]


def test_lists_of_people_of_lfw_name_identities(tmp_path: Path):
    (tmp_path / "people.txt").write_text("2\nAna_Lee\t3\nBo\t12\n")
    assert read_exclusions(tmp_path / "people.txt") == [Exclusion("identity", "Ana_Lee"), Exclusion("identity", "Bo")]


@pytest.mark.parametrize("line", ["picture\tAna/1.jpg", "image\t", "\tAna"])
def test_a_line_of_another_form_is_an_error_that_names_it(tmp_path: Path, line: str):
    (tmp_path / "list.txt").write_text(f"# remark\n{line}\n")
    with pytest.raises(DataError, match=r"list\.txt:2: expected image or identity, a tab and a name"):
        read_exclusions(tmp_path / "list.txt")


def test_a_missing_list_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match=r"nowhere\.txt: cannot be read \(No such file"):
        read_exclusions(tmp_path / "nowhere.txt")
