"""Runs with other samplers, and with augmentation on the training device."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from frtrain.auxiliary.pairs import PairsLoss
from frtrain.config import TrainConfig
from frtrain.errors import CheckpointError, ConfigError
from frtrain.training.checkpoint import read_checkpoint
from frtrain.training.checkpoint_reading import StoredCheckpoint
from frtrain.training.resume import _compare as check_same_configuration
from frtrain.training.run_folder import RunFolder, checkpoint_of

SmallRun = Callable[..., tuple[int, RunFolder]]
ON_DEVICE = ("augment=none", "device_augment=face", "device_augment.shift=0.05", "device_augment.occlusion=0.3")


def weights(folder: RunFolder) -> torch.Tensor:
    return read_checkpoint(checkpoint_of(folder.path)).tensors["classifier"]["centres"]


def test_a_pair_loss_learns_from_m_images_of_each_identity(small_run: SmallRun, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("pytorch_metric_learning")
    seen: list[torch.Tensor] = []
    forward = PairsLoss.forward

    def noting(self: PairsLoss, embedding: torch.Tensor, labels: torch.Tensor) -> object:
        seen.append(labels)
        return forward(self, embedding, labels)

    monkeypatch.setattr(PairsLoss, "forward", noting)
    status, folder = small_run("run", "sampler=m_per_class", "auxiliary=pairs", "trainer.max_steps=8")
    assert status == 0
    assert len(seen) == 8
    assert all(sorted(labels.unique(return_counts=True)[1].tolist()) == [4, 4] for labels in seen)
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert all(line["train/loss"] > 0 for line in lines)


def test_a_batch_that_does_not_fit_the_sampler_is_an_error_before_the_first_step(small_run: SmallRun):
    with pytest.raises(ConfigError, match=r"sampler\.images_per_identity=3: trainer\.batch_size=8 must be a multiple"):
        small_run("run", "sampler=m_per_class", "sampler.images_per_identity=3")


@pytest.mark.parametrize("override", ["sampler=class_balanced", "device_augment=face"])
def test_another_choice_of_samples_is_another_run(small_run: SmallRun, override: str):
    small_run("run", "trainer.max_steps=2")
    with pytest.raises(CheckpointError, match=rf"another configuration \({override.partition('=')[0]}\.\w+: \w+ then"):
        small_run("run", "trainer.max_steps=4", override)


def test_a_checkpoint_from_before_there_were_samplers_can_be_resumed(
    small_run: SmallRun, small_config: Callable[..., TrainConfig]
):
    _, folder = small_run("run", "trainer.max_steps=2")
    checkpoint = StoredCheckpoint.at(checkpoint_of(folder.path))
    for key in ("sampler", "device_augment"):
        del checkpoint.config[key]
    del checkpoint.config["trainer"]["on_corrupt"]
    check_same_configuration(checkpoint, small_config())
    with pytest.raises(CheckpointError, match=r"sampler\.name: shuffled then, class_balanced now"):
        check_same_configuration(checkpoint, small_config("sampler=class_balanced"))


def test_a_class_balanced_run_trains_and_goes_on(small_run: SmallRun):
    _, whole = small_run("whole", "sampler=class_balanced", "trainer.max_steps=5")
    small_run("parts", "sampler=class_balanced", "trainer.max_steps=3")
    _, parts = small_run("parts", "sampler=class_balanced", "trainer.max_steps=5")
    assert read_checkpoint(checkpoint_of(parts.path)).state["position"] == 40
    assert read_checkpoint(checkpoint_of(whole.path)).state["position"] == 40


def test_augmentation_on_the_device_changes_the_run_and_workers_do_not(small_run: SmallRun):
    plain = weights(small_run("plain", "augment=none")[1])
    alone, worker = (weights(small_run(f"w{n}", f"trainer.workers={n}", *ON_DEVICE)[1]) for n in (0, 1))
    assert not torch.equal(plain, alone)
    assert torch.equal(alone, worker)


def test_pictures_show_the_batch_as_it_is_after_augmentation_on_the_device(
    small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
):
    from frtrain.training.loggers.tensorboard import TensorBoard

    shown: list[torch.Tensor] = []
    monkeypatch.setattr(TensorBoard, "images", lambda self, step, tag, images: shown.append(images))
    pictures = ("log.tensorboard=true", "log.pictures_every_epochs=1", "trainer.max_steps=1")
    for name, probability in (("plain", 0), ("flipped", 1)):
        small_run(name, *pictures, "augment=none", "device_augment=face", f"device_augment.flip={probability}")
    plain, flipped = shown
    assert torch.allclose(plain.flip(3), flipped, atol=1e-6)
