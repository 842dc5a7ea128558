from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from frtrain.alignment.report import read_report
from frtrain.commands.align import Config, choose_workers, run
from frtrain.commands.composition import compose_plain
from frtrain.data.synthetic.photograph import write_photographs
from frtrain.errors import ConfigError
from frtrain.schema import parse
from frtrain.training.hardware import this_machine

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
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130)])
def test_stop_signal_to_all_processes_of_a_call_loses_nothing_that_was_done(
    many_photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int, status: int
) -> None:
    target = tmp_path / "crops"
    report = target / "align.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "frtrain", "align", *overrides(many_photographs, target, "batch_size=2", "workers=2")],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not (report.exists() and report.read_bytes().count(b"\n") >= 4):
        time.sleep(0.02)
    os.killpg(process.pid, number)  # as a terminal's Ctrl-C does
    said, _ = process.communicate(timeout=60)
    assert process.returncode == status, said
    before = read_report(target)
    assert 4 <= len(before) < 80
    assert re.search(rf"{len(before)} of 80 photographs are done; the same command goes on", said)
    assert "Traceback" not in said

    limit = len(before) + 2
    call(many_photographs, target, f"limit={limit}")
    assert f"{len(before)} by earlier calls" in capsys.readouterr().out
    after = read_report(target)
    assert {path: after[path] for path in before} == before
    assert len(after) == report.read_bytes().count(b"\n") == limit
    assert all((target / str(record.output)).is_file() for record in after.values() if record.outcome == "aligned")
    assert not list(target.rglob("*.part"))


@pytest.mark.slow
def test_torchrun_makes_one_report_of_all_ranks(many_photographs: Path, tmp_path: Path) -> None:
    arguments = overrides(many_photographs, tmp_path / "crops", "limit=24", "to=recordio")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "frtrain", "align"),
            *arguments,
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "24 photographs: 24 aligned (100.00%)" in done.stdout
    assert "holds 24 images of 12 identities as recordio" in done.stdout
    assert re.search(r"Rank \d of 2: its \d+ photographs are done", done.stdout)
    assert len(read_report(tmp_path / "crops")) == (tmp_path / "crops" / "align.jsonl").read_bytes().count(b"\n") == 24
    assert not list((tmp_path / "crops").glob("align.rank*"))


def test_summary_names_links_that_lead_outside(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shutil.copytree(photographs, tmp_path / "source")
    (source / "elsewhere").symlink_to(tmp_path)
    call(source, tmp_path / "crops", "limit=1")
    assert "Passed over: elsewhere is a link that leads outside of the source (links=follow" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("device", "cores", "ranks", "workers"),
    [
        ("cpu", 1, 1, 0),
        ("cpu", 2, 1, 0),
        ("cpu", 8, 1, 8),
        ("cpu", 8, 2, 4),
        ("cuda", 1, 1, 1),
        ("cuda", 16, 2, 7),
        ("cuda", 128, 1, 16),
    ],
)
def test_workers_follow_from_device_and_cores(device: str, cores: int, ranks: int, workers: int) -> None:
    machine = replace(this_machine(), cores_usable=cores, local_ranks=ranks)
    assert choose_workers("auto", torch.device(device), machine) == workers
    assert choose_workers(3, torch.device(device), machine) == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("template=arcface_96", "template=arcface_96: unknown; did you mean 'arcface_112'"),
        ("detector.min_face=10", r"detector\.min_face"),
        ("device=quantum", "device=quantum"),
        ("no_face=center", "no_face"),
        ("quality=101", "quality"),
        ("to=lmdb", "to='lmdb'"),
        ("workers=many", "workers='many': must be 'auto' or"),
        ("links=outside", "links"),
        ("[to=recordio,size=224]", "to=recordio: its readers expect crops of 112x112, but size=224"),
        ("[to=recordio,template=sphereface_112x96]", "are 112x96; use to=folder"),
    ],
)
def test_wrong_setting_is_named_and_nothing_is_written(
    photographs: Path, tmp_path: Path, wrong: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        call(photographs, tmp_path / "crops", *wrong.strip("[]").split(","))
    assert not (tmp_path / "crops").exists()
