from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from frtrain.config import TrainConfig
from frtrain.data.sources.folder import FolderSource
from frtrain.deploy.embedder import load_embedder
from frtrain.errors import ConfigError, DataError, FrtrainError, TrainingError
from frtrain.training.checkpoint import read_checkpoint
from frtrain.training.run_folder import RunFolder, checkpoint_of

SmallRun = Callable[..., tuple[int, RunFolder]]


def lines(folder: RunFolder) -> list[dict[str, float]]:
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


def test_training_learns_to_tell_held_out_identities_apart(small_run: SmallRun):
    _, folder = small_run(
        "run",
        "trainer.max_steps=40",
        "validation.fraction=0.3",
        "validation.pairs=24",
        "loss=cosface",
        "loss.scale=16",
        "log.pictures_every_epochs=5",
        "log.tensorboard=true",
    )
    losses = [line["train/loss"] for line in lines(folder) if "train/loss" in line]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    report = json.loads((folder.path / "evaluations" / "held_out" / "report.json").read_text())
    assert report["verification"]["auc"] > 0.8
    assert "<html" in folder.report.read_text()


def test_a_run_folder_tells_how_it_was_made(small_run: SmallRun):
    _, folder = small_run("run")
    config = OmegaConf.load(folder.path / "config.yaml")
    assert config["trainer"]["batch_size"] == 8
    environment = json.loads((folder.path / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert "finished 6 steps" in folder.log.read_text()


def test_scalars_have_the_documented_names(small_run: SmallRun):
    _, folder = small_run("run", "validation.fraction=0.3", "validation.pairs=24", "loss=sv_softmax")
    names = set().union(*lines(folder))
    assert {
        "train/loss",
        "train/accuracy",
        "train/target_similarity",
        "train/gradient_norm",
        "train/learning_rate",
        "train/support_vectors",
        "speed/images_per_second",
        "speed/data_wait_share",
        "speed/communication_share",
        "speed/compute_share",
        "speed/eta_seconds",
        "memory/host_mib",
        "memory/host_peak_mib",
        "train/gradient_norm_backbone",
        "train/gradient_norm_classifier",
        "verify/accuracy",
        "verify/auc",
        "verify/eer",
        "verify/tar_at_far_0.01",
    } <= names


def test_the_best_checkpoint_is_the_one_with_the_best_metric(small_run: SmallRun):
    _, folder = small_run(
        "run",
        "trainer.max_steps=12",
        "checkpoint.keep=1",
        "checkpoint.every_epochs=0.5",
        "checkpoint.metric=auc",
        "validation.fraction=0.3",
        "validation.pairs=24",
        "validation.every_epochs=0.5",
    )
    values = {line["step"]: line["verify/auc"] for line in lines(folder) if "verify/auc" in line}
    best = read_checkpoint(checkpoint_of(folder.checkpoints / "best"))
    assert values[best.state["step"]] == max(values.values())
    assert set(folder.steps()) == {best.state["step"], 12}


def test_an_embedder_gives_the_embeddings_of_the_run(small_run: SmallRun):
    _, folder = small_run("run")
    embedder = load_embedder(folder.path, torch.device("cpu"))
    images = torch.randint(0, 256, (3, 3, 112, 112), dtype=torch.uint8)
    embedding = embedder.embed(images)
    assert embedding.shape == (3, 16)
    assert torch.allclose(embedding, embedder.embed(images[:1].expand(3, -1, -1, -1))[:1], atol=1e-5) is False
    assert torch.allclose(embedding[:1], embedder.embed(images[:1]), atol=1e-5)


def test_a_corrupt_image_stops_the_run_and_names_the_file(small_run: SmallRun, tmp_path: Path):
    bad = tmp_path / "crops" / "person_003" / "2.png"
    bad.write_bytes(bad.read_bytes()[:100])
    with pytest.raises(DataError, match=r"person_003.2\.png: is (damaged|not an image)"):
        small_run("run", "trainer.workers=1")


def test_labels_beyond_the_classes_stop_the_run_before_the_first_step(
    small_run: SmallRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    built = FolderSource.__init__

    @wraps(built)
    def counting_from_one(self: FolderSource, *arguments: Any, **named: Any) -> None:
        built(self, *arguments, **named)
        self.labels = self.labels + 1

    monkeypatch.setattr(FolderSource, "__init__", counting_from_one)
    with pytest.raises(DataError, match=r"person_007.*label 8 is outside the 8 classes \(labels run from 1 to 8"):
        small_run("run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_not_finite_stops_and_names_the_tensor(small_run: SmallRun):
    with pytest.raises(TrainingError, match=r"in a row were not finite.*optimizer\.lr"):
        small_run(
            "run", "optimizer.lr=1e9", "loss.scale=1e9", "trainer.max_skipped_in_a_row=2", "trainer.clip_norm=null"
        )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.margin=-0.1", r"loss\.margin=-0\.1"),
        ("backbone.dropout=1.5", r"backbone\.dropout=1\.5"),
        ("optimizer.momentum=1.0", r"optimizer\.momentum=1\.0"),
        ("checkpoint.metric=accurcy", r"checkpoint\.metric=accurcy: no such metric"),
        ("trainer.device=cuda:9", r"cuda:9"),
        ("scheduler.power=0", r"scheduler\.power=0"),
    ],
)
def test_impossible_values_are_told_before_anything_is_built(
    small_run: SmallRun, tmp_path: Path, override: str, message: str
):
    with pytest.raises(ConfigError, match=message):
        small_run("run", override)
    assert not (tmp_path / "run").exists()


def test_a_run_without_an_end_is_refused(small_config: Callable[..., TrainConfig]):
    with pytest.raises(ConfigError, match=r"trainer\.max_samples must be set"):
        small_config("trainer.epochs=null", "trainer.max_steps=null")


def test_a_folder_that_cannot_be_written_is_told(small_run: SmallRun, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FrtrainError, match="the run folder cannot be written"):
        small_run("file/run")


def test_identities_with_one_image_cannot_be_validated_on(small_run: SmallRun, tmp_path: Path):
    for path in (tmp_path / "crops").glob("*/*.png"):
        if path.stem != "0":
            path.unlink()
    with pytest.raises(ConfigError, match=r"validation\.fraction=0\.2: 0 of 8 identities have two images"):
        small_run("run", "validation.fraction=0.2")
    assert small_run("run", "trainer.max_steps=1")[0] == 0
