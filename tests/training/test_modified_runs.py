"""Runs with modifiers and a further loss on the embedding."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest
import torch

from frtrain.errors import CheckpointError
from frtrain.training.checkpoint import Checkpoint, read_checkpoint
from frtrain.training.run_folder import RunFolder, checkpoint_of
from frtrain.training.state import TrainingState

SmallRun = Callable[..., tuple[int, RunFolder]]

EVERYTHING = (
    "loss=sv_softmax", "modifiers.margin_warmup_steps=4", "modifiers.interclass_filter=0.4",
    "modifiers.label_smoothing=0.05", "modifiers.hard_mining=0.75",
)  # fmt: skip


def last(folder: RunFolder) -> Checkpoint:
    return read_checkpoint(checkpoint_of(folder.path))


@pytest.fixture
def stopped_run(small_run: SmallRun) -> SmallRun:
    """A small run that is stopped after its third step."""

    def run(name: str, *overrides: str) -> tuple[int, RunFolder]:
        advance = TrainingState.advance

        def advance_and_stop(self: TrainingState, applied: bool) -> None:
            advance(self, applied)
            if self.step == 3:
                signal.raise_signal(signal.SIGTERM)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TrainingState, "advance", advance_and_stop)
            return small_run(name, *overrides)

    return run


@pytest.mark.parametrize(
    "overrides",
    [
        ("auxiliary=center", "auxiliary.weight=0.5"),
        ("auxiliary=center", "auxiliary.update=solver", "trainer.clip_norm=null", "trainer.accumulate=2"),
        ("auxiliary=pairs", "auxiliary.miner=BatchEasyHardMiner"),
        EVERYTHING,
        ("modifiers.focal_gamma=2", "auxiliary=center"),
    ],
    ids=["center-paper", "center-solver", "pairs", "modifiers", "focal-center"],
)
def test_a_stopped_and_resumed_run_has_the_weights_of_an_uninterrupted_one(
    small_run: SmallRun, stopped_run: SmallRun, overrides: tuple[str, ...]
):
    _, whole = small_run("whole", *overrides)
    _, stopped = stopped_run("stopped", *overrides)
    assert last(stopped).state["step"] == 3
    _, resumed = small_run("stopped", *overrides)
    one, other = last(whole), last(resumed)
    assert other.state["step"] == 6
    assert one.tensors.keys() == other.tensors.keys()
    for part, tensors in one.tensors.items():
        assert tensors.keys() == other.tensors[part].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other.tensors[part][name]), f"{part}: {name}"


def test_centres_of_the_paper_move_and_the_optimizer_leaves_them_alone(small_run: SmallRun):
    _, short = small_run("short", "auxiliary=center", "trainer.max_steps=1")
    _, long = small_run("long", "auxiliary=center", "trainer.max_steps=2")
    before, after = (last(folder).tensors["classifier"]["auxiliary.centres"] for folder in (short, long))
    assert before.shape == (8, 16)
    assert not torch.equal(before, after)
    assert not [name for name in last(long).tensors["optimizer"] if "auxiliary" in name]


def test_solver_centres_are_optimized(small_run: SmallRun):
    _, folder = small_run("run", "auxiliary=center", "auxiliary.update=solver")
    assert "classifier.auxiliary.centres/momentum_buffer" in last(folder).tensors["optimizer"]


def test_auxiliary_and_filter_have_a_curve(small_run: SmallRun):
    _, folder = small_run("run", "auxiliary=center", "modifiers.interclass_filter=0.4")
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert all(line["train/auxiliary"] > 0 for line in lines)
    assert all(0 <= line["train/filtered_classes"] <= 1 for line in lines)


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("modifiers.focal_gamma=2", r"modifiers\.focal_gamma: 0(\.0)? then, 2(\.0)? now"),
        ("auxiliary=center", r"auxiliary\.name: absent then, center now"),
    ],
)
def test_a_run_cannot_go_on_with_other_modifiers_or_auxiliaries(
    small_run: SmallRun, stopped_run: SmallRun, override: str, difference: str
):
    stopped_run("run")
    with pytest.raises(CheckpointError, match=rf"another configuration \(.*{difference}"):
        small_run("run", override)
