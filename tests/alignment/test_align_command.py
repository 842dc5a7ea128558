from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from frtrain.alignment.report import read_report
from frtrain.commands.align import Config, run
from frtrain.commands.composition import compose_plain
from frtrain.data.synthetic.photograph import write_photographs
from frtrain.errors import ConfigError
from frtrain.schema import parse

REPOSITORY = Path(__file__).resolve().parents[2]


def overrides(source: Path, target: Path, *more: str) -> list[str]:
    return [f"source={source}", f"target={target}", "device=cpu", *more]


def call(source: Path, target: Path, *more: str) -> None:
    run(parse(Config, compose_plain("align", overrides(source, target, *more))))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    write_photographs(folder, identities=2, images_per_identity=1, seed=1, size=160)
    return folder


@pytest.fixture
def many_photographs(photographs: Path, tmp_path: Path) -> Path:
    for copy in range(40):
        shutil.copytree(photographs, tmp_path / "many" / f"copy-{copy:02d}")
    return tmp_path / "many"


def test_photographs_become_crops_and_a_summary(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shutil.copytree(photographs, tmp_path / "source")
    (source / "bad.jpg").write_text("no image")
    (source / "notes.txt").write_text("notes")
    call(source, tmp_path / "crops")
    said = capsys.readouterr().out
    assert "3 photographs: 2 aligned (66.67%)" in said
    assert "1 unreadable" in said
    assert ".txt 1" in said
    crop = Image.open(tmp_path / "crops" / "person-00000" / "000.jpg")
    assert (crop.size, crop.mode) == ((112, 112), "RGB")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_stopped_process_loses_nothing_that_was_done(
    many_photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int, status: int
) -> None:
    target = tmp_path / "crops"
    report = target / "align.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "frtrain", "align", *overrides(many_photographs, target, "batch_size=2")],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while process.poll() is None and not (report.exists() and report.read_bytes().count(b"\n") >= 4):
        time.sleep(0.02)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == status, said
    before = read_report(target)
    assert 4 <= len(before) < 80
    if number != signal.SIGKILL:
        assert re.search(rf"{len(before)} of 80 photographs are done; the same command goes on", said)

    limit = len(before) + 2
    call(many_photographs, target, f"limit={limit}")
    assert f"{len(before)} by earlier calls" in capsys.readouterr().out
    after = read_report(target)
    assert {path: after[path] for path in before} == before
    assert len(after) == report.read_bytes().count(b"\n") == limit
    assert all((target / str(record.output)).is_file() for record in after.values() if record.outcome == "aligned")
    assert not list(target.rglob("*.part"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("template=arcface_96", "template=arcface_96: unknown; did you mean 'arcface_112'"),
        ("detector.min_face=10", r"detector\.min_face"),
        ("device=quantum", "device=quantum"),
        ("no_face=center", "no_face"),
        ("quality=101", "quality"),
    ],
)
def test_wrong_setting_is_named_and_nothing_is_written(
    photographs: Path, tmp_path: Path, wrong: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        call(photographs, tmp_path / "crops", wrong)
    assert not (tmp_path / "crops").exists()
