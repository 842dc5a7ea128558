from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frtrain.errors import DataError
from frtrain.evaluation.pictures import error_sheet, hardest_errors, histogram_figure, png, roc_figure
from frtrain.evaluation.references import PixelEmbedder
from frtrain.evaluation.report import prepare_folder, write_report
from frtrain.evaluation.suites import LfwView1, Report
from frtrain.evaluation.summary import rows


@pytest.fixture
def report(faces: Path, view1: Path) -> Report:
    return LfwView1(str(faces), str(view1), True, "error", [0.1, 0.01], 20, 0).run(PixelEmbedder().embed, 112, 8)


class Page(HTMLParser):
    """Collects what a test asks of a page, and that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_report_holds_a_page_the_numbers_the_pairs_and_the_pictures(report, tmp_path):
    write_report(report, "pixels", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "errors.png",
        "pairs.csv",
        "report.html",
        "report.json",
        "roc.png",
        "scores.png",
    ]


def test_page_is_well_formed_and_needs_nothing_outside_itself(report, tmp_path):
    page = Page(write_report(report, "pixels", tmp_path).read_text())
    assert page.open == []
    assert len(page.sources) == 3
    for source in page.sources:
        Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))).verify()
    assert "http" not in page.words


def test_page_says_every_number_of_the_table(report, tmp_path):
    words = Page(write_report(report, "pixels", tmp_path).read_text()).words
    for row in rows(report.verification):
        assert all(text in words for text in (row.name, row.value, row.interval, row.threshold, row.note))


def test_page_escapes_names_it_was_given(report, tmp_path):
    text = write_report(report, "<script>alert(1)</script>", tmp_path).read_text()
    assert "<script" not in text


def test_json_holds_the_numbers(report, tmp_path):
    write_report(report, "pixels", tmp_path)
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["verification"]["auc"] == report.verification.auc
    assert (document["model"], document["suite"], document["pairs"]) == ("pixels", "lfw_view1", 24)


def test_csv_holds_every_score(report, tmp_path):
    write_report(report, "pixels", tmp_path)
    with (tmp_path / "pairs.csv").open() as file:
        lines = list(csv.DictReader(file))
    np.testing.assert_allclose([float(line["score"]) for line in lines], report.scores, atol=1e-6)


def test_left_out_pairs_are_said_on_the_page(report, tmp_path):
    fewer = dataclasses.replace(report, missing=("A/A_0001",), pairs_in_list=26)
    words = Page(write_report(fewer, "pixels", tmp_path).read_text()).words
    assert "1 images are missing: 2 of 26 pairs were left out" in words


def test_second_report_replaces_the_first_and_leaves_no_other_files(report, tmp_path):
    write_report(report, "first", tmp_path / "out")
    write_report(report, "second", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["model"] == "second"
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_folder_that_cannot_be_written_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"output=.*/file/out: cannot be written \(Not a directory\); choose another"):
        prepare_folder(tmp_path / "file" / "out")


def test_page_without_intervals_says_so(report, tmp_path):
    plain = dataclasses.replace(report, verification=dataclasses.replace(report.verification, intervals=None))
    assert "No intervals" in write_report(plain, "pixels", tmp_path).read_text()


def test_unresolved_rate_is_marked_in_the_table(report):
    notes = {row.name: row.note for row in rows(report.verification)}
    assert notes["TAR at FAR 0.01"].startswith("not resolved: needs 100 impostor pairs")
    assert notes["TAR at FAR 0.1"].startswith("attained FAR")


SCORES = np.array([0.9, 0.1, 0.3, 0.8, 0.2, 0.7])
GENUINE = np.array([True, True, True, False, False, False])


def test_hardest_errors_are_the_most_confident_ones_first():
    errors = hardest_errors(SCORES, GENUINE, 0.5, count=2)
    assert [(error.index, error.genuine) for error in errors] == [(1, True), (2, True), (3, False), (5, False)]


def test_right_decisions_are_no_errors():
    assert hardest_errors(np.where(GENUINE, 0.9, 0.1), GENUINE, 0.5, count=2) == []


@pytest.mark.parametrize("constant", [True, False])
def test_pictures_are_drawn_for_any_scores(report, constant):
    scores = np.ones(24) if constant else report.scores
    for figure in (
        roc_figure(scores, report.pairs.genuine, report.verification),
        histogram_figure(scores, report.pairs.genuine, 0.5),
    ):
        assert Image.open(io.BytesIO(png(figure))).size == (704, 506)


def test_sheet_of_errors_asks_only_for_the_pairs_it_shows():
    asked: list[int] = []

    def images(index: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append(index)
        return np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)

    error_sheet(hardest_errors(SCORES, GENUINE, 0.5, 1), images, lambda index: ("$left_1", "right"))
    assert asked == [1, 3]


def test_sheet_without_errors_says_none():
    figure = error_sheet([], lambda index: pytest.fail("no pair to draw"), lambda index: ("", ""))
    assert [text.get_text() for text in figure.texts].count("none") == 2
