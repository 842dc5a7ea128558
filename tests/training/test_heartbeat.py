"""Who notices that a loop stands still, and what is told of it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from frtrain.commands.application import run_verb
from frtrain.training.board import Board
from frtrain.training.heartbeat import Heartbeat, Standing, report
from frtrain.training.stacks import PlaceFinder, all_stacks
from frtrain.training.stopwatch import Stopwatch

LIMIT_SECONDS = 0.3


def stand_still(stuck: threading.Event) -> None:
    stuck.wait(20)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Heartbeat, list[int]]]]:
    """A heartbeat of this thread, and the statuses that it ended a process with."""
    begun: list[Heartbeat] = []

    def watch(rank: int = 0, store: dist.Store | None = None) -> tuple[Heartbeat, list[int]]:
        ends: list[int] = []
        board = None if store is None else Board(store, "test", 5)
        count = 1 if store is None else 2
        heartbeat = Heartbeat(rank, count, LIMIT_SECONDS, PlaceFinder(stand_still), lambda: 7, board, ends.append)
        begun.append(heartbeat)
        return heartbeat.__enter__(), ends

    yield watch
    for heartbeat in begun:
        heartbeat.__exit__(None, None, None)


def wait_until(true: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert true()


def test_a_loop_that_gets_no_batch_ends_its_process_and_leaves_stacks(
    watched: Callable[..., tuple[Heartbeat, list[int]]], caplog: pytest.LogCaptureFixture
):
    stuck = threading.Event()
    with caplog.at_level(logging.DEBUG, logger="frtrain"):
        _, ends = watched()
        threading.Timer(1.0, stuck.set).start()
        stand_still(stuck)
        wait_until(lambda: ends)
    assert ends[0] == 1
    (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert told.startswith("the run hangs: it stands still")
    assert "rank 0: after step 7, no batch for" in told
    assert "at `stuck.wait(20)`" in told
    (stacks,) = [record.getMessage() for record in caplog.records if "stacks of all threads:" in record.getMessage()]
    assert "thread MainThread:" in stacks
    assert "test_heartbeat.py" in stacks


def test_a_loop_that_goes_on_or_pauses_on_purpose_is_left_alone(watched: Callable[..., tuple[Heartbeat, list[int]]]):
    heartbeat, ends = watched()
    stopwatch = Stopwatch()
    stopwatch.pulse = heartbeat
    for _ in stopwatch.waiting_for(range(6)):
        time.sleep(LIMIT_SECONDS / 3)
    with stopwatch.paused("validation"):
        time.sleep(2.5 * LIMIT_SECONDS)
    assert not ends


def test_a_process_that_was_stopped_as_a_whole_has_not_hung(
    watched: Callable[..., tuple[Heartbeat, list[int]]], monkeypatch
):
    class Suspended:
        """A clock that leaps an hour ahead while the thread sleeps, as after SIGSTOP and SIGCONT."""

        ahead = 0.0

        def __getattr__(self, name: str) -> object:
            return getattr(time, name)

        def monotonic(self) -> float:
            return time.monotonic() + self.ahead

    clock = Suspended()
    monkeypatch.setattr("frtrain.training.heartbeat.time", clock)
    heartbeat, ends = watched()
    heartbeat.beat()
    clock.ahead = 3600.0
    time.sleep(LIMIT_SECONDS / 2)
    heartbeat.beat()
    time.sleep(LIMIT_SECONDS / 2)
    assert not ends


def test_all_hear_of_it_and_one_tells_where_everybody_stands(
    watched: Callable[..., tuple[Heartbeat, list[int]]], caplog: pytest.LogCaptureFixture
):
    store = dist.HashStore()
    with caplog.at_level(logging.DEBUG, logger="frtrain"):
        (first, ends_of_first), (_, ends_of_second) = watched(0, store), watched(1, store)
        first.beat()  # one more than the other
        wait_until(lambda: ends_of_first and ends_of_second)
    (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "rank 1 does not go on, the others wait" in told
    assert "rank 0: after step 7" in told
    assert "rank 1: after step 7" in told


def test_who_waits_for_one_that_pauses_is_left_alone(watched: Callable[..., tuple[Heartbeat, list[int]]]):
    store = dist.HashStore()
    (first, ends_of_first), (_, ends_of_second) = watched(0, store), watched(1, store)
    first.hold("checkpoint")
    time.sleep(3 * LIMIT_SECONDS)
    assert not ends_of_first
    assert not ends_of_second


def test_one_that_gives_no_sign_of_life_is_missed(
    watched: Callable[..., tuple[Heartbeat, list[int]]], caplog: pytest.LogCaptureFixture
):
    store = dist.HashStore()
    first, ends = watched(0, store)
    first.hold("validation")
    dist.PrefixStore("test", store).set("sign/1", "1")  # the last one of rank 1
    with caplog.at_level(logging.DEBUG, logger="frtrain"):
        wait_until(lambda: ends)
    (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "rank 1 does not go on, the others wait (rank 1 gives no sign of life)" in told
    assert "rank 1: does not answer" in told


def standing(rank: int, beats: int, line: int, collective: bool) -> Standing:
    return Standing(rank, 12, beats, 40.0, line, collective, "", "at `loss`")


def test_the_one_that_is_furthest_behind_is_to_blame():
    found = {0: standing(0, 25, 40, True), 1: standing(1, 25, 37, False), 2: standing(2, 25, 40, True)}
    assert report("why", found, 3).startswith("the run hangs: rank 1 does not go on, the others wait (why).")
    found = {0: standing(0, 27, 30, False), 1: standing(1, 26, 45, False)}
    assert "rank 1 does not go on" in report("why", found, 2)
    assert "rank 0: after step 12, no batch for 40 s; waits for others in a collective, at `loss`" in report(
        "why", {0: standing(0, 25, 40, True)}, 1
    )


def test_stacks_name_function_file_and_line():
    assert "test_stacks_name_function_file_and_line (" in all_stacks()
    assert PlaceFinder(stand_still).place().text.startswith("in ")


def train(rank: int, port: int, overrides: list[str]) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ.update(address, RANK=str(rank), LOCAL_RANK=str(rank))
    sys.exit(run_verb(overrides))


@pytest.mark.slow
def test_a_stopped_process_ends_the_other(
    crops_folder: Callable[..., Path], small_overrides: Callable[[Path], list[str]], tmp_path: Path
):
    overrides = [*small_overrides(crops_folder()), f"run_dir={tmp_path / 'run'}", "trainer.epochs=null"]
    overrides += ["trainer.max_steps=1000000", "trainer.hang_after_minutes=0.06", "classifier=sharded"]
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    stopped, other = ranks = [context.Process(target=train, args=(rank, port, overrides)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    try:
        metrics = tmp_path / "run" / "metrics.jsonl"
        wait_until(lambda: not other.is_alive() or (metrics.exists() and metrics.stat().st_size), 240)
        os.kill(stopped.pid, signal.SIGSTOP)  # it also keeps the store by which they talk
        other.join(timeout=90)
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()
    assert other.exitcode == 1
    log = (tmp_path / "run" / "logs" / "rank-1.log").read_text()
    assert "rank 0 does not go on, the others wait" in log
    assert "rank 0: does not answer" in log
    assert "thread MainThread:" in log
