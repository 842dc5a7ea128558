from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from frtrain.data.inspection.contact_sheet import contact_sheet, sheet_rows, thumbnail
from frtrain.data.inspection.document import document
from frtrain.data.inspection.page import LARGEST_PAGE, html_page
from frtrain.data.inspection.scan import sample, scan
from frtrain.data.inspection.summary import summarize
from frtrain.data.inspection.words import number, shortened

CREATED = "2026-01-02T03:04:05+00:00"


class Balance(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.sources = [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_outside_itself(stored, pictures, summary_of):
    source = stored({"a": [pictures.jpeg(pictures.draw(0))] * 2, "b": [b"", pictures.jpeg(pictures.draw(1))]})
    text = html_page(source, summary_of(source), "folder: /faces", ["as published"], CREATED)
    balance = Balance()
    balance.feed(text)
    assert balance.open == []
    assert balance.sources
    assert all(source.startswith("data:image/") for source in balance.sources)
    assert "<script" not in text
    for told in ("folder: /faces", "as published", "same file, within one identity, 2 images", "is empty (0 bytes)"):
        assert told in text


def test_names_cannot_break_the_page(stored, pictures, summary_of):
    evil = "<script>alert(1)</script>\"'&\udcff\n$title"
    source = stored({evil: [pictures.jpeg(pictures.draw(0))] * 2, "b": [b""]})
    text = html_page(source, summary_of(source), evil, [evil], CREATED)
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    text.encode()


def test_the_page_stays_small_whatever_the_data(stored, pictures, summary_of):
    rng = np.random.default_rng(0)
    noise = [pictures.png(rng.integers(0, 256, (112, 112, 3), dtype=np.uint8), 0) for _ in range(160)]
    long = {f"{'name ' * 60}{identity}": [data] * 8 for identity, data in enumerate(noise)}
    source = stored(long)
    summary = summary_of(source)
    assert len(summary.duplicates.groups) == 160
    assert len(html_page(source, summary, "noise", [], CREATED).encode()) <= LARGEST_PAGE


@pytest.mark.parametrize("read", [0, 1])
def test_a_page_without_pictures_read_or_readable(read: int, stored):
    source = stored({"a": [b"junk"], "b": [b"junk"]})
    text = html_page(source, summarize(source, scan(source, sample(2, read), 0), 6), "junk", [], CREATED)
    assert "2</b><span>images" in text
    assert ("is not an image" in text) == bool(read)


def test_json_names_everything(stored, pictures, summary_of):
    source = stored(
        {"a\udcff": [pictures.jpeg(pictures.draw(0))] * 2 + [b""] * 150, "b": [pictures.jpeg(pictures.draw(0))]}
    )
    text = json.dumps(document(source, summary_of(source), ["as published"], {"read": "all"}))
    found = json.loads(text)
    assert len(found["unusable"]) == 150
    assert found["unusable"][149] == {
        "name": "a\udcff/151.jpg",
        "kind": "unreadable",
        "identity": "a\udcff",
        "reason": "is empty (0 bytes)",
    }
    assert found["duplicates"]["groups"] == [
        {"kind": "file", "identities": 2, "images": ["a\udcff/0.jpg", "a\udcff/1.jpg", "b/0.jpg"]}
    ]
    assert found["duplicates"]["levels"]["file"] == {
        "groups": 1,
        "images": 3,
        "surplus": 2,
        "within_one_identity": 0,
        "between_identities": 1,
    }
    assert found["known"] == ["as published"]
    assert (found["images"], found["identities"], found["readable"]) == (153, 2, 3)


def test_a_thumbnail_keeps_proportions_and_marks_what_cannot_be_read(stored, pictures):
    wide = np.zeros((50, 200, 3), dtype=np.uint8)
    source = stored({"a": [pictures.png(wide), b"junk"]})
    fitted = thumbnail(source, 0)
    assert fitted.shape == (112, 112, 3)
    assert (fitted[56] == 0).all()
    assert (fitted[[0, 30, 80, 111]] == 255).all()
    assert len(np.unique(thumbnail(source, 1).reshape(-1, 3), axis=0)) == 2


def test_a_sheet_has_a_row_for_each_identity_of_several_images(stored, pictures, summary_of):
    tiles = [pictures.png(np.full((112, 112, 3), level, dtype=np.uint8)) for level in range(30)]
    identities = {f"one {place}": [tiles[place]] for place in range(10)}
    identities |= {f"two {place}": [tiles[10 + place]] * 2 for place in range(10)}
    source = stored(identities)
    rows = sheet_rows(source, summary_of(source), "spread")
    assert len(rows) == 8
    assert (rows[0], rows[-1]) == ([10, 11], [28, 29])
    sheet = contact_sheet(source, rows)
    assert sheet.shape == (8 * 112, 10 * 112, 3)
    assert (sheet[0, 0].tolist(), sheet[-1, 223].tolist(), sheet[0, 224].tolist()) == ([10] * 3, [19] * 3, [255] * 3)


def test_other_sheets_show_extremes_and_duplicates(stored, pictures, summary_of):
    tiles = [pictures.png(np.full((112, 112, 3), level, dtype=np.uint8)) for level in range(20)]
    source = stored({"a": tiles[::-1], "b": [tiles[4]]})
    summary = summary_of(source)
    assert sheet_rows(source, summary, "darkest") == [[19, 18, 17, 16, 15, 20, 14, 13]]
    assert sheet_rows(source, summary, "brightest")[0][:2] == [0, 1]
    assert sheet_rows(source, summary, "duplicates") == [[15, 20]]
    empty = contact_sheet(source, [])
    assert empty.shape == (112, 1120, 3)


def test_numbers_and_names_are_short():
    assert [number(value) for value in (0, 1, 1.5, 12.345, 99.96, 100.4, 1234567)] == [
        "0",
        "1",
        "1.5",
        "12.3",
        "100",
        "100",
        "1,234,567",
    ]
    assert shortened("a\n\udcff") == r"a\x0a\udcff"
    assert re.fullmatch(r"x{50}…x{49}", shortened("x" * 300, 100))
