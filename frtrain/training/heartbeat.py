"""Noticing that a run stands still, saying which process stopped it, and ending it so that it can be started again.

Every process has a thread that looks at how long ago the loop asked for a batch or got one. A process that waits for
another in a collective stands still as long as that one, so each watches itself alone. One that cannot watch itself (it was
stopped, or its machine is gone) is missed by process 0, which it no longer gives a sign of life; process 0 is missed by all.
Who notices tells the others by a board that needs no collective. Then all write the stacks of their threads to their log
and tell where they stand, one of them says so to the person, and all end at once: their main threads are stuck.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from frtrain.communication import COMMUNICATION
from frtrain.data.loader import end_workers
from frtrain.errors import TrainingError
from frtrain.training.board import Board
from frtrain.training.run import Run
from frtrain.training.stacks import PlaceFinder, all_stacks
from frtrain.training.stopwatch import Stopwatch

log = logging.getLogger(__name__)

LONGEST_INTERVAL_SECONDS = 10.0
"""Between two looks."""

LAST_WORDS_SECONDS = 20.0
"""For stacks, logs and the exchange with the others; then the process ends, whatever became of them."""

ALARM = "alarm"
TOLD = "told"


@dataclass(frozen=True)
class Standing:
    """Where a process stands.

    Attributes:
        rank: of the process.
        step: optimizer steps done.
        beats: batches that its loop has asked for and got, counted together.
        idle_seconds: since the last of them.
        line: of the loop.
        collective: whether it waits in a collective.
        paused: what it does on purpose, e.g. `validation`; empty: nothing.
        text: where it is, in words.
    """

    rank: int
    step: int
    beats: int
    idle_seconds: float
    line: int
    collective: bool
    paused: str
    text: str

    def told(self) -> str:
        """A line for a person."""
        what = "waits for others in a collective, " if self.collective else ""
        what += f"in a pause for {self.paused}, " if self.paused else ""
        return f"rank {self.rank}: after step {self.step}, no batch for {self.idle_seconds:.0f} s; {what}{self.text}"


class Heartbeat:
    """Within this context a loop that stands still for too long ends the process; a `Pulse` for the loop's stopwatch.

    Args:
        rank: of this process.
        count: of processes.
        limit_seconds: without a new batch, pauses not counted.
        finder: of the loop in its thread.
        step: optimizer steps done so far.
        board: of all processes; None for one alone.
        end: what ends the process, given its exit status; does not return, but in tests.
    """

    def __init__(
        self,
        rank: int,
        count: int,
        limit_seconds: float,
        finder: PlaceFinder,
        step: Callable[[], int],
        board: Board | None = None,
        end: Callable[[int], None] = os._exit,
    ):
        self.rank, self.count, self.limit = rank, count, limit_seconds
        self.finder, self.step, self.board, self.end = finder, step, board, end
        self.interval = min(LONGEST_INTERVAL_SECONDS, limit_seconds / 5)
        self._beats = 0
        self._beat_at = time.monotonic()
        self._paused = ""
        self._alarm = ""
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def beat(self) -> None:
        """The loop asks for a batch, or has got it."""
        self._beats += 1
        self._beat_at = time.monotonic()

    def hold(self, what: str) -> None:
        """From here on the loop stands still on purpose."""
        self._paused = what

    def release(self) -> None:
        """It goes on."""
        self._beat_at = time.monotonic()
        self._paused = ""

    def __enter__(self) -> Heartbeat:
        self._beat_at = time.monotonic()
        tasks = [self._watch] if self.board is None else [self._watch, self._talk]
        self._threads = [threading.Thread(target=task, name="heartbeat", daemon=True) for task in tasks]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=1.0)  # one that waits for a store which does not answer ends with the process

    def _watch(self) -> None:
        """Look at this process, by memory alone, so that nothing can keep the thread from looking again."""
        while not self._alarm:
            asleep = time.monotonic()
            if self._over.wait(self.interval):
                return
            lost = time.monotonic() - asleep - self.interval
            if lost > self.interval:  # the whole process was stopped, or its machine suspended: no fault of the loop
                self._beat_at += lost
            if not self._paused and time.monotonic() - self._beat_at > self.limit:
                self._alarm = f"rank {self.rank} has seen no batch for {time.monotonic() - self._beat_at:.0f} s"
        self._end()

    def _talk(self) -> None:
        """Give signs of life, miss those of others, hear alarms."""
        assert self.board is not None
        watched = [rank for rank in range(self.count) if rank != self.rank] if self.rank == 0 else [0]
        seen: dict[str, tuple[str, float]] = {}
        sign = 0
        while not self._over.wait(self.interval):
            asleep = time.monotonic()
            sign += 1
            try:
                self.board.pin(f"sign/{self.rank}", f"{sign} {self._paused}".rstrip())
                notes = self.board.read([ALARM, *(f"sign/{rank}" for rank in watched)])
            except RuntimeError as error:  # the loop will meet the same error, or the watch will end it
                log.debug("the heartbeat cannot reach the others any more: %s", error)
                return
            self._alarm = self._alarm or notes.pop(ALARM, "")
            now = time.monotonic()
            if any(" " in note for note in notes.values()):
                self._beat_at = now  # another one pauses, and this one may have to wait for it
            if now - asleep > self.interval:
                seen.clear()  # this process was stopped itself, and perhaps all were
            for name, note in notes.items():
                if name not in seen or seen[name][0] != note:
                    seen[name] = (note, now)
                elif now - seen[name][1] > self.limit and not self._over.is_set():
                    self._alarm = self._alarm or f"rank {name.partition('/')[2]} gives no sign of life"

    def standing(self) -> Standing:
        """Where this process stands."""
        place = self.finder.place()
        return Standing(
            rank=self.rank,
            step=self.step(),
            beats=self._beats,
            idle_seconds=time.monotonic() - self._beat_at,
            line=place.line,
            collective=COMMUNICATION.inside,
            paused=self._paused,
            text=place.text,
        )

    def _end(self) -> None:
        """Leave stacks, tell, and end the process."""
        last_resort = threading.Timer(LAST_WORDS_SECONDS, self.end, [TrainingError.exit_code])
        last_resort.daemon = True
        last_resort.start()
        try:
            own = self.standing()
            stacks = all_stacks()
            # To the log file of this process: the screen is for one report.
            log.debug("the run hangs (%s); stacks of all threads:\n%s", self._alarm, stacks)
            found = self._exchanged(own)
            if self.rank == min(found):
                log.error("%s", report(self._alarm, found, self.count))
                self._quickly(lambda board: board.pin(TOLD, "yes"))
            elif self.board is not None:
                self._quickly(lambda board: _wait_for(board, [TOLD], self._patience))
            for handler in logging.getLogger("frtrain").handlers:
                handler.flush()
            end_workers()
        finally:
            last_resort.cancel()
            self.end(TrainingError.exit_code)

    @property
    def _patience(self) -> float:
        """Seconds in which every process that can has heard an alarm and answered."""
        return min(LAST_WORDS_SECONDS / 3, 3 * self.interval + 1)

    def _exchanged(self, own: Standing) -> dict[int, Standing]:
        """Where the processes stand, of those that answer in time."""
        found = {own.rank: own}
        names = [f"standing/{rank}" for rank in range(self.count)]

        def exchange(board: Board) -> None:
            board.pin(ALARM, self._alarm)
            board.pin(names[self.rank], json.dumps(asdict(own)))
            for note in _wait_for(board, names, self._patience).values():
                standing = Standing(**json.loads(note))
                found[standing.rank] = standing

        self._quickly(exchange)
        return dict(sorted(found.items()))

    def _quickly(self, task: Callable[[Board], object]) -> None:
        """Talk to the others in a thread that can be left behind."""
        board = self.board
        if board is None:
            return

        def talk() -> None:
            with contextlib.suppress(RuntimeError):
                task(board)

        thread = threading.Thread(target=talk, name="last words", daemon=True)
        thread.start()
        thread.join(timeout=self._patience + 1)


def watched_for_hangs(
    run: Run, stopwatch: Stopwatch, loop: Callable[..., Any]
) -> contextlib.AbstractContextManager[object]:
    """Within this context the run is ended if `loop`, which `stopwatch` measures, stands still for too long."""
    limit_seconds = 60 * (run.config.trainer.hang_after_minutes or 0)
    if not limit_seconds:
        return contextlib.nullcontext()
    heartbeat = Heartbeat(
        rank=run.processes.rank,
        count=run.processes.count,
        limit_seconds=limit_seconds,
        finder=PlaceFinder(loop),
        step=lambda: run.state.step,
        board=Board.of_the_group(limit_seconds) if run.processes.count > 1 else None,
    )
    stopwatch.pulse = heartbeat
    return heartbeat


def report(alarm: str, found: dict[int, Standing], count: int) -> str:
    """What a person is told of a run that hangs: who stopped it, and where each process stands.

    Args:
        alarm: what was noticed first.
        found: where the processes stand that could still tell, by rank.
        count: of all processes.
    """
    silent = [rank for rank in range(count) if rank not in found]
    guilty = silent or _furthest_behind(list(found.values()))
    if count == 1:
        told = "it stands still"
    elif len(guilty) == count:
        told = "all ranks stand at the same place"
    else:
        told = f"rank {', '.join(map(str, guilty))} {'does' if len(guilty) == 1 else 'do'} not go on, the others wait"
    lines = [found[rank].told() if rank in found else f"rank {rank}: does not answer" for rank in range(count)]
    return "\n  ".join(
        [
            f"the run hangs: {told} ({alarm}). It is ended (trainer.hang_after_minutes); checkpoints are as they were, and "
            "the stacks of all threads are in the logs of the run folder",
            *lines,
        ]
    )


def _furthest_behind(standings: list[Standing]) -> list[int]:
    """The ranks for which the others wait: they all run the same loop, and one that waits has gone as far as it can."""
    active = [standing for standing in standings if not standing.collective] or standings
    last = min((standing.beats, standing.line) for standing in active)
    return [standing.rank for standing in active if (standing.beats, standing.line) == last]


def _wait_for(board: Board, names: list[str], seconds: float) -> dict[str, str]:
    deadline = time.monotonic() + seconds
    notes = board.read(names)
    while len(notes) < len(names) and time.monotonic() < deadline:
        time.sleep(0.05)
        notes = board.read(names)
    return notes
