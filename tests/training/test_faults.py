"""Real SIGKILLs, in forked processes, and checkpoints that rot. More of both, by the command line: scripts/faults_*.py."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from frtrain.config import TrainConfig
from frtrain.training.resume import checkpoint_to_resume
from frtrain.training.run_folder import RunFolder

SmallRun = Callable[..., tuple[int, RunFolder]]

OVERRIDES = ("checkpoint.every_steps=1",)
CHANGED_NAMES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink")


def in_child(small_run: SmallRun, name: str, kill_before: int | None = None) -> int | None:
    """Run in a forked process, which kills itself right before so many changes of a name; its exit status."""

    def run() -> None:
        left = kill_before or 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in CHANGED_NAMES and any(f"/{name}/" in str(argument) for argument in arguments):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        if kill_before:
            sys.addaudithook(hook)
        sys.exit(small_run(name, *OVERRIDES)[0])

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join(120)
    return child.exitcode


def published(folder: RunFolder) -> list[dict[str, object]]:
    """The lines of metrics.jsonl without what the clock decides."""
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    timed = ("speed/", "memory/", "time/")
    return [{key: value for key, value in line.items() if not key.startswith(timed)} for line in lines]


def test_a_run_killed_again_and_again_ends_as_one_that_nobody_touched(small_run: SmallRun, tmp_path: Path):
    _, whole = small_run("whole", *OVERRIDES)
    killed = RunFolder(tmp_path / "killed")
    for kill_before in (9, 16, 27):
        assert in_child(small_run, "killed", kill_before) == -signal.SIGKILL
    assert in_child(small_run, "killed") == 0
    last = [folder.checkpoint(6) for folder in (whole, killed)]
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*.safetensors")) for folder in last]
    assert files[0] == files[1]
    assert all((last[0] / file).read_bytes() == (last[1] / file).read_bytes() for file in files[0])
    assert published(killed) == published(whole)
    assert [path for path in killed.path.rglob("*") if path.name.startswith(".")] == []


@pytest.fixture
def saved_twice(small_run: SmallRun) -> RunFolder:
    """A finished run that has its checkpoints of steps 3 and 6 alone."""
    _, folder = small_run("run", *OVERRIDES, "checkpoint.keep=6")
    for step in folder.steps():
        if step not in (3, 6):
            shutil.rmtree(folder.checkpoint(step))
    return folder


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def another_step(path: Path) -> None:
    """Still valid JSON, and a wrong number in it."""
    text = path.read_text()
    assert '"step": 6' in text
    path.write_text(text.replace('"step": 6', '"step": 7'))


def test_a_flipped_bit_in_any_file_of_a_checkpoint_is_noticed_and_the_one_before_is_taken(
    saved_twice: RunFolder, small_config: Callable[..., TrainConfig], caplog: pytest.LogCaptureFixture, tmp_path: Path
):
    config = small_config(*OVERRIDES, f"run_dir={tmp_path / 'damaged'}")
    newest = saved_twice.checkpoint(6)
    files = sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file())
    assert len(files) >= 5
    cases = [*((file, flip_a_bit) for file in files), (Path("checkpoint.json"), another_step)]
    for file, damage in cases:
        shutil.rmtree(tmp_path / "damaged", ignore_errors=True)
        shutil.copytree(saved_twice.path, tmp_path / "damaged", symlinks=True)
        folder = RunFolder(tmp_path / "damaged")
        damage(folder.checkpoint(6) / file)
        caplog.clear()
        checkpoint = checkpoint_to_resume(config, folder)
        assert checkpoint is not None, file
        assert checkpoint.state["step"] == 3, file
        assert file.name in caplog.text
