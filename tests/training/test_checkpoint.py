from __future__ import annotations

import errno
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from frtrain.errors import CheckpointError
from frtrain.training import checkpoint as module
from frtrain.training.checkpoint import (
    Checkpoint,
    load_into,
    load_optimizer,
    optimizer_tensors,
    read_checkpoint,
    write_checkpoint,
)
from frtrain.training.run_folder import RunFolder, checkpoint_of

EXAMPLE = Checkpoint(
    tensors={
        "backbone": {"weight": torch.arange(6.0).reshape(2, 3)},
        "classifier": {"centres": torch.ones(4, 3)},
        "optimizer": {"backbone.weight/momentum_buffer": torch.full((2, 3), 0.5)},
    },
    state={"step": 7, "position": 56},
    config={"loss": {"name": "arcface"}},
    classes=["Ann", "Łukasz"],
    fingerprint="folder:8",
    preprocessing={"size": 112},
)


def test_what_is_written_is_read_back(tmp_path: Path):
    read = read_checkpoint(write_checkpoint(tmp_path / "step-7", EXAMPLE))
    assert torch.equal(read.tensors["backbone"]["weight"], EXAMPLE.tensors["backbone"]["weight"])
    assert (read.state, read.config, read.classes) == (EXAMPLE.state, EXAMPLE.config, EXAMPLE.classes)


def test_writing_again_replaces_the_folder(tmp_path: Path):
    write_checkpoint(tmp_path / "step-7", EXAMPLE)
    write_checkpoint(tmp_path / "step-7", replace(EXAMPLE, fingerprint="other"))
    assert read_checkpoint(tmp_path / "step-7").fingerprint == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["step-7"]


def test_a_full_disk_leaves_nothing_behind_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_checkpoint(tmp_path / "step-6", EXAMPLE)

    def full(path: Path, value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_write_json", full)
    with pytest.raises(CheckpointError, match=r"step-7: the checkpoint could not be written .*No space left"):
        write_checkpoint(tmp_path / "step-7", EXAMPLE)
    assert [path.name for path in tmp_path.iterdir()] == ["step-6"]
    read_checkpoint(tmp_path / "step-6")


@pytest.mark.parametrize(
    "name", ["backbone.safetensors", "classifier.safetensors", "optimizer.safetensors", "classes.json"]
)
@pytest.mark.parametrize("damage", ["truncated", "one bit flipped", "gone"])
def test_damage_to_any_file_is_noticed_and_named(tmp_path: Path, name: str, damage: str):
    file = write_checkpoint(tmp_path / "step-7", EXAMPLE) / name
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content[:-3] if damage == "truncated" else content)
    with pytest.raises(CheckpointError, match=f"{name}: is (damaged|missing)"):
        read_checkpoint(tmp_path / "step-7")


def test_a_truncated_index_is_noticed_and_named(tmp_path: Path):
    index = write_checkpoint(tmp_path / "step-7", EXAMPLE) / "checkpoint.json"
    index.write_bytes(index.read_bytes()[:40])
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: is damaged"):
        read_checkpoint(tmp_path / "step-7")


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path):
    index = write_checkpoint(tmp_path / "step-7", EXAMPLE) / "checkpoint.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match="has format 99"):
        read_checkpoint(tmp_path / "step-7")


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('a pickle was executed')",)


def test_a_pickle_is_refused_without_being_read(tmp_path: Path):
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(CheckpointError, match=r"Pickled checkpoints .* are refused"):
        checkpoint_of(path)


def test_a_pickle_in_the_place_of_tensors_is_refused(tmp_path: Path):
    folder = write_checkpoint(tmp_path / "step-7", EXAMPLE)
    (folder / "backbone.safetensors").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(CheckpointError, match=r"backbone\.safetensors: is damaged"):
        read_checkpoint(folder)


def test_weights_of_another_architecture_are_refused_by_name_and_shape():
    with pytest.raises(CheckpointError, match=r"weight is \[2, 3\] in the checkpoint and \[2, 4\] in this run"):
        load_into(nn.Linear(4, 2, bias=False), {"weight": torch.zeros(2, 3)}, "backbone", None)
    with pytest.raises(CheckpointError, match=r"bias is absent in the checkpoint and \[2\] in this run"):
        load_into(nn.Linear(3, 2), {"weight": torch.zeros(2, 3)}, "backbone", None)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_goes_on_bit_for_bit(kind: type[torch.optim.Optimizer]):
    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        return network, kind(network.parameters(), lr=0.1, weight_decay=0.01, **options)

    def step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()

    whole, whole_optimizer = fresh()
    for seed in range(4):
        step(whole, whole_optimizer, seed)
    first, first_optimizer = fresh()
    for seed in range(2):
        step(first, first_optimizer, seed)
    resumed, resumed_optimizer = fresh()
    resumed.load_state_dict(first.state_dict())
    saved = optimizer_tensors(first_optimizer, dict(first.named_parameters()))
    load_optimizer(resumed_optimizer, dict(resumed.named_parameters()), saved, None)
    for seed in range(2, 4):
        step(resumed, resumed_optimizer, seed)
    assert torch.equal(whole.weight, resumed.weight)


def test_the_newest_and_the_best_are_kept(tmp_path: Path):
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3, 4, 5):
        write_checkpoint(folder.checkpoint(step), EXAMPLE)
        folder.point("last", step)
    folder.point("best", 2)
    folder.prune(keep=2, best_step=2)
    assert folder.steps() == [2, 4, 5]
    assert checkpoint_of(tmp_path) == folder.checkpoint(5)
    assert checkpoint_of(tmp_path / "checkpoints" / "best") == folder.checkpoint(2).resolve()


def test_what_a_killed_writer_left_is_removed_and_never_taken_for_a_checkpoint(tmp_path: Path):
    folder = RunFolder(tmp_path)
    write_checkpoint(folder.checkpoint(1), EXAMPLE)
    (folder.checkpoints / ".step-00000002.99.part").mkdir()
    (folder.checkpoints / ".step-00000002.99.part" / "backbone.safetensors").write_bytes(b"half")
    assert folder.steps() == [1]
    folder.remove_leftovers()
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-00000001"]


def test_a_folder_without_checkpoints_is_an_error_that_says_what_is_expected(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"holds no checkpoint\. Expected a run folder"):
        checkpoint_of(tmp_path)
