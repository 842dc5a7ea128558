"""Checkpoints that one number of processes writes and another reads, without the processes themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from frtrain.classifier.selection import Shard
from frtrain.errors import CheckpointError
from frtrain.processes import Processes
from frtrain.training.checkpoint import optimizer_tensors, read_checkpoint
from frtrain.training.checkpoint_index import Facts
from frtrain.training.checkpoint_reading import StoredCheckpoint
from frtrain.training.checkpoint_writing import Content, complete, discard, write_own_files
from frtrain.training.restoring import restore_optimizer, restore_part
from frtrain.training.shards import Shards, collected

CLASSES = 7
DIVISIONS = {
    "one": [(0, 7)],
    "two": [(0, 4), (4, 7)],
    "three, uneven, one has none": [(0, 6), (6, 6), (6, 7)],
    "dense in two": [None, None],
}


class Process:
    """A process with its rows of the centres, the same backbone as all others, and momentum for both.

    Values are those of process 0 of a run where `filled`, else others.
    """

    def __init__(self, rank: int, rows: tuple[int, int] | None, filled: bool):
        generator = torch.Generator().manual_seed(3 if filled else 4)
        first, last = rows or (0, CLASSES)
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
        self.classifier = nn.Module()
        self.classifier.centres = nn.Parameter(torch.randn(CLASSES, 5, generator=generator)[first:last].clone())
        self.classifier.scale = nn.Parameter(torch.randn((), generator=generator))
        self.shards: Shards = {} if rows is None else {"classifier.centres": Shard(first, last, CLASSES)}
        self.parameters = {
            f"{part}.{name}": parameter
            for part, module in (("backbone", self.backbone), ("classifier", self.classifier))
            for name, parameter in module.named_parameters()
        }
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=0.1)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                divided = name == "classifier.centres"
                whole = torch.randn((CLASSES, 5) if divided else parameter.shape, generator=generator)
                parameter.grad = torch.empty_like(parameter).copy_(whole[first:last] if divided else whole)
        if filled:
            self.optimizer.step()
            self.backbone[1].running_mean.fill_(rank + 1.0)  # the other processes' is not saved

    def pieces(self):
        parts = {
            "backbone": self.backbone.state_dict(),
            "classifier": self.classifier.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer, self.parameters),
        }
        return collected(parts, self.shards, self.parameters.keys())

    def content(self) -> Content:
        facts = Facts({"step": 1, "best_step": None}, {"optimizer": {"name": "adamw"}}, "", {})
        return Content(self.pieces(), facts, [str(number) for number in range(CLASSES)])

    def restore(self, stored: StoredCheckpoint) -> None:
        pieces = self.pieces()
        restore_part(stored, "backbone", pieces["backbone"])
        restore_part(stored, "classifier", pieces["classifier"])
        restore_optimizer(stored, self.optimizer, self.parameters, self.shards)


def processes(division: str, filled: bool) -> list[Process]:
    torch.manual_seed(0 if filled else 1)
    state = torch.get_rng_state()
    made = []
    for rank, rows in enumerate(DIVISIONS[division]):
        torch.set_rng_state(state)
        made.append(Process(rank, rows, filled))
    return made


def write(folder: Path, group: list[Process]) -> Path:
    for rank, process in enumerate(group):
        write_own_files(folder, process.content(), Processes(rank, len(group)))
    complete(folder, group[0].content(), len(group))
    return folder


def tensors(path: Path) -> dict[str, Tensor]:
    return {
        f"{part}/{name}": tensor
        for part, named in read_checkpoint(path).tensors.items()
        for name, tensor in named.items()
    }


@pytest.mark.parametrize("first", DIVISIONS)
def test_every_division_reads_what_every_other_has_written_momentum_included(tmp_path: Path, first: str):
    begun = write(tmp_path / "begun", processes(first, filled=True))
    expected = tensors(begun)
    assert expected["optimizer/classifier.centres/exp_avg"].shape == (CLASSES, 5)
    assert expected["optimizer/classifier.centres/exp_avg"].abs().min() > 0
    assert expected["backbone/1.running_mean"].tolist() == [1.0] * 4
    for number, then in enumerate(DIVISIONS):
        group = processes(then, filled=False)
        for process in group:
            process.restore(StoredCheckpoint.at(begun).verify())
            assert all(slots["step"] == 1 for slots in process.optimizer.state.values())
            moment = process.optimizer.state[process.parameters["backbone.0.weight"]]["exp_avg"]
            assert moment.is_contiguous(memory_format=torch.channels_last)
        found = tensors(write(tmp_path / f"again{number}", group))
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), (then, name)


def test_whole_tensors_are_dealt_out_and_each_row_is_written_once(tmp_path: Path):
    write(tmp_path / "step", processes("two", filled=True))
    sizes = {
        rank: sum(path.stat().st_size for path in (tmp_path / "step").glob(f"*-{rank}-of-2.safetensors"))
        for rank in (1, 2)
    }
    assert 0.5 < sizes[1] / sizes[2] < 2
    places = [
        (file.part, name, rows)
        for file in StoredCheckpoint.at(tmp_path / "step").index.files.values()
        for name, rows in (file.tensors or {}).items()
    ]
    assert len(places) == len(set(places))


def test_files_that_are_not_here_or_not_complete_make_no_checkpoint(tmp_path: Path):
    first, second = processes("two", filled=True)
    write_own_files(tmp_path / "step", first.content(), Processes(0, 2))
    with pytest.raises(CheckpointError, match="process 1 has written, but its files are not here"):
        complete(tmp_path / "step", first.content(), 2)
    discard(tmp_path / "step")
    write_own_files(tmp_path / "step", first.content(), Processes(0, 2))
    second.shards = {"classifier.centres": Shard(5, 8, CLASSES)}
    write_own_files(tmp_path / "step", second.content(), Processes(1, 2))
    with pytest.raises(CheckpointError, match=r"have not written all rows of classifier\.centres"):
        complete(tmp_path / "step", first.content(), 2)
    assert not (tmp_path / "step").exists()
