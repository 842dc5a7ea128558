from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frtrain.commands.application import run_verb
from frtrain.commands.inspect_losses import fitted, loss_table
from frtrain.losses import LOSSES

FAST = ("dots_per_inch=40", "classes=100", "steps=10")
PIXELS = (456, 292)


@pytest.mark.parametrize("columns", ["80", "140"])
def test_losses_are_listed_with_paper_formula_and_defaults(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", columns)
    assert run_verb(["inspect", "losses"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in LOSSES.names())
    for wanted in (
        "arXiv 1801.07698",
        "T(theta_y) = cos(theta_y + m)",
        "t=1.2",
        "am_softmax: scale=30",
        "reconstructed",
    ):
        assert wanted in told
    assert {len(line) for line in told.splitlines()} == {int(columns)}


def test_a_wide_terminal_has_a_column_for_defaults():
    narrow, wide = loss_table(80), loss_table(140)
    assert len(narrow.columns) == 1
    assert [column.header for column in wide.columns] == ["loss", "paper and formula", "defaults"]
    assert narrow.row_count == wide.row_count == len(LOSSES.names())


def test_a_line_of_a_formula_is_broken_at_its_gap():
    line = "N = cos(theta)          where it is hard"
    assert fitted(line, 40) == line
    assert fitted(line, 30) == "N = cos(theta)\n    where it is hard"
    assert fitted(line, 16) == "N = cos(theta)\n    where it is\n    hard"


@pytest.mark.parametrize("loss", LOSSES.names())
def test_every_loss_has_a_picture(loss: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "new folder" / "loss.png"
    assert run_verb(["inspect", f"loss={loss}", f"picture={path}", *FAST]) == 0
    assert f"picture: {path}" in capsys.readouterr().out.replace("\n", "")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == PIXELS
        pixels = np.asarray(image.convert("RGB"))
    assert 0.05 < (pixels < 250).any(axis=2).mean() < 0.5


def test_several_losses_share_a_page(tmp_path: Path):
    paths = [tmp_path / "one.png", tmp_path / "three.png"]
    for path, compare in zip(
        paths, ("[arcface]", "[arcface,{loss: arcface, margin: 0.3},sv_arc_softmax]"), strict=True
    ):
        assert run_verb(["inspect", f"compare={compare}", f"picture={path}", *FAST]) == 0
    colors = [len(np.unique(np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3), axis=0)) for path in paths]
    assert colors[1] > colors[0]


def test_a_picture_without_a_name_is_named_after_its_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert run_verb(["inspect", "loss=sv_arc_softmax", "loss.t=1.3", "compare=[cosface,cosface]", *FAST]) == 0
    assert [path.name for path in Path("runs/pictures").iterdir()] == ["sv_arc_softmax_t=1.3-cosface.png"]


def test_pictures_of_a_sweep_do_not_overwrite_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert run_verb(["inspect", "-m", "loss=arcface,cosface", "picture=here/loss.png", *FAST]) == 0
    assert sorted(path.name for path in Path("here").iterdir()) == ["loss-0.png", "loss-1.png"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["loss=arcfce"], "loss=arcfce: unknown loss; did you mean 'arcface'?"),
        (["loss=arcface", "loss.margin=28.6"], "loss.margin=28.6: must be less than or equal to 3.14"),
        (["loss=arcface", "loss.margn=0.3"], "loss.margn: unknown key; did you mean 'margin'?"),
        (["loss=arcface,cosface"], "loss=arcface,cosface: several values are a sweep, which needs -m"),
        (["loss.margin=0.3"], "loss: nothing is chosen; choose one first with loss=..."),
        (["compare=[arcfce]"], "compare[0]=arcfce: unknown loss; did you mean 'arcface'?"),
        (["compare=[cosface,{loss: arcface, margin: -1}]"], "compare[1]: loss.margin=-1: must be greater than"),
        (["compare=[{margin: 1}]"], "compare[0]: a loss is required"),
        (["compare=arcface"], "compare='arcface': must be a valid list"),
        (["loss=arcface", "classes=1"], "classes=1: must be greater than or equal to 2"),
        (["loss=arcface", "angles=[]"], "angles=[]: List should have at least 1 item"),
        (["loss=arcface", "angles=[200]"], "angles.0=200: must be less than or equal to 180"),
        (["loss=arcface", "norms=[0]"], "norms.0=0: must be greater than 0"),
        (["loss=arcface", "steps=-1"], "steps=-1: must be greater than or equal to 0"),
        (["loss=arcface", "picture=loss.jpg"], "picture=loss.jpg: must end in .png"),
        (["losses", "picture=loss.png"], "picture=loss.png: has no meaning for the list of losses; leave it out"),
        (["losses", "loss=arcface"], "loss: has no meaning for the list of losses; leave it out"),
        (["backbones", "compare=[arcface]"], "compare: has no meaning for the list of backbones; leave it out"),
        (["loss=arcface", "page=page.html"], "page=page.html: has no meaning for a picture of losses; leave it out"),
        (["what=arcface"], "what='arcface': must be 'auto', 'data', 'losses' or 'backbones'"),
    ],
)
def test_what_cannot_be_drawn_is_an_error_that_names_the_key(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
):
    assert run_verb(["inspect", *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="1"):
        run_verb(["inspect", "loss=arcface", f"picture={tmp_path}/file/loss.png", *FAST])
    assert "loss.png: cannot be written" in capsys.readouterr().err


def test_backbones_are_listed_with_their_size(capsys: pytest.CaptureFixture[str]):
    assert run_verb(["inspect", "backbones"]) == 0
    assert "43.59 M" in capsys.readouterr().out
