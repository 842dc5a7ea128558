"""Several processes align: real ones, real kills."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from marked_photographs import (
    FACE,
    FACELESS,
    FAILING,
    LethalDetector,
    LoggingDetector,
    MarkedDetector,
    SignalAfter,
    files,
    request,
    run,
    write,
    write_many,
)

from frtrain.alignment.pipeline import Request, Watcher, align
from frtrain.alignment.report import Record, read_report
from frtrain.errors import DataError, FrtrainError
from frtrain.signals import StoppedError

CONTEXT = multiprocessing.get_context("forkserver")


def start(wanted: Request) -> BaseProcess:
    CONTEXT.set_forkserver_preload(["frtrain.alignment.workers"])
    process = CONTEXT.Process(target=align, args=(wanted,))
    process.start()
    return process


def wait_for_lines(report: Path, count: int, process: BaseProcess) -> None:
    deadline = time.monotonic() + 60
    while not (report.exists() and report.read_bytes().count(b"\n") >= count):
        assert process.is_alive(), "it ended before"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def contents(target: Path) -> dict[str, bytes]:
    return {name: (target / name).read_bytes() for name in files(target) if name.endswith((".jpg", ".png"))}


@pytest.mark.parametrize("shared", [False, True])
def test_workers_make_the_same_crops_and_records_as_one_process(tmp_path: Path, shared: bool) -> None:
    source = write_many(tmp_path / "source")
    write(source, {"none.png": FACELESS, "odd.png": FAILING})
    (source / "bad.png").write_bytes(b"no image")
    alone = run(source, tmp_path / "alone")
    several = run(source, tmp_path / "several", MarkedDetector, workers=3, shared_detector=shared)
    assert several.outcomes == alone.outcomes == Counter(aligned=60, skipped=2, unreadable=1)
    assert contents(tmp_path / "several") == contents(tmp_path / "alone")
    assert read_report(tmp_path / "several") == read_report(tmp_path / "alone")


def test_each_worker_has_a_share_and_no_photograph_is_searched_twice(tmp_path: Path) -> None:
    source = write_many(tmp_path / "source")
    detector = LoggingDetector(tmp_path / "log", seconds=0.005)
    pids: set[int] = set()

    class Processes(Watcher):
        def advance(self, record: Record) -> None:
            pids.update(process.pid or 0 for process in multiprocessing.active_children())

    run(source, tmp_path / "target", detector, workers=2, watcher=Processes())
    assert sorted(detector.searched()) == list(range(60))
    assert len(pids) == 2
    assert not multiprocessing.active_children()


def test_detector_that_workers_share_stays_in_this_process(tmp_path: Path) -> None:
    detector = MarkedDetector()
    run(write_many(tmp_path / "source"), tmp_path / "target", detector, workers=2, shared_detector=True)
    assert sum(detector.calls) == 60


def test_killed_worker_is_a_clear_error_and_nothing_is_lost(tmp_path: Path) -> None:
    source = write_many(tmp_path / "source")
    with pytest.raises(FrtrainError, match=r"killed by SIGKILL, most often because memory ran out.* in hand: person-"):
        run(source, tmp_path / "target", LethalDetector(number=17), workers=2)
    done = read_report(tmp_path / "target")
    assert 17 not in [int(path[7:9]) * 10 + int(path[10]) for path in done]
    assert all((tmp_path / "target" / str(record.output)).is_file() for record in done.values())
    assert run(source, tmp_path / "target", MarkedDetector, workers=2).outcomes == Counter(aligned=60)


def test_error_of_a_worker_is_told_as_its_own(tmp_path: Path) -> None:
    source, target = write_many(tmp_path / "source"), tmp_path / "target"
    run(source, target, limit=1)
    (target / "person-03").write_text("no folder can be made here")
    with pytest.raises(DataError, match=f"target={target} cannot be written"):
        run(source, target, MarkedDetector, workers=2)
    (target / "person-03").unlink()
    assert run(source, target, MarkedDetector, workers=2).outcomes == Counter(aligned=60)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stop_signal_lets_workers_finish_what_they_have_in_hand(tmp_path: Path, number: int, status: int) -> None:
    source = write_many(tmp_path / "source")
    detector = LoggingDetector(tmp_path / "log", seconds=0.02)
    with pytest.raises(StoppedError, match=r"\d+ of 60 photographs are done; the same command goes on") as stopped:
        run(source, tmp_path / "target", detector, workers=2, watcher=SignalAfter(number, photographs=3))
    assert stopped.value.exit_code == status
    done = read_report(tmp_path / "target")
    assert 3 <= len(done) < 40
    assert len(detector.searched()) == len(done)
    assert run(source, tmp_path / "target", detector, workers=2).earlier == len(done)
    assert sorted(detector.searched()) == list(range(60))


@pytest.mark.slow
@pytest.mark.parametrize("to", ["folder", "webdataset"])
def test_sigkill_costs_at_most_two_batches_of_each_worker(tmp_path: Path, to: str) -> None:
    source, target = write_many(tmp_path / "source"), tmp_path / "target"
    detector = LoggingDetector(tmp_path / "log", seconds=0.08)
    wanted = request(source, target, detector, workers=2, to=to)
    process = start(wanted)
    wait_for_lines(target / "align.jsonl", 10, process)
    process.kill()
    process.join()
    searched = -1
    while searched != (searched := len(detector.searched())):  # the workers notice, and end
        time.sleep(1)
    before = read_report(target)
    assert searched < 60
    summary = align(wanted)
    assert summary.earlier == len(before) >= 10
    assert summary.outcomes == Counter(aligned=60)
    searches = Counter(detector.searched())
    assert set(searches) == set(range(60))
    assert searches.total() - 60 <= wanted.workers * 2 * wanted.batch_size
    assert max(searches.values()) <= 2


def test_few_photographs_need_no_workers(tmp_path: Path) -> None:
    source = write(tmp_path / "source", dict.fromkeys(["a.png", "b.png", "c.png"], FACE))
    detector = MarkedDetector()
    run(source, tmp_path / "target", detector, workers=8)
    assert detector.calls == [3]
