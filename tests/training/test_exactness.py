"""What a run computes does not depend on the processes that compute it, batch norm and dropout included."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_processes import of_each_rank

from frtrain.commands import train as command
from frtrain.config import TrainConfig
from frtrain.signals import StoppedError
from frtrain.training.checkpoint import Checkpoint, read_checkpoint
from frtrain.training.run_folder import RunFolder, checkpoint_of
from frtrain.training.state import TrainingState

pytestmark = pytest.mark.slow

COMMON = ("trainer.batch_size=9", "trainer.max_steps=4", "backbone.dropout=0.4")
HOPPING = {
    "sgd": (*COMMON, "trainer.precision=fp64", "loss=curricularface", "trainer.clip_norm=1.5"),
    "adamw": (
        *COMMON,
        "trainer.precision=fp64",
        "optimizer=adamw",
        "loss=adaface",
        "trainer.accumulate=2",
        "auxiliary=center",
    ),
}
"""Networks with batch norm and dropout. Each run takes its steps in one, two, three processes and again in one; neither its
batch nor its 8 classes divide evenly."""

SAME = (*COMMON, "trainer.precision=fp32", "trainer.max_steps=2", "loss=arcface", "optimizer.lr=0.001")


def train_to(step: int, config: TrainConfig, rank: int = 0) -> dict[str, torch.Tensor]:
    """Train, until a signal after this step stops it; what this process then has."""
    runs: list[Any] = []
    loop, advance = command.train, TrainingState.advance

    def watched(run: Any, *rest: Any) -> None:
        runs.append(run)
        loop(run, *rest)

    def advance_and_stop(self: TrainingState, applied: bool) -> None:
        advance(self, applied)
        if self.step == step and rank == 0:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "train", watched)
        patch.setattr(TrainingState, "advance", advance_and_stop)
        try:
            command.check(config)
            command.run(config)
        except StoppedError:
            assert step < config.trainer.max_steps
    (run,) = runs
    state = {f"backbone.{name}": value for name, value in run.backbone.state_dict().items()}
    if run.classifier.auxiliary is not None:
        state["centres of the auxiliary"] = run.classifier.auxiliary.centres.detach()
    return {name: value.clone() for name, value in state.items()}


def train_on(rank: int, count: int, configs: dict[str, TrainConfig]) -> dict[str, dict[str, torch.Tensor]]:
    """What one of `count` processes does."""
    found = {name: train_to(count, configs[name], rank) for name in HOPPING}
    if count == 2:
        found |= {name: train_to(2, configs[name], rank) for name in ("once", "again")}
    return found


@dataclass
class Runs:
    """The folder of all runs, and what each process had when it left a run, by number of processes."""

    folder: Path
    left: dict[int, list[dict[str, dict[str, torch.Tensor]]]]

    def checkpoint(self, name: str) -> Checkpoint:
        return read_checkpoint(checkpoint_of(self.folder / name))

    def losses(self, name: str) -> list[float]:
        lines = RunFolder(self.folder / name).metrics.read_text().splitlines()
        return [json.loads(line)["train/loss"] for line in lines]


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
    make_crops: Callable[..., Path],
    small_config_on: Callable[..., TrainConfig],
) -> Runs:
    folder = tmp_path_factory.mktemp("exact")
    crops = make_crops(folder / "crops")
    train_to(2, small_config_on(crops, *SAME, f"run_dir={folder / 'alone'}"))
    overrides = {**HOPPING, "once": SAME, "again": SAME}
    configs = {name: small_config_on(crops, *more, f"run_dir={folder / name}") for name, more in overrides.items()}
    for name, more in HOPPING.items():
        train_to(4, small_config_on(crops, *more, f"run_dir={folder / f'{name}_whole'}"))
        train_to(1, configs[name])
    left = {count: of_each_rank(train_on, count, folder, count, configs) for count in (2, 3)}
    for name in HOPPING:
        train_to(4, configs[name])
    return Runs(folder, left)


@pytest.mark.parametrize("name", HOPPING)
def test_a_run_that_goes_from_one_to_two_to_three_processes_and_back_is_that_of_one(runs: Runs, name: str):
    """Published losses are float32, so those of float64 runs are compared to the precision of that."""
    hopped, whole = runs.checkpoint(name), runs.checkpoint(f"{name}_whole")
    assert hopped.state["position"] == whole.state["position"]
    assert runs.losses(name) == pytest.approx(runs.losses(f"{name}_whole"), rel=1e-6)
    for part, tensors in whole.tensors.items():
        assert hopped.tensors[part].keys() == tensors.keys()
        for key, tensor in tensors.items():
            difference = float((hopped.tensors[part][key].double() - tensor.double()).norm())
            assert difference <= 1e-10 * max(1.0, float(tensor.double().norm())), f"{part}: {key}"


@pytest.mark.parametrize("count", [2, 3])
def test_statistics_of_batch_norm_and_replicated_centres_are_the_same_on_all_processes(runs: Runs, count: int):
    first, *others = runs.left[count]
    assert "centres of the auxiliary" in first["adamw"]
    for other in others:
        for name in HOPPING:
            for key, value in first[name].items():
                assert torch.equal(value, other[name][key]), f"{name}: {key}"


def test_in_float32_the_losses_of_two_processes_are_those_of_one_to_five_digits(runs: Runs):
    """Of the first steps: rounding errors grow with each."""
    assert runs.losses("once") == pytest.approx(runs.losses("alone"), rel=1e-5)


def test_two_runs_of_two_processes_have_the_same_weights_bit_for_bit(runs: Runs):
    once, again = runs.checkpoint("once"), runs.checkpoint("again")
    for part, tensors in once.tensors.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, again.tensors[part][key]), f"{part}: {key}"
