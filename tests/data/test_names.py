from __future__ import annotations

import pytest

from frtrain.data.names import Names

TEXTS = ["a", "", "Jürgen/1.jpg", "undecodable\udcff"]


def test_names_are_a_sequence_of_the_texts():
    names = Names.of(TEXTS)
    assert list(names) == TEXTS
    assert (len(names), names[-1], names[1:3]) == (4, TEXTS[-1], TEXTS[1:3])


def test_iterating_gives_what_indices_give(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("frtrain.data.names.TEXTS_AT_ONCE", 3)
    names = Names.of(text for text in TEXTS * 3)
    assert list(names) == [names[at] for at in range(len(names))] == TEXTS * 3


def test_an_index_beyond_the_end_is_refused():
    with pytest.raises(IndexError):
        Names.of(TEXTS)[4]
