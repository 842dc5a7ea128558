from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from frtrain.config import SubsetConfig
from frtrain.config_files import option_values
from frtrain.data.encoded import EncodedSource
from frtrain.data.exclusion import Exclusion, write_exclusions
from frtrain.data.selection import select
from frtrain.data.source import Source
from frtrain.errors import ConfigError, DataError
from frtrain.schema import parse


class Named(EncodedSource):
    """Images that are their own names: three of Ana, one of Bo, four of Cy, two of Di."""

    def __init__(self) -> None:
        self.classes = ["Ana", "Bo", "Cy", "Di"]
        self.labels = np.array([2, 0, 0, 2, 1, 3, 2, 0, 3, 2])
        self.fingerprint = "named"

    def name(self, index: int) -> str:
        return f"{self.classes[self.labels[index]]}/{index}.jpg"

    def encoded(self, index: int) -> bytes:
        return self.name(index).encode()


def subset(**values: object) -> SubsetConfig:
    return parse(SubsetConfig, {**option_values("subset", "all"), **values}, "subset")


def names(source: Source) -> list[str]:
    assert isinstance(source, EncodedSource)
    assert [source.encoded(index).decode() for index in range(len(source))] == [
        source.name(index) for index in range(len(source))
    ]
    for index in range(len(source)):
        assert source.name(index).startswith(f"{source.classes[source.labels[index]]}/")
    return [source.name(index) for index in range(len(source))]


def listed(path: Path, text: str) -> str:
    path.write_bytes(os.fsencode(text))
    return str(path)


def test_a_section_that_asks_for_nothing_gives_the_source_itself():
    source = Named()
    assert select(source, subset()) is source


def test_filters_that_leave_everything_change_nothing(tmp_path: Path):
    source = Named()
    everybody = listed(tmp_path / "all.txt", "Di\nCy\nBo\nAna\n")
    assert select(source, subset(include=everybody, max_images=4, first=4)) is source


def test_identities_with_too_few_images_are_left_out():
    chosen = select(Named(), subset(min_images=3))
    assert list(chosen.classes) == ["Ana", "Cy"]
    assert names(chosen) == ["Cy/0.jpg", "Ana/1.jpg", "Ana/2.jpg", "Cy/3.jpg", "Cy/6.jpg", "Ana/7.jpg", "Cy/9.jpg"]


def test_the_first_images_of_each_identity_are_kept():
    chosen = select(Named(), subset(max_images=2))
    assert names(chosen) == ["Cy/0.jpg", "Ana/1.jpg", "Ana/2.jpg", "Cy/3.jpg", "Bo/4.jpg", "Di/5.jpg", "Di/8.jpg"]


def test_the_first_identities_are_those_that_the_other_filters_leave():
    chosen = select(Named(), subset(min_images=2, max_images=1, first=2))
    assert names(chosen) == ["Cy/0.jpg", "Ana/1.jpg"]


def test_a_list_chooses_identities_and_keeps_their_order(tmp_path: Path):
    chosen = select(Named(), subset(include=listed(tmp_path / "people.txt", "Di\r\nAna\r\n")))
    assert list(chosen.classes) == ["Ana", "Di"]


@pytest.mark.parametrize("text", ["2\nAna\t3\nDi\t2\n", "2\n1\nAna\t3\n1\nDi\t2\n", "2\nAna\nDi\n"])
def test_lists_of_lfw_with_counts_work(tmp_path: Path, text: str):
    assert list(select(Named(), subset(include=listed(tmp_path / "people.txt", text))).classes) == ["Ana", "Di"]


def test_names_in_a_list_may_be_escaped(tmp_path: Path):
    source = Named()
    source.classes = ["A\tna", "B\\x6fo", "Cy", "D\udce9"]
    chosen = select(source, subset(include=listed(tmp_path / "people.txt", "A\\x09na\nB\\x6fo\nD\udce9\n")))
    assert list(chosen.classes) == ["A\tna", "B\\x6fo", "D\udce9"]


def test_a_listed_identity_that_is_not_there_is_an_error_that_names_it(tmp_path: Path):
    people = listed(tmp_path / "people.txt", "Ana\nZoe\n")
    with pytest.raises(DataError, match=r"subset\.include=.*people\.txt: 1 of 2 identities are not .* e\.g\. Zoe"):
        select(Named(), subset(include=people))


def test_a_missing_number_is_no_header_of_lfw(tmp_path: Path):
    source = Named()
    source.classes = ["0000045", "0000099", "0000100", "0000103"]
    with pytest.raises(DataError, match=r"1 of 2 identities are not .* 0000777"):
        select(source, subset(include=listed(tmp_path / "people.txt", "0000045\n0000777\n")))


def test_a_list_that_cannot_be_read_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match=r"subset\.include=.*nowhere\.txt: cannot be read \(No such file"):
        select(Named(), subset(include=str(tmp_path / "nowhere.txt")))
    with pytest.raises(DataError, match=r"subset\.exclude: .*nowhere\.txt.*cannot be read \(No such file"):
        select(Named(), subset(exclude=[str(tmp_path / "nowhere.txt")]))


def test_identities_and_images_are_excluded(tmp_path: Path):
    write_exclusions(tmp_path / "a.txt", [Exclusion("identity", "Cy"), Exclusion("image", "Ana/2.jpg", "blurred")])
    other = listed(tmp_path / "b.txt", "# by hand\nBo\nDi/8.jpg\n")
    chosen = select(Named(), subset(exclude=[str(tmp_path / "a.txt"), other]))
    assert names(chosen) == ["Ana/1.jpg", "Di/5.jpg", "Ana/7.jpg"]


def test_images_that_are_excluded_do_not_count(tmp_path: Path):
    write_exclusions(tmp_path / "list.txt", [Exclusion("image", "Ana/1.jpg")])
    chosen = select(Named(), subset(exclude=[str(tmp_path / "list.txt")], min_images=3))
    assert list(chosen.classes) == ["Cy"]


def test_an_identity_without_images_is_gone(tmp_path: Path):
    write_exclusions(tmp_path / "list.txt", [Exclusion("image", "Bo/4.jpg")])
    assert list(select(Named(), subset(exclude=[str(tmp_path / "list.txt")])).classes) == ["Ana", "Cy", "Di"]


def test_the_people_of_a_test_set_are_excluded_by_its_own_list(tmp_path: Path):
    assert list(select(Named(), subset(exclude=[listed(tmp_path / "lfw.txt", "2\nAna\t3\nBo\t1\n")])).classes) == [
        "Cy",
        "Di",
    ]


def test_images_that_are_not_named_after_their_identity_are_found(tmp_path: Path):
    source = Named()
    source.name = lambda index: f"Bo/{index}" if index % 2 else f"{index}.jpg"  # type: ignore[method-assign]
    chosen = select(source, subset(exclude=[listed(tmp_path / "list.txt", "image\tBo/3\nimage\t8.jpg\n")]))
    assert [source.name(index) for index in range(10) if index not in (3, 8)] == [
        chosen.name(index)  # type: ignore[attr-defined]
        for index in range(8)
    ]


def test_names_that_match_nothing_are_counted_in_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = listed(tmp_path / "list.txt", "identity\tZoe\nAna/99.jpg\nimage\tCy\nBo\n")
    chosen = select(Named(), subset(exclude=[path]))
    assert list(chosen.classes) == ["Ana", "Cy", "Di"]
    assert f"subset.exclude={path}: 3 of 4 names are not in the data set, e.g. Zoe" in caplog.text


def test_when_nobody_is_left_the_error_says_what_each_filter_left(tmp_path: Path):
    people = listed(tmp_path / "people.txt", "Ana\nBo\n")
    with pytest.raises(DataError, match=r"4 in the data set, 2 after subset\.include=.*, 0 after subset\.min_images=9"):
        select(Named(), subset(include=people, min_images=9))


def test_the_fingerprint_covers_what_is_chosen():
    values = [{"max_images": 1}, {"max_images": 2}, {"first": 2}, {"first": 3}, {"min_images": 3}]
    prints = [select(Named(), subset(**value)).fingerprint for value in values]
    assert len(set(prints)) == 5
    assert all(text.startswith("named:subset") for text in prints)
    assert prints == [select(Named(), subset(**value)).fingerprint for value in values]


def test_a_source_without_stored_files_stays_one(tmp_path: Path):
    class Drawn:
        classes, labels, fingerprint = ["a", "b"], np.array([0, 1, 1]), "drawn"

        def __len__(self) -> int:
            return 3

        def image(self, index: int) -> np.ndarray:
            return np.full((1, 1, 3), index, np.uint8)

        def describe(self, index: int) -> str:
            return f"drawing {index}"

    chosen = select(Drawn(), subset(exclude=[listed(tmp_path / "list.txt", "image\tdrawing 1\n")]))
    assert not isinstance(chosen, EncodedSource)
    assert not hasattr(chosen, "encoded")
    assert [int(chosen.image(index)[0, 0, 0]) for index in range(2)] == [0, 2]


def test_labels_that_do_not_fit_are_told_before_anything_is_chosen():
    source = Named()
    source.labels[3] = 9
    source.describe = lambda index: f"image {index}"  # type: ignore[method-assign]
    with pytest.raises(DataError, match=r"image 3: label 9 is outside the 4 classes"):
        select(source, subset(first=1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_images": 0}, r"subset\.min_images=0: must be greater than 0"),
        ({"exclude": "list.txt"}, r"subset\.exclude='list\.txt': must be a valid list"),
        ({"inclde": None}, r"subset\.inclde: unknown key; did you mean 'include'"),
    ],
)
def test_wrong_values_are_errors_that_name_the_key(values: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        subset(**values)


def test_the_headers_of_lfw_are_no_identities_of_that_number(tmp_path: Path):
    source = Named()
    source.classes = ["0", "1", "2", "3"]
    assert list(select(source, subset(include=listed(tmp_path / "people.txt", "2\n0\t3\n1\t2\n"))).classes) == [
        "0",
        "1",
    ]


def test_a_list_of_numbers_has_no_header(tmp_path: Path):
    source = Named()
    source.classes = ["0", "1", "2", "3"]
    with pytest.raises(DataError, match=r"1 of 2 identities are not .* 7"):
        select(source, subset(include=listed(tmp_path / "people.txt", "7\n1\n")))


def test_a_byte_order_mark_belongs_to_no_name(tmp_path: Path):
    people = listed(tmp_path / "people.txt", "\ufeffAna\nDi\n")
    assert list(select(Named(), subset(include=people)).classes) == ["Ana", "Di"]
    assert list(select(Named(), subset(exclude=[people])).classes) == ["Bo", "Cy"]


@pytest.mark.parametrize("keys", [{"include": "/dev/zero"}, {"exclude": ["/dev/zero"]}])
def test_a_list_that_never_ends_is_refused(keys: dict[str, object]):
    with pytest.raises(DataError, match=r"/dev/zero: cannot be read \(Not a regular file\)"):
        select(Named(), subset(**keys))
