"""Several ranks share the photographs, at the same time or one after the other."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from marked_photographs import (
    FACELESS,
    LethalDetector,
    LoggingDetector,
    MarkedDetector,
    files,
    request,
    run,
    write,
    write_many,
)

from frtrain.alignment import session
from frtrain.alignment.pipeline import align
from frtrain.alignment.report import read_report
from frtrain.alignment.session import finishing, open_report
from frtrain.alignment.shards import Rank
from frtrain.errors import ConfigError, DataError, FrtrainError
from frtrain.signals import StoppedError, StopRequest

CONTEXT = multiprocessing.get_context("forkserver")
EVERYTHING = list(range(60))


def start_ranks(count: int, source: Path, target: Path, detector: LoggingDetector, **options: Any) -> list[BaseProcess]:
    CONTEXT.set_forkserver_preload(["frtrain.alignment.workers"])
    processes = [
        CONTEXT.Process(target=align, args=(request(source, target, detector, rank=Rank(number, count), **options),))
        for number in range(count)
    ]
    for process in processes:
        process.start()
    return processes


def join(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.join(60)
        assert process.exitcode == 0


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("photographs", [0, 1, 5, 100, 1000])
def test_shares_are_disjoint_and_complete_and_of_about_one_size(count: int, photographs: int) -> None:
    paths = [str(number) for number in range(photographs)]
    shares = [Rank(number, count).share(paths) for number in range(count)]
    assert sorted(path for share in shares for path in share) == sorted(paths)
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= max(1, photographs // (count * 8))


@pytest.mark.parametrize(
    ("environment", "rank"),
    [({}, Rank()), ({"RANK": "2", "WORLD_SIZE": "3"}, Rank(2, 3)), ({"RANK": "0", "WORLD_SIZE": "1"}, Rank())],
)
def test_rank_is_that_of_torchrun(environment: dict[str, str], rank: Rank) -> None:
    assert Rank.of(environment) == rank


@pytest.mark.parametrize("environment", [{"RANK": "3", "WORLD_SIZE": "3"}, {"RANK": "-1"}, {"WORLD_SIZE": "two"}])
def test_impossible_rank_is_an_error(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="WORLD_SIZE="):
        Rank.of(environment)


@pytest.mark.parametrize("count", [2, 3])
def test_ranks_at_the_same_time_make_what_one_process_makes(tmp_path: Path, count: int) -> None:
    source, target = write_many(tmp_path / "source"), tmp_path / "target"
    write(source, {"none.png": FACELESS})
    detector = LoggingDetector(tmp_path / "log", seconds=0.003)
    join(start_ranks(count, source, target, detector))
    run(source, tmp_path / "alone")
    assert read_report(target) == read_report(tmp_path / "alone")
    assert {name: (target / name).read_bytes() for name in files(target) if name.endswith("jpg")} == {
        name: (tmp_path / "alone" / name).read_bytes() for name in files(tmp_path / "alone") if name.endswith("jpg")
    }
    assert files(target) == files(tmp_path / "alone")
    assert len(detector.searched()) == 61
    lines = (target / "align.jsonl").read_bytes().splitlines()
    assert lines == sorted(lines)


def test_ranks_may_come_one_after_the_other_and_the_last_one_ends_the_report(tmp_path: Path) -> None:
    source, target = write_many(tmp_path / "source"), tmp_path / "target"
    first = run(source, target, rank=Rank(1, 2))
    assert first.left_to_others == 60 - first.now > 0
    assert {"align.rank1.jsonl"} <= files(target)
    last = run(source, target, rank=Rank(0, 2))
    assert last.left_to_others is None
    assert last.outcomes == Counter(aligned=60)
    assert {name for name in files(target) if not name.endswith(".jpg")} == {"align.json", "align.jsonl"}
    assert run(source, target).earlier == 60


def test_number_of_ranks_may_change_between_calls(tmp_path: Path) -> None:
    source, target = write_many(tmp_path / "source"), tmp_path / "target"
    detector = LoggingDetector(tmp_path / "log")
    run(source, target, detector, limit=7)
    run(source, target, detector, rank=Rank(2, 3))
    run(source, target, detector, rank=Rank(0, 2))
    assert run(source, target, detector).outcomes == Counter(aligned=60)
    assert sorted(detector.searched()) == EVERYTHING
    assert {name for name in files(target) if not name.endswith(".jpg")} == {"align.json", "align.jsonl"}


def test_killed_ranks_lose_nothing_and_another_number_goes_on(tmp_path: Path) -> None:
    source, target = write_many(tmp_path / "source"), tmp_path / "target"
    detector = LoggingDetector(tmp_path / "log", seconds=0.01)
    processes = start_ranks(3, source, target, detector)
    while sum(part.read_bytes().count(b"\n") for part in target.glob("align.rank*.jsonl")) < 10:
        assert all(process.is_alive() for process in processes)
        time.sleep(0.005)
    for process in processes:
        process.kill()
        process.join()
    done = len(read_report(target))
    assert 10 <= done < 60
    join(start_ranks(2, source, target, detector))
    assert len(read_report(target)) == 60
    searches = Counter(detector.searched())
    assert set(searches) == set(EVERYTHING)
    assert searches.total() - 60 <= 3 * 4
    assert not list(target.glob("align.rank*"))


def test_damaged_photograph_is_tried_again_by_the_rank_whose_it_is(tmp_path: Path) -> None:
    source, target = write_many(tmp_path / "source"), tmp_path / "target"
    whole = (source / "person-00" / "3.png").read_bytes()
    (source / "person-00" / "3.png").write_bytes(b"")
    for number in range(2):
        summary = run(source, target, rank=Rank(number, 2))
    assert summary.outcomes == Counter(aligned=59, unreadable=1)
    (source / "person-00" / "3.png").write_bytes(whole)
    detector = MarkedDetector()
    for number in range(2):
        run(source, target, detector, rank=Rank(number, 2))
    assert sum(detector.calls) == 1
    assert Counter(record.outcome for record in read_report(target).values()) == Counter(aligned=60)


def test_one_process_and_ranks_cannot_work_in_one_target(tmp_path: Path) -> None:
    settings = {"size": 112}
    with open_report(tmp_path, settings, redo=False, rank=Rank(1, 2)):
        with open_report(tmp_path, settings, redo=False, rank=Rank(0, 2)):
            pass
        for rank, message in {Rank(): "in use by another `frtrain align`", Rank(1, 3): "process with RANK=1"}.items():
            with pytest.raises(DataError, match=message), open_report(tmp_path, settings, redo=False, rank=rank):
                pass
    with (
        open_report(tmp_path, settings, redo=False),
        pytest.raises(DataError, match="in use"),
        open_report(tmp_path, settings, redo=False, rank=Rank(1, 2)),
    ):
        pass


def test_rank_that_waits_for_the_end_can_be_stopped(tmp_path: Path) -> None:
    stop = StopRequest()
    stop.signal = signal.SIGTERM
    with finishing(tmp_path), pytest.raises(StoppedError, match="another rank is finishing"), finishing(tmp_path, stop):
        pass


def test_ranks_cannot_redo(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="redo=true"):
        run(write_many(tmp_path / "source", 1, 1), tmp_path / "target", redo=True, rank=Rank(0, 2))


def test_without_file_locks_the_end_is_left_to_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = write_many(tmp_path / "source", 2, 3), tmp_path / "target"
    with monkeypatch.context() as patched:
        patched.setattr(session, "is_certain", lambda descriptor: False)
        for number in range(2):
            assert run(source, target, rank=Rank(number, 2)).left_to_others is not None
    assert len(list(target.glob("align.rank*"))) == 2
    assert run(source, target).earlier == 6
    assert not list(target.glob("align.rank*"))


def test_killed_worker_of_a_rank_stops_no_other_rank(tmp_path: Path) -> None:
    source, target = write_many(tmp_path / "source"), tmp_path / "target"
    with pytest.raises(FrtrainError, match="SIGKILL"):
        run(source, target, LethalDetector(number=0), workers=2, rank=Rank(0, 2))
    run(source, target, rank=Rank(1, 2))
    assert run(source, target, rank=Rank(0, 2)).outcomes == Counter(aligned=60)
