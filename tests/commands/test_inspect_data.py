from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frtrain.commands.application import run_verb

Folder = Callable[..., Path]


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")


def inspect(root: Path, *more: str) -> int:
    """The exit status, whichever way it comes."""
    try:
        return run_verb(["inspect", "data=folder", f"data.root={root}", *more])
    except SystemExit as ended:
        return int(ended.code or 0)


def test_a_sound_folder_is_counted_and_shown(crops_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = crops_folder(identities=3, images=4)
    sheet = tmp_path / "sheet.png"
    assert inspect(root, f"sheet={sheet}") == 0
    told = capsys.readouterr().out
    for wanted in (
        "12 of 12 images can be read",
        "PNG 12",
        "112x112 (12)",
        "min 4, quartiles 4 4 4, max 4",
        "brightness",
    ):
        assert wanted in told
    assert Image.open(sheet).size == (1120, 336)


def test_tables_fit_eighty_columns(crops_folder: Folder, capsys: pytest.CaptureFixture[str]):
    root = crops_folder(identities=3, images=4)
    assert inspect(root) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 80


def test_unusable_images_are_named_and_the_exit_status_tells(crops_folder: Folder, capsys: pytest.CaptureFixture[str]):
    root = crops_folder(identities=3, images=4)
    (root / "person_001" / "2.png").write_bytes(b"")
    Image.new("RGB", (250, 250)).save(root / "person_002" / "0.png")
    assert inspect(root) == 1
    told = capsys.readouterr().out
    assert "unreadable: " in told
    assert "2.png: is empty (0 bytes)" in told
    assert "wrong size: " in told
    assert "0.png: is 250x250, not an aligned 112x112 crop" in told
    assert "11 of 12 images can be read" in told


def test_twenty_problems_are_shown_and_all_written(
    crops_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root = crops_folder(identities=3, images=10)
    for image in root.rglob("*.png"):
        image.write_bytes(b"text")
    assert inspect(root, f"json={tmp_path}/found.json") == 1
    told = capsys.readouterr().out
    assert told.count("is not an image") == 20
    assert "... and 10 more" in told
    assert len(json.loads((tmp_path / "found.json").read_text())["unusable"]) == 30


def test_json_to_standard_output_stands_alone(crops_folder: Folder, capsys: pytest.CaptureFixture[str]):
    root = crops_folder(identities=3, images=4)
    assert inspect(root, "json=-") == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert (found["images"], found["settings"]["data"]["root"]) == (12, str(root))
    assert "12 of 12 images can be read" in told.err


def test_the_page_is_written_beside_new_folders(crops_folder: Folder, tmp_path: Path):
    root = crops_folder(identities=3, images=4)
    assert inspect(root, f"page={tmp_path}/new/page.html") == 0
    assert "<title>folder: " in (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_copies_under_two_names_are_told(crops_folder: Folder, capsys: pytest.CaptureFixture[str]):
    root = crops_folder(identities=3, images=4)
    copy = (root / "person_000" / "1.png").read_bytes()
    (root / "person_002" / "3.png").write_bytes(copy)
    assert inspect(root, "near=null") == 0
    told = capsys.readouterr().out
    assert "same file, between identities:\n  person_000/1.png  person_002/3.png\n" in told
    assert "nearly the same" not in told


def test_a_number_of_images_is_a_sample(crops_folder: Folder, capsys: pytest.CaptureFixture[str]):
    root = crops_folder(identities=4, images=5)
    assert inspect(root, "read=7") == 0
    told = capsys.readouterr().out
    assert "7 of 7 images can be read" in told
    assert "7 images, evenly spread" in told


def test_counting_reads_nothing(crops_folder: Folder, capsys: pytest.CaptureFixture[str]):
    root = crops_folder(identities=4, images=5)
    (root / "person_001" / "2.png").write_bytes(b"")
    assert inspect(root, "read=none") == 0
    told = capsys.readouterr().out
    assert "images per identity" in told
    assert "can be read" not in told


def test_a_subset_is_looked_at_alone(crops_folder: Folder, capsys: pytest.CaptureFixture[str]):
    root = crops_folder(identities=4, images=5)
    assert inspect(root, "subset.max_images=2") == 0
    assert "8 of 8 images can be read" in capsys.readouterr().out


def test_a_known_data_set_is_compared_with_what_is_published(crops_folder: Folder, capsys: pytest.CaptureFixture[str]):
    root = crops_folder(identities=4, images=5)
    assert run_verb(["inspect", "data=casia_webface", f"data.root={root}"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "published" in told
    assert "CASIA-WebFace: 4 identities" in told


@pytest.mark.parametrize("of", ["darkest", "brightest", "blurriest", "flattest", "duplicates"])
def test_a_sheet_may_show_extremes(of: str, crops_folder: Folder, tmp_path: Path):
    root = crops_folder(identities=3, images=4)
    for identity, level in ((0, 0), (1, 255)):
        Image.new("RGB", (112, 112), (level,) * 3).save(root / f"person_{identity:03d}" / "0.png")
    assert inspect(root, f"sheet={tmp_path}/sheet.png", f"sheet_of={of}") == 0
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert pixels.shape == (112, 1120, 3)
    if of in ("darkest", "brightest"):
        assert (pixels[:, :112] == (0 if of == "darkest" else 255)).all()


def test_files_of_a_sweep_are_numbered(
    crops_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    root = crops_folder(identities=3, images=4)
    assert inspect(root, "-m", "read=none,all", "json=out/found.json", "page=page.html") == 0
    assert "json: out/found-0.json" in capsys.readouterr().out
    read = [json.loads(Path(f"out/found-{job}.json").read_text())["settings"]["read"] for job in (0, 1)]
    assert read == ["none", "all"]
    assert sorted(path.name for path in Path().glob("page*")) == ["page-0.html", "page-1.html"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["read=some"], "read='some': must be 'all' or 'none' or must be a valid integer"),
        (["read=0"], "read=0: must be"),
        (["near=17"], "near=17: must be less than or equal to 16"),
        (["workers=-1"], "workers=-1: must be"),
        (["sheet=sheet.jpg"], "sheet=sheet.jpg: must end in .png"),
        (["page=page.pdf"], "page=page.pdf: must end in .html"),
        (["sheet=sheet.png", "sheet_of=darkest", "read=none"], "sheet_of=darkest: needs images to be read"),
        (["sheet_of=best"], "sheet_of='best': must be"),
        (["picture=x.png"], "picture=x.png: has no meaning for a data set; leave it out"),
        (["data", "loss=arcface"], "loss: has no meaning for a data set; leave it out"),
        (["subset.first=0"], "subset.first=0: must be greater than 0"),
        (["jason=x"], "did you mean"),
    ],
)
def test_a_wrong_key_is_named_before_anything_is_read(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
):
    assert run_verb(["inspect", *arguments]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("key", ["page=file/page.html", "json=file/found.json", "sheet=file/sheet.png"])
def test_a_file_that_cannot_be_written_is_an_error(
    key: str, crops_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    root = crops_folder(identities=3, images=4)
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    assert inspect(root, key) == 1
    assert f"{key}: cannot be written" in capsys.readouterr().err
