from __future__ import annotations

import errno
import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from frtrain.errors import CheckpointError
from frtrain.training import checkpoint_writing
from frtrain.training.checkpoint import (
    Checkpoint,
    optimizer_tensors,
    read_checkpoint,
    write_checkpoint,
)
from frtrain.training.checkpoint_index import DamagedCheckpointError, Facts, Index, StoredFile
from frtrain.training.checkpoint_reading import StoredCheckpoint
from frtrain.training.restoring import restore_optimizer, restore_part
from frtrain.training.run_folder import RunFolder, checkpoint_of
from frtrain.training.shards import collected

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

    monkeypatch.setattr(checkpoint_writing, "_write_list", full)
    message = r"step-7: .*No space left.*it needs 96 bytes, and [\d,]+ were free there.*step-6 is intact: .*resume="
    with pytest.raises(CheckpointError, match=message):
        write_checkpoint(tmp_path / "step-7", EXAMPLE)
    assert [path.name for path in tmp_path.iterdir()] == ["step-6"]
    read_checkpoint(tmp_path / "step-6")
    with pytest.raises(CheckpointError, match="There is no earlier checkpoint to go on from") as caught:
        write_checkpoint(tmp_path / "other" / "step-7", EXAMPLE)
    assert "resume" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["backbone.safetensors", "classifier.safetensors", "optimizer.safetensors", "classes.json", "checkpoint.json"],
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
    with pytest.raises(DamagedCheckpointError, match=rf"{name}: is (damaged|missing)|no {name} in it"):
        read_checkpoint(tmp_path / "step-7")


def test_a_digit_of_the_index_that_changed_is_noticed(tmp_path: Path):
    index = write_checkpoint(tmp_path / "step-7", EXAMPLE) / "checkpoint.json"
    index.write_text(index.read_text().replace('"position": 56', '"position": 57'))
    with pytest.raises(DamagedCheckpointError, match=r"checkpoint\.json: is damaged \(.*does not match its checksum"):
        read_checkpoint(tmp_path / "step-7")


def test_a_file_that_is_not_in_the_folder_cannot_be_named_by_an_index(tmp_path: Path):
    facts = Facts(EXAMPLE.state, EXAMPLE.config, EXAMPLE.fingerprint, EXAMPLE.preprocessing)
    (tmp_path / "step-7").mkdir()
    stranger = Index(facts, {"../secret": StoredFile("0", 1, "backbone", {})})
    (tmp_path / "step-7" / "checkpoint.json").write_bytes(stranger.to_json())
    with pytest.raises(DamagedCheckpointError, match=r"\.\./secret is no name of a file"):
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


def test_weights_of_another_architecture_are_refused_by_name_and_shape(tmp_path: Path):
    stored = StoredCheckpoint.at(write_checkpoint(tmp_path / "step-7", EXAMPLE))
    with pytest.raises(CheckpointError, match=r"weight is \[2, 3\] in the checkpoint and \[2, 4\] in this run"):
        restore_part(stored, "backbone", collected({"backbone": nn.Linear(4, 2, bias=False).state_dict()})["backbone"])
    with pytest.raises(CheckpointError, match=r"bias is absent in the checkpoint and \[2\] in this run"):
        restore_part(stored, "backbone", collected({"backbone": nn.Linear(3, 2).state_dict()})["backbone"])


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_goes_on_bit_for_bit(kind: type[torch.optim.Optimizer], tmp_path: Path):
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
    stored = StoredCheckpoint.at(write_checkpoint(tmp_path / "step-2", replace(EXAMPLE, tensors={"optimizer": saved})))
    restore_optimizer(stored, resumed_optimizer, dict(resumed.named_parameters()), {})
    for seed in range(2, 4):
        step(resumed, resumed_optimizer, seed)
    assert torch.equal(whole.weight, resumed.weight)


def test_the_newest_and_the_best_are_kept(tmp_path: Path):
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3, 4, 5):
        write_checkpoint(folder.checkpoint(step), EXAMPLE)
        folder.point("last", step)
    folder.point("best", 2)
    folder.prune(keep=2, best_step=2, keep_every=None)
    assert folder.steps() == [2, 4, 5]
    folder.prune(keep=1, best_step=5, keep_every=2)
    assert folder.steps() == [2, 4, 5]
    assert checkpoint_of(tmp_path) == folder.checkpoint(5)
    assert checkpoint_of(tmp_path / "checkpoints" / "best") == folder.checkpoint(2).resolve()


def test_what_a_killed_writer_left_is_removed_and_never_taken_for_a_checkpoint(tmp_path: Path):
    folder = RunFolder(tmp_path)
    write_checkpoint(folder.checkpoint(1), EXAMPLE)
    (folder.checkpoints / ".step-00000002.99.part").mkdir()
    (folder.checkpoints / ".step-00000002.99.part" / "backbone.safetensors").write_bytes(b"half")
    assert folder.steps() == [1]
    folder.checkpoint(1).rename(folder.checkpoints / ".step-00000001.old")  # it was about to be replaced
    (folder.path / ".metrics.jsonl.99.part").write_bytes(b"half")
    folder.remove_leftovers()
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-00000001"]
    assert [path.name for path in folder.path.iterdir()] == ["checkpoints"]


def test_a_checkpoint_of_the_first_format_is_read(tmp_path: Path):
    (tmp_path / "step-7").mkdir()
    files = {f"{part}.safetensors": save(tensors) for part, tensors in EXAMPLE.tensors.items()}
    files["classes.json"] = json.dumps(EXAMPLE.classes).encode()
    for name, content in files.items():
        (tmp_path / "step-7" / name).write_bytes(content)
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    facts = {
        "state": EXAMPLE.state,
        "config": EXAMPLE.config,
        "fingerprint": "folder:8",
        "preprocessing": {"size": 112},
    }
    (tmp_path / "step-7" / "checkpoint.json").write_text(json.dumps({"format": 1, **facts, "sha256": sha256}))
    read = read_checkpoint(tmp_path / "step-7")
    assert torch.equal(read.tensors["backbone"]["weight"], EXAMPLE.tensors["backbone"]["weight"])
    assert (read.state, read.classes) == (EXAMPLE.state, EXAMPLE.classes)


def test_a_folder_without_checkpoints_is_an_error_that_says_what_is_expected(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"holds no checkpoint\. Expected a run folder"):
        checkpoint_of(tmp_path)
