from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from frtrain.commands.application import run_verb
from frtrain.training.checkpoint import Checkpoint, write_checkpoint

CENTRES, BIAS = torch.randn(6, 4), torch.randn(6)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    checkpoint = Checkpoint(
        tensors={"backbone": {}, "classifier": {"centres": CENTRES, "bias": BIAS, "head.t": torch.ones(())}},
        state={"step": 7},
        config={"loss": {"name": "softmax"}, "backbone": {"name": "iresnet18"}},
        classes=["Ann", "Łukasz", "名前"],
        fingerprint="folder:8",
        preprocessing={},
    )
    write_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000007", checkpoint)
    return tmp_path / "run"


def export(*arguments: str) -> int:
    return run_verb(["export", *arguments])


def test_centres_are_written_with_the_names_of_their_identities(run_folder: Path, tmp_path: Path):
    target = tmp_path / "new" / "centres.safetensors"
    assert export(f"model={run_folder}", f"target={target}") == 0
    written = load_file(target)
    assert torch.equal(written["centres"], CENTRES.reshape(3, 2, 4))
    assert torch.equal(written["bias"], BIAS.reshape(3, 2))
    beside = json.loads(target.with_suffix(".json").read_text())
    assert beside["identities"] == ["Ann", "Łukasz", "名前"]
    assert (beside["step"], beside["loss"]) == (7, "softmax")
    assert beside["sha256"] == hashlib.sha256(target.read_bytes()).hexdigest()


def test_numpy_reads_centres_without_pickle(run_folder: Path, tmp_path: Path):
    assert export(f"model={run_folder}", "format=centres", f"target={tmp_path / 'centres.npz'}") == 0
    with np.load(tmp_path / "centres.npz", allow_pickle=False) as arrays:
        assert arrays["centres"].shape == (3, 2, 4)
        assert np.array_equal(arrays["centres"].reshape(6, 4), CENTRES.numpy())
        assert np.array_equal(arrays["bias"].reshape(6), BIAS.numpy())
        assert arrays["identities"].tolist() == ["Ann", "Łukasz", "名前"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("format=centers", "target=a.npz"), "format=centers: unknown format; did you mean 'centres'?"),
        (("target=centres.pt",), "format=centres is written to a file that ends in .safetensors or .npz"),
    ],
)
def test_what_cannot_be_exported_is_told(
    run_folder: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
):
    assert export(f"model={run_folder}", *arguments) == 2
    assert message in capsys.readouterr().err


def test_nothing_is_exported_into_a_checkpoint(run_folder: Path, capsys: pytest.CaptureFixture[str]):
    checkpoint = run_folder / "checkpoints" / "step-00000007"
    before = {path: path.read_bytes() for path in checkpoint.iterdir()}
    assert export(f"model={run_folder}", f"target={checkpoint}/checkpoint.safetensors") == 2
    assert "lies in a checkpoint" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in checkpoint.iterdir()} == before


def test_damaged_centres_are_not_exported(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    weights = run_folder / "checkpoints" / "step-00000007" / "classifier.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(SystemExit, match="1"):
        export(f"model={run_folder}", f"target={tmp_path / 'a.npz'}")
    assert "classifier.safetensors: is damaged" in capsys.readouterr().err
    assert not (tmp_path / "a.npz").exists()
