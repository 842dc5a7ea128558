"""Where numbers go, on disks that are full and in folders that are gone; and a destination of one's own."""

from __future__ import annotations

import csv
import errno
import importlib.util
import json
import logging
import re
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from frtrain.errors import ConfigError
from frtrain.training.console import LogFile, log_of_rank
from frtrain.training.logbook import LOGGERS, Logbook, Logger
from frtrain.training.loggers.json_lines import JsonLines
from frtrain.training.loggers.tensorboard import TensorBoard
from frtrain.training.run_folder import RunFolder

SmallRun = Callable[..., tuple[int, RunFolder]]
PAGE = Path(__file__).parents[2] / "docs" / "watching.md"


class Refusing(Logger):
    """Fails in the given calls."""

    def __init__(self, *bad: int):
        self.bad, self.calls = bad, 0

    def scalars(self, step: int, epoch: float, values: Any) -> None:
        self.calls += 1
        if self.calls in self.bad:
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_logger_that_fails_is_told_once_and_tried_again(caplog: pytest.LogCaptureFixture):
    failing, other = Refusing(2, 3, 4), Refusing()
    book = Logbook([failing, other])
    with caplog.at_level(logging.INFO, logger="frtrain"):
        for step in range(6):
            book.scalars(step, 0.0, {})
    assert (failing.calls, other.calls) == (6, 6)
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
    assert len(told) == 2
    assert told[0].startswith("Refusing fails, training goes on and it is tried again: OSError: [Errno 28]")
    assert told[1] == "Refusing works again"


def test_a_logger_that_fails_and_works_by_turns_is_told_once_and_a_flush_proves_nothing(
    caplog: pytest.LogCaptureFixture,
):
    book = Logbook([Refusing(1, 2, 4, 6)])
    with caplog.at_level(logging.INFO, logger="frtrain"):
        for step in range(7):
            book.scalars(step, 0.0, {})
            book.flush()
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
    assert [text.partition(",")[0] for text in told] == ["Refusing fails", "Refusing works again"]


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let the disk be full for a file, as /dev/full is, by a link to it in the file's place."""

    def fill(path: Path) -> None:
        path.rename(path.with_suffix(".kept"))
        path.symlink_to("/dev/full")

    return fill


def test_numbers_that_found_no_room_are_written_when_there_is_some(tmp_path: Path, full: Callable[[Path], None]):
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path, 0)
    book = Logbook([lines])
    book.scalars(1, 0.1, {"train/loss": 1.0})
    full(path)
    book.scalars(2, 0.2, {"train/loss": 2.0})
    book.scalars(3, 0.3, {"train/loss": 3.0})
    path.with_suffix(".kept").rename(path)
    book.scalars(4, 0.4, {"train/loss": 4.0})
    book.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_a_removed_run_folder_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = tmp_path / "run"
    folder.mkdir()
    book = Logbook([JsonLines(folder / "metrics.jsonl", 0), TensorBoard(folder / "tensorboard", 0)])
    file = LogFile(folder / "train.log")
    logger = logging.getLogger("frtrain")
    logger.addHandler(file)
    try:
        book.scalars(1, 0.1, {"train/loss": 1.0})
        shutil.rmtree(folder)
        book.scalars(2, 0.2, {"train/loss": 2.0})
        logger.warning("still here")
        book.close()
    finally:
        logger.removeHandler(file)
        file.close()
    assert json.loads((folder / "metrics.jsonl").read_text())["step"] == 2
    assert "still here" in (folder / "train.log").read_text()
    assert "train.log was removed while the run is writing to it; it begins anew" in caplog.text
    assert curve(folder / "tensorboard", "train/loss") == [(2, 2.0)]


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_a_run_that_begins_again_without_a_checkpoint_leaves_no_event_twice(tmp_path: Path):
    for value in (1.0, 2.0):
        events = TensorBoard(tmp_path, 0)
        for step in (1, 2):
            events.scalars(step, 0.0, {"train/loss": value})
        events.close()
    assert curve(tmp_path, "train/loss") == [(1, 2.0), (2, 2.0)]


def test_a_log_file_on_a_full_disk_is_told_once_on_the_screen(caplog: pytest.LogCaptureFixture):
    logger, file = logging.getLogger("frtrain"), LogFile(Path("/dev/full"))
    logger.addHandler(file)
    try:
        for _ in range(3):
            logger.warning("a line")
    finally:
        logger.removeHandler(file)
        file.close()
    told = [record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("/dev/full cannot be written, the run goes on without: [Errno 28]")


def test_other_ranks_have_a_log_with_everything_and_tracebacks(tmp_path: Path):
    assert log_of_rank(tmp_path, 0) == []
    (handler,) = log_of_rank(tmp_path, 3)
    logger = logging.getLogger("frtrain")
    logger.setLevel(logging.DEBUG)
    try:
        logger.debug("a small thing")
        raise KeyError("lost")
    except KeyError:
        logger.debug("an error that nobody expected", exc_info=True)
    finally:
        logger.removeHandler(handler)
        handler.close()
    text = (tmp_path / "logs" / "rank-3.log").read_text()
    assert "a small thing" in text
    assert "Traceback (most recent call last)" in text
    assert "KeyError: 'lost'" in text


def test_the_log_of_another_rank_does_not_bring_back_a_run_folder_that_process_0_has_removed(tmp_path: Path):
    folder = tmp_path / "run"
    (handler,) = log_of_rank(folder, 1)
    logger = logging.getLogger("frtrain")
    try:
        shutil.rmtree(folder)
        logger.warning("into the void")
        assert not folder.exists()
        folder.mkdir()
        logger.warning("still here")
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert "still here" in (folder / "logs" / "rank-1.log").read_text()


def test_an_error_that_nobody_expected_leaves_its_traceback_in_the_log(
    small_run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("frtrain.training.observers.scalars.Scalars.after_step", broken)
    with pytest.raises(ZeroDivisionError):
        small_run("run")
    assert "ZeroDivisionError: a bug" in (tmp_path / "run" / "train.log").read_text()


def test_numbers_go_to_a_table_as_well(small_run: SmallRun):
    _, folder = small_run("run", "log.loggers=[csv]", "trainer.max_steps=3", "checkpoint.every_steps=1")
    small_run("run", "log.loggers=[csv]", "trainer.max_steps=4")
    with (folder.path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["tag"] == "train/loss"] == [1, 2, 3, 4]
    losses = [json.loads(line)["train/loss"] for line in folder.metrics.read_text().splitlines()]
    assert [float(row["value"]) for row in rows if row["tag"] == "train/loss"] == losses


@pytest.mark.parametrize(
    ("loggers", "message"),
    [
        ("[cvs]", r"log\.loggers=cvs: unknown log\.loggers; did you mean 'csv'\?"),
        ("[{name: csv, path: x}]", r"log\.loggers\.path: unknown key"),
    ],
)
def test_a_logger_that_does_not_exist_is_refused_before_anything_is_built(
    small_run: SmallRun, loggers: str, message: str
):
    with pytest.raises(ConfigError, match=message):
        small_run("run", f"log.loggers={loggers}")


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    """The logger that docs/watching.md shows, imported as it stands there, before a service that takes notes."""
    notes: list[tuple[Any, ...]] = []
    service = types.ModuleType("wandb")
    service.init = lambda **settings: (
        notes.append(("init", settings))
        or types.SimpleNamespace(  # type: ignore[attr-defined]
            log=lambda values, step: notes.append(("log", step, values)), finish=lambda: notes.append(("finish",))
        )
    )
    service.Image = lambda figure: ("image", figure)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", service)
    (path, code) = re.findall(
        r"`(frtrain/training/loggers/\w+\.py)`:\n\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL
    )[0]
    file = tmp_path / Path(path).name
    file.write_text(code)
    spec = importlib.util.spec_from_file_location("frtrain_example_logger", file)
    assert spec is not None
    assert spec.loader is not None
    before = dict(LOGGERS._entries)
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        yield notes
    finally:
        LOGGERS._entries.clear()
        LOGGERS._entries.update(before)


def test_the_logger_of_the_page_logs_a_run(example: list[tuple[Any, ...]], small_run: SmallRun):
    status, folder = small_run("run", "log.loggers=[{name: wandb, project: faces}]", "trainer.max_steps=2")
    assert status == 0
    (_, settings), *logged, last = example
    assert settings["project"] == "faces"
    assert settings["config"]["trainer"]["batch_size"] == 8
    assert [note[1] for note in logged] == [1, 2]
    losses = [json.loads(line)["train/loss"] for line in folder.metrics.read_text().splitlines()]
    assert [note[2]["train/loss"] for note in logged] == losses
    assert last == ("finish",)


def test_a_run_whose_folder_is_removed_goes_on_and_leaves_its_last_checkpoint(
    small_run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, publish = tmp_path / "run", Logbook.scalars

    def remove_once(self: Logbook, step: int, epoch: float, values: Any) -> None:
        if step == 3:
            shutil.rmtree(folder)
        publish(self, step, epoch, values)

    monkeypatch.setattr(Logbook, "scalars", remove_once)
    status, run_folder = small_run("run", "checkpoint.every_steps=2", "checkpoint.background=false")
    assert status == 0
    assert run_folder.steps() == [4, 6]
    assert (folder / "checkpoints" / "last").resolve().name == "step-00000006"
    assert [json.loads(line)["step"] for line in run_folder.metrics.read_text().splitlines()] == [3, 4, 5, 6]
