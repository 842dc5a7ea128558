"""Weights of one run as the beginning of another."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from frtrain.commands.application import run_verb
from frtrain.commands.train import check
from frtrain.config import TrainConfig
from frtrain.errors import CheckpointError, ConfigError
from frtrain.training.checkpoint import Checkpoint, read_checkpoint
from frtrain.training.run_folder import RunFolder, checkpoint_of

SmallRun = Callable[..., tuple[int, RunFolder]]

FROZEN = ("optimizer.lr=1e-12", "optimizer.weight_decay=0", "trainer.max_steps=1")
"""A step that moves no weight, so that the first values show in the checkpoint after it."""


def last(folder: RunFolder) -> Checkpoint:
    return read_checkpoint(checkpoint_of(folder.path))


@pytest.fixture
def first(small_run: SmallRun) -> RunFolder:
    """The run whose weights are taken over."""
    return small_run("first", "loss=subcenter_arcface", "trainer.max_steps=2")[1]


def test_weights_and_the_centres_of_known_identities_are_taken_over(
    small_run: SmallRun, first: RunFolder, tmp_path: Path
):
    (tmp_path / "crops" / "person_003").rename(tmp_path / "crops" / "a_newcomer")  # and all others get another row
    overrides = ("loss=subcenter_arcface", f"init_from={first.path}", "init_centres=true", "seed=7", *FROZEN)
    _, folder = small_run("second", *overrides)
    then, now = last(first), last(folder)
    for name, tensor in then.tensors["backbone"].items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(now.tensors["backbone"][name], tensor)
    per_class = len(then.tensors["classifier"]["centres"]) // 8
    assert per_class > 1
    centres = [
        dict(zip(c.classes, c.tensors["classifier"]["centres"].split(per_class), strict=True)) for c in (then, now)
    ]
    assert set(centres[0]) - set(centres[1]) == {"person_003"}
    for name, rows in centres[1].items():
        if name == "a_newcomer":
            assert not any(torch.allclose(rows, known) for known in centres[0].values())
        else:
            torch.testing.assert_close(rows, centres[0][name])
    told = folder.log.read_text()
    assert "7 of 8 classes have the centre that they had there (centres)" in told
    assert f"init_from {checkpoint_of(first.path)}: {len(then.tensors['backbone'])} of" in told


def test_what_fits_of_a_backbone_of_another_embedding_size_is_loaded_and_the_rest_told(
    small_run: SmallRun, small_config: Callable[..., TrainConfig], first: RunFolder
):
    overrides = (f"init_from={first.path}", "backbone.embedding_size=24", *FROZEN)
    _, folder = small_run("second", *overrides)
    then, now = last(first).tensors["backbone"], last(folder).tensors["backbone"]
    (left,) = [name for name, tensor in now.items() if tensor.ndim == 2 and tensor.shape != then[name].shape]
    stem = next(name for name, tensor in now.items() if tensor.ndim == 4)
    torch.testing.assert_close(now[stem], then[stem])
    assert f"left at their first values: {left} [24, " in folder.log.read_text()
    with pytest.raises(
        CheckpointError, match=r"init_centres: .* do not fit: 3 a class, of 16 numbers there, 1 a class"
    ):
        small_run("third", *overrides, "init_centres=true")
    with pytest.raises(CheckpointError, match=r"init_from: nothing of .* fits this backbone"):
        small_run(
            "fourth", f"init_from={first.path}", "backbone.widths=[24,24,24]", "backbone.embedding_size=24", *FROZEN
        )


def test_a_checkpoint_in_the_run_folder_goes_before_weights_of_another_run(small_run: SmallRun, first: RunFolder):
    small_run("second", "trainer.max_steps=1", f"init_from={first.path}")
    _, folder = small_run("second", "trainer.max_steps=2", "init_from=/no/longer/there")
    assert last(folder).state["step"] == 2
    assert "init_from=/no/longer/there is for a new run, and is not read" in folder.log.read_text()


def test_what_cannot_be_started_from_is_told_before_anything_is_built(
    small_config: Callable[..., TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(ConfigError, match="init_centres=true: from where"):
        check(small_config("init_centres=true"))
    with pytest.raises(CheckpointError, match="/nowhere: no such run or checkpoint"):
        check(small_config("init_from=/nowhere"))
    (tmp_path / "model.pt").write_bytes(pickle.dumps({"weight": 1}))
    with pytest.raises(CheckpointError, match=r"Pickled checkpoints .* are refused"):
        check(small_config(f"init_from={tmp_path / 'model.pt'}"))
    assert run_verb([f"resume={tmp_path}", f"init_from={tmp_path}"]) == 2
    assert "init_from starts a new run, and resume=PATH goes on with one" in capsys.readouterr().err
