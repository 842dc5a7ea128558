"""How long a run will still take, and shares of the time, by clocks that nobody sets."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from frtrain.training import run_folder, stopwatch
from frtrain.training.run_folder import RunFolder
from frtrain.training.stopwatch import Lap, Pause, Stopwatch
from frtrain.training.time_left import TimeLeft

SmallRun = Callable[..., tuple[int, RunFolder]]


def lap(seconds: float, **pauses: float) -> Lap:
    return Lap(seconds, 0.0, 0.0, tuple(Pause(what, took) for what, took in pauses.items()))


def test_the_pace_is_that_of_training_without_its_pauses():
    left = TimeLeft(0, 1000)
    left.add(10, lap(50.0))  # starts loaders
    left.add(20, lap(10.0))
    left.add(30, lap(10.0))
    assert left.seconds(30) == pytest.approx(970.0)


def test_validations_that_are_still_to_come_are_counted_at_the_length_of_those_seen():
    left = TimeLeft(0, 1000)
    for step in range(10, 510, 10):
        left.add(step, lap(10.0, validation=60.0) if step % 100 == 10 and step > 100 else lap(10.0))
    assert left.seconds(500) == pytest.approx(500.0 + 5 * 60.0, rel=0.02)


def test_after_a_resume_only_what_this_process_did_counts():
    left = TimeLeft(900, 1000)
    left.add(910, lap(30.0))
    left.add(920, lap(20.0))
    assert left.seconds(920) == pytest.approx(160.0)
    left.add(
        930, lap(20.0, validation=50.0)
    )  # the first that this process sees, of a run that validates every 900 steps at most
    assert left.seconds(930) < 140.0 + 10.0


def test_nothing_is_foretold_before_anything_is_known():
    assert TimeLeft(0, 1000).seconds(0) == 0.0


def test_shares_of_the_time_add_up():
    measured = Lap(seconds=4.0, waited_seconds=1.0, communicated_seconds=0.5)
    assert (measured.data_wait_share, measured.communication_share, measured.compute_share) == (0.25, 0.125, 0.625)
    assert Lap(1.0, 0.8, 0.8).compute_share == 0.0


def test_a_pause_is_no_part_of_a_lap(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    watch = Stopwatch()
    now[0] += 3
    with watch.paused("validation"):
        now[0] += 60
    now[0] += 2
    measured = watch.lap()
    assert measured.seconds == 5.0
    assert measured.pauses == (Pause("validation", 60.0),)


def test_a_clock_that_is_set_back_and_forth_makes_no_negative_speed(
    small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
):
    began, jumps = time.time(), iter(range(10_000))
    monkeypatch.setattr(time, "time", lambda: began + (1 if next(jumps) % 2 else -1) * 86_400)
    status, folder = small_run("run", "log.tensorboard=true", "validation.fraction=0.3", "validation.pairs=24")
    assert status == 0
    for line in map(json.loads, folder.metrics.read_text().splitlines()):
        times = {tag: value for tag, value in line.items() if tag.startswith("speed/")}
        assert all(value >= 0 for value in times.values())
        assert times.get("speed/eta_seconds", 0) < 3600
        assert times.get("speed/images_per_second", 1) > 0
        assert "verify/auc" in line or line["memory/host_mib"] > 50


def test_runs_of_a_clock_that_stands_still_have_folders_of_their_own(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_folder.time, "strftime", lambda *_: "2001-09-09_01-46-40")
    folders = [RunFolder.create(str(tmp_path), "name", None) for _ in range(3)]
    assert len({folder.path for folder in folders}) == 3
    for folder in folders:
        folder.unlock()
