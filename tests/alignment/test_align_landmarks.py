"""Landmarks that the user brings."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from marked_photographs import FACE, FACELESS, Forbidden, MarkedDetector, files, photograph, run, write
from PIL import Image

from frtrain.alignment.crops import CropStyle
from frtrain.alignment.landmarks import read_landmarks
from frtrain.alignment.report import read_report
from frtrain.alignment.transform import TEMPLATES
from frtrain.errors import ConfigError, DataError

HEADER = "path,left_eye_x,left_eye_y,right_eye_x,right_eye_y,nose_x,nose_y,left_mouth_x,left_mouth_y,right_mouth_x,right_mouth_y"
SHORT = "path,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5"
TEMPLATE = TEMPLATES["arcface_112"]
NUMBERS = ",".join(str(value) for value in TEMPLATE.ravel())
PNG = CropStyle(112, "arcface_112", "png", 95, "skip")


def table(folder: Path, *lines: str, header: str = HEADER) -> Path:
    path = folder / "points.csv"
    path.write_bytes("\n".join([header, *lines, ""]).encode("utf-8", "surrogateescape"))
    return path


@pytest.mark.parametrize("header", [HEADER, SHORT, SHORT.upper().replace("PATH", "path").lower()])
def test_points_are_read_by_the_names_of_their_columns(tmp_path: Path, header: str) -> None:
    landmarks = read_landmarks(table(tmp_path, f"Ana/1.png,{NUMBERS}", header=header), ["Ana/1.png"])
    np.testing.assert_array_equal(landmarks.points["Ana/1.png"], TEMPLATE)


def test_columns_may_be_in_any_order_and_others_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "points.csv"
    file.write_text("score,y1,x1,x2,y2,x3,y3,x4,y4,x5,y5,path\n0.9,2,1,3,4,5,6,7,8,9,10,./Ana//1.png\n", "utf-8-sig")
    points = read_landmarks(file, ["Ana/1.png"]).points
    np.testing.assert_array_equal(points["Ana/1.png"], np.arange(1, 11).reshape(5, 2))


def test_names_with_commas_quotes_and_bytes_that_are_not_utf8_are_found(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9.jpg")
    file = table(tmp_path, f'"a,""b"".png",{NUMBERS}', f"{odd},{NUMBERS}")
    assert set(read_landmarks(file, ['a,"b".png', odd]).points) == {'a,"b".png', odd}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([f"a.png,{NUMBERS}", "b.png,1,2,3"], r"points\.csv:3: has 4 fields, but the header has 11"),
        ([f"a.png,{NUMBERS}", f"b.png,{NUMBERS}".replace("38.2946", "left")], r"points\.csv:3: 'left' is not a coord"),
        ([f"a.png,{NUMBERS}".replace("38.2946", "nan")], r"points\.csv:2: 'nan' is not a coordinate"),
        ([f"a.png,{NUMBERS}", f"./a.png,{NUMBERS}"], r"points\.csv:3: a\.png has a line already, line 2"),
        ([f'"a.png,{NUMBERS}'], r"points\.csv:\d: is not a line of a CSV file"),
        ([], r"points\.csv: has no lines below its header"),
        ([f"/photos/a.png,{NUMBERS}"], r"none of its 1 paths .*'/photos/a\.png'; paths must be relative"),
    ],
)
def test_wrong_line_is_an_error_with_file_and_number(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_landmarks(table(tmp_path, *lines), ["a.png", "b.png"])


@pytest.mark.parametrize(
    ("header", "message"),
    [("path,x1,y1", r"points\.csv:1: expected a header with the columns path,left_eye_x"), ("", r"points\.csv:1: exp")],
)
def test_wrong_header_is_an_error_that_tells_the_right_one(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_landmarks(table(tmp_path, f"a.png,{NUMBERS}", header=header), ["a.png"])


def test_missing_file_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"landmarks=.*points\.csv: cannot be read"):
        read_landmarks(tmp_path / "points.csv", ["a.png"])


def test_crops_follow_the_given_points_and_no_detector_is_built(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    pixels = photograph(FACELESS, (200, 200))
    Image.fromarray(pixels).save(source / "a.png")
    moved = ",".join(str(value) for value in (TEMPLATE + np.array([30, 50])).ravel())
    summary = run(source, tmp_path / "target", Forbidden(), PNG, landmarks=table(tmp_path, f"a.png,{moved}"))
    assert summary.outcomes == Counter(aligned=1)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "target" / "a.png")), pixels[50:162, 30:142])
    record = read_report(tmp_path / "target")["a.png"]
    assert (record.box, record.confidence, record.faces, record.reason) == (None, None, 1, None)
    np.testing.assert_allclose(record.points or [], TEMPLATE + np.array([30, 50]), atol=1e-3)


def test_photographs_without_a_line_are_detected(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"a.png": FACE, "b.png": FACE, "c.png": FACELESS})
    detector = MarkedDetector()
    summary = run(
        source, tmp_path / "target", detector, landmarks=table(tmp_path, f"a.png,{NUMBERS}", f"z.png,{NUMBERS}")
    )
    assert summary.outcomes == Counter(aligned=2, skipped=1)
    assert sum(detector.calls) == 2
    assert summary.unknown_landmarks == 1


def test_photographs_without_a_line_are_skipped_on_request(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"a.png": FACE, "b.png": FACE})
    points = table(tmp_path, f"a.png,{NUMBERS}")
    run(source, tmp_path / "target", Forbidden(), landmarks=points, landmarks_missing="skip")
    assert read_report(tmp_path / "target")["b.png"].reason == "has no line in points.csv"
    assert "b.jpg" not in files(tmp_path / "target")


def test_points_that_coincide_are_skipped_with_their_reason(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"a.png": FACE})
    run(source, tmp_path / "target", Forbidden(), landmarks=table(tmp_path, f"a.png,{','.join(['5'] * 10)}"))
    assert "coincide" in str(read_report(tmp_path / "target")["a.png"].reason)


def test_other_landmarks_for_the_same_target_are_an_error(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"a.png": FACE})
    run(source, tmp_path / "target", landmarks=table(tmp_path, f"a.png,{NUMBERS}"))
    with pytest.raises(ConfigError, match="landmarks"):
        run(source, tmp_path / "target", landmarks=table(tmp_path, f"a.png,1{NUMBERS}"))
    with pytest.raises(ConfigError, match="landmarks"):
        run(source, tmp_path / "target")
