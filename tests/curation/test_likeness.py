from __future__ import annotations

import pytest

from frtrain.curation.likeness import plain_name, same_names


@pytest.mark.parametrize(
    ("one", "other"),
    [("Jürgen_Müller", "muller, jurgen"), ("George W. Bush", "bush_george_w"), ("Straße", "STRASSE")],
)
def test_spellings_of_one_name_become_one(one: str, other: str):
    assert plain_name(one) == plain_name(other)


def test_numbers_are_no_names():
    assert plain_name("0000045") == ""
    assert same_names(["0000045", "12"], ["0000045", "13"]) == []


@pytest.mark.parametrize(
    "misspelt", ["Arnold Schwarzeneger", "Arnold Schwarzeneggger", "Arnold Schwarzenegher", "Arnodl Schwarzenegger"]
)
def test_one_wrong_letter_is_found(misspelt: str):
    assert same_names(["x", "Arnold_Schwarzenegger"], [misspelt]) == [(1, 0, False)]


def test_two_wrong_letters_and_short_names_are_not():
    assert same_names(["Arnold Schwarzenegger"], ["Arnolt Schwarzenecker"]) == []
    assert same_names(["Ann"], ["Anna"]) == []


def test_equal_names_are_exact():
    assert same_names(["Colin_Powell", "Ann"], ["Powell Colin", "ann"]) == [(0, 0, True), (1, 1, True)]
