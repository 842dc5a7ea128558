from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from frtrain.commands.application import run_verb
from frtrain.config import SubsetConfig
from frtrain.data import SOURCES
from frtrain.data.selection import select

IDENTITIES = 40


@pytest.fixture
def planted(crops_folder: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
    """A data set and a test set: six people of the test set, one under another name, are in the data set."""
    data, test = crops_folder(IDENTITIES, 6), tmp_path / "test"
    for number in range(6):
        folder = data / f"person_{number:03d}"
        other = test / ("somebody_else" if number == 0 else folder.name)
        other.mkdir(parents=True)
        for image in ("4.png", "5.png"):
            shutil.move(folder / image, other / image)
    crops_of_strangers = crops_folder(IDENTITIES + 20, 2, "strangers")
    for number in range(IDENTITIES, IDENTITIES + 20):
        shutil.move(crops_of_strangers / f"person_{number:03d}", test / f"stranger_{number}")
    shutil.move(data / "person_010" / "0.png", data / "person_011" / "wrong.png")
    (data / "person_020" / "broken.png").write_bytes(b"no image")
    return data, test


def run_curate(data: Path, test: Path, target: Path, *more: str) -> int:
    return run_verb(
        ["curate", "model=pixels", f"data.root={data}", f"against={test}", f"target={target}", "device=cpu", *more]
    )


def test_findings_become_a_page_and_lists_that_training_leaves_out(
    planted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data, test = planted
    target = tmp_path / "curation"
    before = sorted(data.rglob("*"))
    assert run_curate(data, test, target) == 0
    findings = json.loads((target / "findings.json").read_text())
    assert {(case["identity"], case["other"]) for case in findings["overlaps"]} == {
        ("person_000", "somebody_else"),
        *((f"person_{number:03d}", f"person_{number:03d}") for number in range(1, 6)),
    }
    assert [case["name"] for case in findings["mislabelled"]] == ["person_011/wrong.png"]
    assert findings["mislabelled"][0]["suggestion"] == "person_010"
    page = (target / "page.html").read_text()
    assert "somebody_else" in page
    assert "<script" not in page
    assert "6 identities that are people of the test set" in capsys.readouterr().out
    assert sorted(data.rglob("*")) == before
    source = SOURCES.build({"name": "auto", "root": str(data), "known": None})
    lists = [str(target / f"exclude_{kind}.txt") for kind in ("overlap", "mislabelled", "unreadable")]
    kept = select(source, SubsetConfig(include=None, exclude=lists, min_images=1, max_images=None, first=None))
    assert len(kept.classes) == IDENTITIES - 6
    names = {kept.name(index) for index in range(len(kept))}  # type: ignore[attr-defined]
    assert not names & {"person_011/wrong.png", "person_020/broken.png"}


def test_a_second_call_embeds_nothing_anew(planted: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data, test = planted
    assert run_curate(data, test, tmp_path / "curation") == 0
    first = (tmp_path / "curation" / "findings.json").read_text()
    monkeypatch.setattr("frtrain.curation.embeddings.embed_batch", lambda *_: pytest.fail("embedded again"))
    assert run_curate(data, test, tmp_path / "curation") == 0
    assert (tmp_path / "curation" / "findings.json").read_text() == first


def test_a_test_set_that_is_not_there_is_told_before_anything_is_done(
    crops_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run_curate(crops_folder(4, 2), tmp_path / "nothing", tmp_path / "curation") == 2
    assert "against=" in capsys.readouterr().err
    assert not (tmp_path / "curation").exists()


def test_a_model_that_cannot_tell_people_apart_writes_no_list_of_wrong_labels(
    crops_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = crops_folder(20, 4)
    for number in range(20):  # every identity becomes a mixture of two people
        other = data / f"person_{(number + 1) % 20:03d}"
        for image in ("2.png", "3.png"):
            shutil.move(data / f"person_{number:03d}" / image, other / f"moved_{image}")
    assert run_verb(["curate", "model=pixels", f"data.root={data}", f"target={tmp_path / 'out'}", "device=cpu"]) == 0
    assert "use a better one" in capsys.readouterr().out
    assert not (tmp_path / "out" / "exclude_mislabelled.txt").exists()


def test_files_of_others_are_neither_replaced_nor_deleted(
    crops_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data, target = crops_folder(4, 2), tmp_path / "notes"
    target.mkdir()
    (target / "exclude_overlap.txt").write_text("by hand\n")
    (target / "page.html").write_text("mine")
    with pytest.raises(SystemExit, match="1"):
        run_verb(["curate", "model=pixels", f"data.root={data}", f"target={target}", "device=cpu"])
    assert "holds exclude_overlap.txt, which is not of an earlier call" in capsys.readouterr().err
    assert sorted(path.name for path in target.iterdir()) == ["exclude_overlap.txt", "page.html"]
    assert (target / "page.html").read_text() == "mine"


@pytest.mark.parametrize("key", ["against", "target"])
def test_the_data_set_is_neither_its_test_set_nor_its_target(
    crops_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
):
    data = crops_folder(4, 2)
    places = {"target": str(tmp_path / "out"), key: str(data)}
    assert (
        run_verb(["curate", "model=pixels", f"data.root={data}", *(f"{name}={at}" for name, at in places.items())]) == 2
    )
    assert f"{key}={data} is the data set itself" in capsys.readouterr().err
