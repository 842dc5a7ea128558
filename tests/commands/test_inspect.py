from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from frtrain.commands.application import run_verb


def test_a_sound_folder_is_counted_and_shown(
    crops_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root = crops_folder(identities=3, images=4)
    sheet = tmp_path / "sheet.png"
    assert run_verb(["inspect", "data=folder", f"data.root={root}", f"sheet={sheet}"]) == 0
    told = capsys.readouterr().out
    assert "12 of 12 images can be read" in told
    assert Image.open(sheet).size == (1120, 336)


def test_unreadable_images_are_named_and_the_exit_status_tells(
    crops_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    root = crops_folder(identities=3, images=4)
    (root / "person_001" / "2.png").write_bytes(b"")
    with pytest.raises(SystemExit, match="1"):
        run_verb(["inspect", "data=folder", f"data.root={root}"])
    told = capsys.readouterr().out
    assert "2.png: is empty (0 bytes)" in told
    assert "11 of 12 images can be read" in told


def test_losses_are_listed_with_their_defaults(capsys: pytest.CaptureFixture[str]):
    assert run_verb(["inspect", "losses"]) == 0
    told = capsys.readouterr().out
    assert "sv_softmax" in told
    assert "t=1.2" in told


def test_backbones_are_listed_with_their_size(capsys: pytest.CaptureFixture[str]):
    assert run_verb(["inspect", "backbones"]) == 0
    assert "43.59 M" in capsys.readouterr().out
