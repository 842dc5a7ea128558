"""Processes of a torchrun that are killed, and what becomes of the run: with real SIGKILL."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from frtrain.commands import train as command
from frtrain.config import TrainConfig
from frtrain.errors import DataError
from frtrain.training.checkpoint import read_checkpoint
from frtrain.training.peers import Lost, Place, loss_told
from frtrain.training.run import Run
from frtrain.training.run_folder import RunFolder

pytestmark = pytest.mark.slow

Launcher = Callable[..., subprocess.Popen[str]]

STEPS, COMMON_STEP = 16, 10

ENDLESS = ("trainer.max_steps=100000", "trainer.epochs=null", "scheduler=constant")
EVERY_STEP = ("checkpoint.every_steps=1", "checkpoint.keep=1000")


@pytest.fixture
def torchrun(tmp_path: Path, small_overrides: Callable[[Path], list[str]], crops: Path) -> Launcher:
    """Start two processes as a user does."""

    def start(*overrides: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", *options]
        arguments = [*launch, "-m", "frtrain", *small_overrides(crops), *ENDLESS, *EVERY_STEP, *overrides]
        return subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path, env=dict(os.environ)
        )

    return start


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory, make_crops: Callable[..., Path]) -> Path:
    return make_crops(tmp_path_factory.mktemp("faces") / "crops")


def wait_for_step(launcher: subprocess.Popen[str], folder: Path, step: int) -> None:
    """Until there is a checkpoint of a step somewhere below the folder."""
    deadline = time.monotonic() + 90
    while not any(folder.glob(f"**/step-{step:08d}/checkpoint.json")) and time.monotonic() < deadline:
        assert launcher.poll() is None, launcher.communicate()[0]
        time.sleep(0.02)


def kill(launcher: subprocess.Popen[str], rank: int, folder: Path, step: int) -> int:
    """SIGKILL the process of a rank once there is a checkpoint of a step; returns its number."""
    wait_for_step(launcher, folder, step)
    (pid,) = (pid for pid in children(launcher.pid) if f"RANK={rank}" in environment(pid))
    os.kill(pid, signal.SIGKILL)
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


def test_a_killed_rank_is_named_with_the_way_to_go_on_or_torchrun_goes_on_as_if_nothing_had_been(
    torchrun: Launcher, tmp_path: Path
):
    ended, runs = tmp_path / "ended", tmp_path / "runs"
    launcher = torchrun(f"run_dir={ended}")
    pid = kill(launcher, 1, ended, COMMON_STEP)
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    assert len(re.findall(rf"rank 1 of 2 \(process {pid} on .*\) was lost", output)) == 1
    (named,) = re.findall(rf"The last checkpoint is {ended}/checkpoints/step-(\d+)\. ", output)
    assert RunFolder(ended).steps()[-1] - int(named) in (0, 1)  # one may have been on its way to the disk
    assert f"Go on with: torchrun --nproc-per-node=2 -m frtrain resume={ended}" in output
    assert output.index("was lost") < output.index("Traceback")  # that of torchrun itself
    assert "error:" not in output
    assert not (ended / ".lock").exists()

    launcher = torchrun(
        f"runs={runs}", f"trainer.max_steps={STEPS}", "trainer.workers=1", options=("--max-restarts=1",)
    )
    kill(launcher, 0, runs, 2)
    output, _ = launcher.communicate(timeout=90)
    assert launcher.returncode == 0, output
    assert "rank 1: rank 0 of 2" in output
    assert "torchrun starts all again (restart 1 of 1), and they go on from it" in output
    (folder,) = map(RunFolder, (runs / "arcface_iresnet_tiny").iterdir())
    assert 2 <= int(re.findall(rf"going on from {folder.path}/checkpoints/step-(\d+)", output)[0]) < COMMON_STEP
    assert folder.steps() == list(range(1, STEPS + 1))
    assert not (folder.path / ".lock").exists()
    disturbed, undisturbed = (read_checkpoint(one.checkpoint(COMMON_STEP)) for one in (folder, RunFolder(ended)))
    for part, tensors in undisturbed.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(disturbed.tensors[part][name], tensor), name


def test_a_run_whose_torchrun_is_killed_stops_in_order(torchrun: Launcher, tmp_path: Path):
    launcher = torchrun(f"run_dir={tmp_path / 'run'}")
    wait_for_step(launcher, tmp_path / "run", 2)
    launcher.kill()
    output, _ = launcher.communicate(timeout=60)  # which the ranks have inherited: it ends when they have
    (step,) = re.findall(r"stopped by SIGTERM: after step (\d+) of 100000, a checkpoint is written. Go on with", output)
    assert RunFolder(tmp_path / "run").steps()[-1] == int(step)
    assert output.count(f"torchrun (process {launcher.pid}), which started this run, was lost: the run stops") == 1
    assert output.count("was lost") == 1
    assert len(output.splitlines()) < 60  # torch prints a page for every question to a store that has gone
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_killed_loader_process_is_named_wherever_the_main_thread_was(
    crops: Path, small_config_on: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    loop = command.train

    def train(run: Run, *rest: Any) -> None:
        forward = run.network.forward

        def embed(images: torch.Tensor) -> torch.Tensor:
            os.kill(int(multiprocessing.active_children()[-1].pid or 0), signal.SIGKILL)
            time.sleep(1.0)
            return forward(images)

        monkeypatch.setattr(run.network, "forward", embed)
        loop(run, *rest)

    monkeypatch.setattr(command, "train", train)
    with pytest.raises(DataError, match=r"a loader process died .*use fewer trainer\.workers"):
        command.run(small_config_on(crops, "trainer.workers=1", f"run_dir={tmp_path / 'run'}"))


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
    assert "last words, if there were any, are above" in loss_told([Lost(0, place, silent=False)], 2, "")
