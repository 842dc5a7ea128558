from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from frtrain.backbones import BACKBONES
from frtrain.commands.composition import group_defaults
from frtrain.data.preprocessing import Preprocessing
from frtrain.deploy.embedder import load_embedder
from frtrain.errors import CheckpointError
from frtrain.training.checkpoint import Checkpoint, write_checkpoint

CPU = torch.device("cpu")


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    shape = {"widths": [16, 16, 16], "blocks": [1, 1, 1], "embedding_size": 8}
    spec = {**group_defaults("backbone", "iresnet_tiny"), **shape}
    return Checkpoint(
        tensors={"backbone": BACKBONES.build(spec).state_dict()},
        state={"step": 3},
        config={"backbone": spec, "loss": {"name": "arcface"}},
        classes=["a", "b"],
        fingerprint="",
        preprocessing=Preprocessing(mean=100.0, std=50.0).as_dict(),
    )


def crops(count: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 112, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_the_preprocessing_of_training_is_applied(checkpoint: Checkpoint, tmp_path: Path):
    embedder = load_embedder(write_checkpoint(tmp_path / "step-1", checkpoint), CPU)
    backbone = BACKBONES.build(checkpoint.config["backbone"]).eval()
    backbone.load_state_dict(checkpoint.tensors["backbone"])
    with torch.no_grad():
        expected = backbone((crops().float() - 100) / 50)
    assert torch.allclose(embedder.embed(crops()), expected, atol=1e-5)


@pytest.mark.parametrize(
    "images", [crops().float(), crops()[:, :, :100], crops()[0]], ids=["float", "of another size", "without a batch"]
)
def test_what_is_no_crop_is_refused(checkpoint: Checkpoint, tmp_path: Path, images: torch.Tensor):
    embedder = load_embedder(write_checkpoint(tmp_path / "step-1", checkpoint), CPU)
    with pytest.raises(ValueError, match=r"expected uint8 crops \[B, 3, 112, 112\]"):
        embedder.embed(images)


def test_the_fingerprint_tells_models_of_one_place_and_step_apart(checkpoint: Checkpoint, tmp_path: Path):
    path = write_checkpoint(tmp_path / "step-1", checkpoint)
    first = load_embedder(path, CPU).fingerprint
    assert load_embedder(path, CPU).fingerprint == first
    weights = {name: tensor + 1 for name, tensor in checkpoint.tensors["backbone"].items()}
    shutil.rmtree(path)
    write_checkpoint(path, replace(checkpoint, tensors={"backbone": weights}))
    assert load_embedder(path, CPU).fingerprint != first


def test_a_backbone_this_version_does_not_know_is_told(checkpoint: Checkpoint, tmp_path: Path):
    config = {**checkpoint.config, "backbone": {"name": "iresnet_huge"}}
    path = write_checkpoint(tmp_path / "step-1", replace(checkpoint, config=config))
    with pytest.raises(CheckpointError, match=r"its model cannot be rebuilt .*iresnet_huge"):
        load_embedder(path, CPU)


def test_the_last_checkpoint_of_a_run_is_taken(checkpoint: Checkpoint, tmp_path: Path):
    for step in (2, 10):
        write_checkpoint(tmp_path / "checkpoints" / f"step-{step:08d}", replace(checkpoint, state={"step": step}))
    assert "step 10 of" in load_embedder(tmp_path, CPU).description
