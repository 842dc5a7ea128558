"""What may become a checkpoint, and what becomes of one that is written while training goes on."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from frtrain.errors import CheckpointError, FrtrainError, TrainingError
from frtrain.processes import ALONE
from frtrain.training import checkpoint_thread, checkpoint_writing, run_folder
from frtrain.training.checkpoint import read_checkpoint
from frtrain.training.checkpoint_index import Facts
from frtrain.training.checkpoint_thread import CheckpointWriter, Written
from frtrain.training.checkpoint_writing import Content
from frtrain.training.optimization import Optimization
from frtrain.training.run_folder import RunFolder
from frtrain.training.shards import collected

SmallRun = Callable[..., tuple[int, RunFolder]]


def content(weight: torch.Tensor, step: int = 7, optimizer: torch.Tensor | None = None) -> Content:
    parts = {"backbone": {"weight": weight}, "optimizer": {} if optimizer is None else {"backbone.weight/m": optimizer}}
    return Content(collected(parts), Facts({"step": step, "best_step": None}, {}, "", {}), ["Ann"])


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Writing waits until this is set."""
    gate, write = threading.Event(), checkpoint_writing.write_own_files

    def write_when_told(*arguments: Any) -> None:
        assert gate.wait(10)
        write(*arguments)

    monkeypatch.setattr(checkpoint_thread, "write_own_files", write_when_told)
    return gate


def test_weights_that_change_while_a_checkpoint_is_written_are_saved_as_they_were(
    tmp_path: Path, held: threading.Event
):
    writer, weight = CheckpointWriter(ALONE, background=True), torch.ones(4)
    folders = tmp_path / "step-1", tmp_path / "step-2"
    assert writer.begin(folders[0], content(weight)) is None
    weight += 1
    assert writer.completed() is None
    assert not folders[0].exists()
    held.set()
    written = writer.begin(folders[1], content(weight))  # waits for the first
    assert isinstance(written, Written)
    weight += 1
    writer.wait()
    assert [read_checkpoint(folder).tensors["backbone"]["weight"].tolist() for folder in folders] == [[1] * 4, [2] * 4]
    assert written.bytes == 16
    assert not writer.pending


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_weights_that_are_not_finite_are_named_and_not_saved(tmp_path: Path, value: float):
    writer = CheckpointWriter(ALONE, background=True)
    writer.begin(tmp_path / "step-7", content(torch.tensor([1.0, value])))
    with pytest.raises(TrainingError, match=r"backbone\.weight is not finite after step 7: no checkpoint is written"):
        writer.wait()
    assert list(tmp_path.iterdir()) == []
    writer.begin(tmp_path / "step-7", content(torch.ones(1), optimizer=torch.tensor([value])))
    assert writer.wait() is not None


def test_a_checkpoint_under_way_is_completed_when_the_run_fails(
    small_run: SmallRun, monkeypatch: pytest.MonkeyPatch, held: threading.Event, tmp_path: Path
):
    step = Optimization.step

    def fail_at_the_fourth(self: Optimization, number: int) -> Any:
        if number == 3:
            held.set()
            raise TrainingError("diverged")
        return step(self, number)

    monkeypatch.setattr(Optimization, "step", fail_at_the_fourth)
    with pytest.raises(TrainingError, match="diverged"):
        small_run("run", "checkpoint.every_steps=2")
    folder = RunFolder(tmp_path / "run")
    assert folder.steps() == [2]
    assert (folder.checkpoints / "last").resolve() == folder.checkpoint(2)


def test_a_full_disk_under_training_ends_the_run_and_leaves_earlier_checkpoints(
    small_run: SmallRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    write = checkpoint_writing.write_tensors

    def full_at_step_4(path: Path, *rest: Any) -> Any:
        if path.parent.name == ".step-00000004.part":
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *rest)

    monkeypatch.setattr(checkpoint_writing, "write_tensors", full_at_step_4)
    with pytest.raises(CheckpointError, match=r"step-00000004: .*No space left.* bytes, and .*step-00000002 is intact"):
        small_run("run", "checkpoint.every_steps=2")
    folder = RunFolder(tmp_path / "run")
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["last", "step-00000002"]
    monkeypatch.setattr(checkpoint_writing, "write_tensors", write)
    small_run("run", "checkpoint.every_steps=2", "checkpoint.keep=1", "checkpoint.keep_every_steps=4")
    assert folder.steps() == [4, 6]


def test_the_stall_is_published_and_told(small_run: SmallRun):
    _, folder = small_run("run", "checkpoint.every_steps=2")
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert any(line.get("speed/checkpoint_stall_ms", 0) > 0 for line in lines[2:])
    assert folder.log.read_text().count("written: training stood still for") == 3


def test_a_run_folder_that_a_process_does_not_see_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_folder, "NETWORK_SECONDS", 0.0)
    folder = RunFolder.create("runs", "name", str(tmp_path / "run"))
    RunFolder(folder.path).check_seen()
    with pytest.raises(FrtrainError, match=r"elsewhere: the run folder of process 0 is not seen on "):
        RunFolder(tmp_path / "elsewhere").check_seen()
    folder.unlock()


def test_run_that_fails_before_its_first_step_leaves_no_folder(tmp_path: Path):
    RunFolder.create(str(tmp_path / "runs"), "name", None).unlock()
    assert not (tmp_path / "runs" / "name").exists()
    (tmp_path / "runs" / "name").mkdir()
    RunFolder.create(str(tmp_path / "runs"), "name", None).unlock()
    assert (tmp_path / "runs" / "name").exists()  # it was there before
