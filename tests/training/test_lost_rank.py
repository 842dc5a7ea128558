"""Processes of a torchrun that are killed, and what becomes of the run: with real SIGKILL."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from frtrain.training.checkpoint import Checkpoint, read_checkpoint
from frtrain.training.peers import Lost, Place, loss_told
from frtrain.training.run_folder import RunFolder, checkpoint_of

pytestmark = pytest.mark.slow

Launcher = Callable[..., subprocess.Popen[str]]

STEPS = 20


@pytest.fixture
def torchrun(tmp_path: Path, small_overrides: Callable[[Path], list[str]], crops: Path) -> Launcher:
    """Start two processes as a user does."""

    def start(*overrides: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", *options]
        arguments = [*launch, "-m", "frtrain", *small_overrides(crops), "trainer.epochs=null", *overrides]
        arguments.append("checkpoint.every_steps=4")
        return subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path, env=dict(os.environ)
        )

    return start


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory, make_crops: Callable[..., Path]) -> Path:
    return make_crops(tmp_path_factory.mktemp("faces") / "crops")


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("**/checkpoints/step-*/checkpoint.json"))


def kill(launcher: subprocess.Popen[str], rank: int, folder: Path) -> int:
    """SIGKILL the process of a rank once there is a checkpoint; returns its number."""
    pid = process_of(launcher, rank, folder)
    os.kill(pid, signal.SIGKILL)
    return pid


def process_of(launcher: subprocess.Popen[str], rank: int, folder: Path) -> int:
    """The number of a rank's process, when a checkpoint has been written."""
    deadline = time.monotonic() + 90
    while not checkpoints(folder) and launcher.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    (pid,) = (pid for pid in children(launcher.pid) if f"RANK={rank}" in environment(pid))
    return pid


def children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def environment(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_text().split("\0")
    except OSError:
        return []


def last(folder: Path) -> Checkpoint:
    return read_checkpoint(checkpoint_of(folder))


def test_a_killed_rank_is_named_with_the_way_to_go_on(torchrun: Launcher, tmp_path: Path):
    folder = tmp_path / "run"
    launcher = torchrun(f"run_dir={folder}", "trainer.max_steps=100000")
    pid = kill(launcher, 1, folder)
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    step = RunFolder(folder).steps()[-1]
    assert len(re.findall(rf"rank 1 of 2 \(process {pid} on .*\) was lost", output)) == 1
    assert f"The last checkpoint is {folder}/checkpoints/step-{step:08d}. " in output
    assert f"Go on with: torchrun --nproc-per-node=2 -m frtrain resume={folder}" in output
    assert output.index("was lost") < output.index("Traceback")  # that of torchrun itself
    assert "error:" not in output
    assert not (folder / ".lock").exists()


def test_torchrun_restarts_a_run_that_has_lost_rank_0_and_it_ends_as_if_nothing_had_been(
    torchrun: Launcher, tmp_path: Path
):
    undisturbed = torchrun(f"run_dir={tmp_path / 'undisturbed'}", f"trainer.max_steps={STEPS}")
    launcher = torchrun(
        f"runs={tmp_path / 'runs'}", f"trainer.max_steps={STEPS}", "trainer.workers=1", options=("--max-restarts=1",)
    )
    kill(launcher, 0, tmp_path / "runs")
    output, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, output
    assert "rank 1: rank 0 of 2" in output
    assert "torchrun starts all again (restart 1 of 1), and they go on from it" in output
    (folder,) = (tmp_path / "runs" / "arcface_iresnet_tiny").iterdir()
    assert f"going on from {folder}/checkpoints/step-" in output
    assert not (folder / ".lock").exists()
    quiet, _ = undisturbed.communicate(timeout=60)
    assert undisturbed.returncode == 0, quiet
    assert not re.search(r"Warning|\[W\d|^W\d|Traceback", quiet, re.MULTILINE), quiet
    ours, theirs = last(folder), last(tmp_path / "undisturbed")
    assert ours.state["step"] == STEPS
    for part, tensors in theirs.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(ours.tensors[part][name], tensor), name


def test_a_killed_loader_process_ends_the_other_rank_too(torchrun: Launcher, tmp_path: Path):
    folder = tmp_path / "run"
    launcher = torchrun(f"run_dir={folder}", "trainer.max_steps=100000", "trainer.workers=1")
    (worker,) = children(process_of(launcher, 1, folder))
    os.kill(worker, signal.SIGKILL)
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    errors = [line for line in output.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert "error: rank 1: " in errors[0]
    assert "was lost" not in output


def test_a_place_is_empty_once_its_process_has_ended_even_if_nobody_has_asked_after_it():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    own = Place.of_this_process()
    began = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    place = Place(own.machine, own.host, process.pid, int(began))
    assert not place.empty
    assert Place(own.machine, own.host, process.pid, int(began) - 1).empty  # another one had the number
    process.kill()
    time.sleep(0.2)
    assert place.empty
    process.wait()


def test_several_lost_ranks_are_told_together():
    place = Place("m", "host", 7, 1)
    told = loss_told([Lost(1, place), Lost(3, place)], 4, "The last checkpoint is X.")
    assert told.startswith("rank 1 of 4 (process 7 on host) and rank 3 of 4 (process 7 on host) were lost: they ended")
    assert told.endswith("The last checkpoint is X.")
