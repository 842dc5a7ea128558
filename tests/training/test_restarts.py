"""Finding the run of an earlier attempt, and the command that goes on with it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from frtrain.config import TrainConfig
from frtrain.processes import ALONE
from frtrain.training.restarts import Attempts, how_to_go_on, where_it_stands
from frtrain.training.run_folder import RunFolder


def torchrun(number: int, launch: str = "a", last: int = 2) -> dict[str, str]:
    return {
        "TORCHELASTIC_RESTART_COUNT": str(number),
        "TORCHELASTIC_MAX_RESTARTS": str(last),
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_ERROR_FILE": f"/tmp/torchelastic_x/none_{launch}/attempt_{number}/0/error.json",
    }


@pytest.fixture(scope="module")
def composed(small_config_on: Callable[..., TrainConfig]) -> TrainConfig:
    return small_config_on(Path("crops"))


@pytest.fixture
def config(composed: TrainConfig, tmp_path: Path) -> Callable[..., TrainConfig]:
    """A configuration whose runs are in `<tmp>/runs`, with other values of some keys."""
    return lambda **values: composed.model_copy(update={"runs": str(tmp_path / "runs"), **values})


def leave_note(config: TrainConfig, folder: Path, environment: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Attempts(config, ALONE, environment).note(folder)


@pytest.mark.parametrize("resume", ["never", "runs/earlier/checkpoints/best"])
def test_a_later_attempt_goes_on_in_the_folder_of_the_first_whatever_that_one_resumed(
    config: Callable[..., TrainConfig], tmp_path: Path, resume: str
):
    asked = config(resume=resume)
    leave_note(asked, tmp_path / "runs/x/time", torchrun(0))
    found = Attempts(asked, ALONE, torchrun(1)).going_on(asked)
    assert (found.run_dir, found.resume) == (str(tmp_path / "runs/x/time"), "auto")


def test_the_first_attempt_and_other_launches_and_other_runs_begin_anew(
    config: Callable[..., TrainConfig], tmp_path: Path
):
    asked, other = config(), config(seed=5)
    leave_note(asked, tmp_path / "runs/x/time", torchrun(0))
    assert Attempts(asked, ALONE, torchrun(0)).going_on(asked) is asked
    assert Attempts(asked, ALONE, torchrun(1, launch="b")).going_on(asked) is asked
    assert Attempts(other, ALONE, torchrun(1)).going_on(other) is other
    (tmp_path / "runs/x/time").rmdir()
    assert Attempts(asked, ALONE, torchrun(1)).going_on(asked) is asked


def test_a_damaged_note_begins_anew_with_a_warning(
    config: Callable[..., TrainConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    asked = config()
    leave_note(asked, tmp_path / "runs/x/time", torchrun(0))
    (note,) = (tmp_path / "runs/.attempts").iterdir()
    note.write_text("{")
    assert Attempts(asked, ALONE, torchrun(1)).going_on(asked) is asked
    assert f"{note}: cannot be read" in caplog.text


def test_no_note_is_left_without_restarts_and_old_ones_go(config: Callable[..., TrainConfig], tmp_path: Path):
    leave_note(config(), tmp_path / "runs/x/time", torchrun(0, last=0))
    assert not (tmp_path / "runs/.attempts").exists()
    leave_note(config(), tmp_path / "runs/x/time", torchrun(0))
    (old,) = (tmp_path / "runs/.attempts").iterdir()
    os.utime(old, (0, time.time() - 100 * 24 * 3600))
    leave_note(config(seed=5), tmp_path / "runs/x/time", torchrun(0))
    assert not old.exists()


def test_the_command_to_go_on_has_as_many_processes_and_machines():
    folder = Path("runs/a b")
    assert how_to_go_on(folder, {}) == "python -m frtrain 'resume=runs/a b'"
    four = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}
    assert how_to_go_on(folder, four) == "torchrun --nproc-per-node=4 -m frtrain 'resume=runs/a b'"
    two_machines = {**four, "WORLD_SIZE": "8", "GROUP_WORLD_SIZE": "2", "MASTER_ADDR": "node1"}
    assert how_to_go_on(folder, two_machines) == (
        "on each machine: torchrun --nproc-per-node=4 --nnodes=2 --rdzv-backend=c10d --rdzv-endpoint=node1:29400 -m frtrain "
        "'resume=runs/a b'"
    )


def test_what_is_told_depends_on_whether_torchrun_starts_again(config: Callable[..., TrainConfig], tmp_path: Path):
    first, last = (Attempts(config(), ALONE, torchrun(number)) for number in (0, 2))
    assert where_it_stands(None, last) == "No checkpoint was written yet"
    assert where_it_stands(RunFolder(tmp_path), first) == (
        "No checkpoint was written yet; torchrun starts all again (restart 1 of 2), and they begin anew"
    )
