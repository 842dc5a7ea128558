from __future__ import annotations

import json
import resource
import signal
from collections import Counter
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from marked_photographs import FACELESS, FAILING, Forbidden, MarkedDetector, SignalAfter, files, photograph, run, write
from PIL import Image

from frtrain.alignment.crops import CropStyle, centre_crop
from frtrain.alignment.report import read_report
from frtrain.alignment.transform import TEMPLATES
from frtrain.errors import ConfigError, DataError
from frtrain.signals import StoppedError


def test_crops_keep_the_folders_and_every_photograph_has_a_line(tmp_path: Path) -> None:
    names = ["flat.png", "Ana/1.png", "Žofie/deep/é 2.jpg"]
    source = write(tmp_path / "source", dict.fromkeys(names, 9))
    target = tmp_path / "target"
    run(source, target)
    assert files(target) == {"flat.jpg", "Ana/1.jpg", "Žofie/deep/é 2.jpg", "align.jsonl", "align.json"}
    lines = [json.loads(line) for line in (target / "align.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["path"]: line["outcome"] for line in lines} == dict.fromkeys(names, "aligned")


def test_record_tells_box_points_confidence_and_count(tmp_path: Path) -> None:
    run(write(tmp_path / "source", {"a.png": 9}), tmp_path / "target")
    record = read_report(tmp_path / "target")["a.png"]
    assert record.box == [20, 20, 90, 110]
    np.testing.assert_allclose(record.points or [], TEMPLATES["arcface_112"], atol=1e-3)
    assert (record.confidence, record.faces, record.reason) == (0.9, 1, None)


def test_crop_holds_the_pixels_of_the_face(tmp_path: Path) -> None:
    style = CropStyle(112, "arcface_112", "png", 95, "skip")
    run(write(tmp_path / "source", {"a.png": 9}), tmp_path / "target", style=style)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "target" / "a.png")), photograph(9))


def test_photograph_without_a_face_is_skipped_and_counted(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"a.png": FACELESS, "b.png": 9})
    summary = run(source, tmp_path / "target")
    assert summary.outcomes == {"aligned": 1, "skipped": 1}
    assert "a.jpg" not in files(tmp_path / "target")
    assert read_report(tmp_path / "target")["a.png"].reason == "no face was found"


def test_photograph_without_a_face_is_cut_at_the_centre_on_request(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"a.png": FACELESS})
    style = CropStyle(112, "arcface_112", "png", 95, no_face="centre")
    summary = run(source, tmp_path / "target", style=style)
    assert summary.outcomes == {"centre": 1}
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "target" / "a.png")), photograph(FACELESS))


def test_centre_crop_is_the_centred_square() -> None:
    image = photograph(3, (200, 100))
    np.testing.assert_array_equal(
        centre_crop(image, 40, 40), cv2.resize(image[50:150], (40, 40), interpolation=cv2.INTER_AREA)
    )


def test_damaged_files_are_reported_one_by_one_and_the_run_goes_on(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"good.png": 9, "truncated.png": 9})
    whole = (source / "truncated.png").read_bytes()
    (source / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (source / "empty.jpg").touch()
    (source / "text.jpg").write_text("a letter")
    (source / "gone.jpg").symlink_to(tmp_path / "nowhere")
    Image.new("1", (20_000, 10_000)).save(source / "enormous.png")
    summary = run(source, tmp_path / "target")
    assert summary.outcomes == {"aligned": 1, "unreadable": 5}
    reasons = {path: record.reason for path, record in read_report(tmp_path / "target").items()}
    for name, word in {"empty.jpg": "empty", "text.jpg": "not an image", "enormous.png": "enormous"}.items():
        assert word in str(reasons[name])


def test_failure_of_the_detector_costs_one_photograph_and_not_its_batch(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"a.png": 9, "b.png": FAILING, "c.png": 9})
    summary = run(source, tmp_path / "target")
    assert summary.outcomes == {"aligned": 2, "skipped": 1}
    assert "out of memory" in str(read_report(tmp_path / "target")["b.png"].reason)


def test_second_call_does_nothing_twice(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"a.png": 9, "b.png": FACELESS, "c.png": 9})
    run(source, tmp_path / "target")
    before = (tmp_path / "target" / "align.jsonl").read_bytes()
    detector = MarkedDetector()
    summary = run(source, tmp_path / "target", detector)
    assert detector.calls == []
    assert (summary.earlier, summary.outcomes) == (3, Counter(aligned=2, skipped=1))
    assert (tmp_path / "target" / "align.jsonl").read_bytes() == before


def test_missing_crop_and_repaired_photograph_are_made_by_the_next_call(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"a.png": 9, "b.png": 9})
    (source / "bad.png").write_bytes(b"")
    run(source, tmp_path / "target")
    (tmp_path / "target" / "a.jpg").unlink()
    write(source, {"bad.png": 9})
    detector = MarkedDetector()
    summary = run(source, tmp_path / "target", detector)
    assert sum(detector.calls) == 2
    assert summary.outcomes == {"aligned": 3}
    assert (tmp_path / "target" / "align.jsonl").read_bytes().count(b"\n") == 3


def test_photographs_with_one_stem_do_not_overwrite_each_other(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"Ana/1.png": 9, "Ana/1.bmp": 10})
    run(source, tmp_path / "target")
    assert files(tmp_path / "target") >= {"Ana/1.png.jpg", "Ana/1.bmp.jpg"}


def test_photographs_of_any_sizes_share_a_batch(tmp_path: Path) -> None:
    source = write(tmp_path / "source", dict.fromkeys(["1.png", "3.png"], 9))
    Image.fromarray(photograph(9, (120, 130))).save(source / "2.png")
    detector = MarkedDetector()
    run(source, tmp_path / "target", detector)
    assert detector.calls == [3]


def test_detector_is_not_built_when_nothing_is_left_to_do(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"a.png": 9})
    run(source, tmp_path / "target")
    assert run(source, tmp_path / "target", Forbidden()).earlier == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photograph_is_turned_upright_by_its_exif_before_anything_else(tmp_path: Path, orientation: int) -> None:
    upright = photograph(9, (130, 120))
    stored = {  # what a camera stores of the upright picture, by the EXIF standard's description of each orientation
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "source").mkdir()
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "source" / "a.png", exif=exif)
    run(tmp_path / "source", tmp_path / "target", style=CropStyle(112, "arcface_112", "png", 95, "skip"))
    crop = np.asarray(Image.open(tmp_path / "target" / "a.png"))
    np.testing.assert_array_equal(crop, upright[:112, :112])


def test_crop_without_a_face_has_the_shape_of_the_template(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"a.png": FACELESS, "b.png": 9})
    run(source, tmp_path / "target", style=CropStyle(224, "sphereface_112x96", "png", 95, "centre"))
    assert {Image.open(tmp_path / "target" / name).size for name in ("a.png", "b.png")} == {(192, 224)}


def test_limit_takes_the_first_photographs(tmp_path: Path) -> None:
    source = write(tmp_path / "source", dict.fromkeys(["a.png", "b.png", "c.png"], 9))
    assert run(source, tmp_path / "target", limit=2).outcomes == {"aligned": 2}
    assert run(source, tmp_path / "target").earlier == 2


@pytest.mark.parametrize(
    ("target", "message"),
    [("faces", "is the source"), ("faces/crops", "lies inside source"), (".", "lies inside target")],
)
def test_overlapping_folders_are_refused(tmp_path: Path, target: str, message: str) -> None:
    source = write(tmp_path / "faces", {"a.png": 9})
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match=message):
        run(source, tmp_path / "link" / target)
    assert files(source) == {"a.png"}


@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_full_disk_stops_without_half_crops_and_goes_on_later(tmp_path: Path, extension: Literal["jpg", "png"]) -> None:
    source = write(tmp_path / "source", dict.fromkeys(["a.png", "b.png"], 9))
    style = CropStyle(112, "arcface_112", extension, 95, "skip")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(DataError, match=f"target={tmp_path / 'target'} cannot be written"):
            run(source, tmp_path / "target", style=style)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(tmp_path / "target") == {"align.json", "align.jsonl"}
    assert run(source, tmp_path / "target", style=style).outcomes == {"aligned": 2}


def test_name_too_long_for_the_file_system_is_skipped_with_its_reason(tmp_path: Path) -> None:
    name = f"{'n' * 248}.png"
    source = write(tmp_path / "source", {name: 9, "b.png": 9})
    assert run(source, tmp_path / "target").outcomes == {"aligned": 1, "skipped": 1}
    assert "too long" in str(read_report(tmp_path / "target")[name].reason)


def test_half_crop_of_a_killed_call_is_swept_away(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"a.png": 9, "b.png": 9})
    run(source, tmp_path / "target", limit=1)
    (tmp_path / "target" / ".b.jpg.4711.part").write_bytes(b"\xff\xd8")
    run(source, tmp_path / "target")
    assert files(tmp_path / "target") == {"a.jpg", "b.jpg", "align.json", "align.jsonl"}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stop_signal_finishes_the_batch_and_says_how_to_go_on(tmp_path: Path, number: int, status: int) -> None:
    source = write(tmp_path / "source", {f"{index}.png": 9 for index in range(9)})
    handler = signal.getsignal(number)
    with pytest.raises(StoppedError, match="4 of 9 photographs are done; the same command goes on") as stopped:
        run(source, tmp_path / "target", watcher=SignalAfter(number, photographs=2))
    assert stopped.value.exit_code == status
    assert len(read_report(tmp_path / "target")) == 4
    assert signal.getsignal(number) == handler
    assert run(source, tmp_path / "target").earlier == 4
