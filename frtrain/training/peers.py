"""Noticing that another process of the run was lost, and saying which.

A process that fails says why. One that is killed, by SIGKILL or by the system for want of memory, cannot, and its peers see no
more than a closed connection, or on GPUs nothing at all. So each process announces where it lives, and leaves a note when it
goes. A thread of each process looks at its peers on the same machine: one that is gone without a note was lost. The lowest rank
that is left says so, even while its main thread waits in a collective, and torchrun's SIGTERM with it.

torchrun itself may be killed, too. Nobody would then start again or end what it has started, so the run stops in order.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from frtrain.data.loader import end_workers
from frtrain.errors import EndedElsewhereError
from frtrain.processes import Processes
from frtrain.training.board import Board
from frtrain.training.hardware import this_machine

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
"""Between two looks at the processes of this machine."""

LISTEN_LOOKS = 4
"""Looks between two readings of what other machines have found."""

VERDICT_SECONDS = 2.0
"""In which a loss on any machine is found and told after a connection has closed."""

UNWIND_SECONDS = 20.0
"""For the main thread to end by itself after a loss; torchrun kills it after 30 s."""

STORE_SECONDS = 10.0


@dataclass(frozen=True)
class Place:
    """Where a process lives.

    Attributes:
        machine: one start of one operating system, and one space of process numbers in it.
        host: its name.
        pid: number of the process there.
        began: when it began, in the system's ticks, for another process may get its number; None: not known.
    """

    machine: str
    host: str
    pid: int
    began: int | None

    @classmethod
    def of_this_process(cls) -> Place:
        """That of this process."""
        host = socket.gethostname()
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            machine = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
        except OSError:
            machine = host
        return cls(machine, host, os.getpid(), _began(os.getpid()))

    @property
    def empty(self) -> bool:
        """Whether the process, which must be one of this machine, has ended."""
        if self.began is not None:
            return _began(self.pid) != self.began
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False


def _began(pid: int) -> int | None:
    """When a process began, in ticks since the machine did; None for one that has ended, and where there is no /proc."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] in "ZX" else int(after_name[19])


@dataclass(frozen=True)
class Lost:
    """A process that ended without a note.

    Attributes:
        rank: of the process.
        place: where it was.
        silent: whether it is known that it left no note; the notes may be lost with it.
    """

    rank: int
    place: Place
    silent: bool = True


class Peers:
    """Within this context the loss of another process is told by the lowest rank that is left, and ends this one.

    An `EndedElsewhereError` that comes of it leaves the context as `SystemExit`: all is said. The loss of torchrun sends this
    process a SIGTERM.

    Args:
        processes: of the run.
        tell: says what is lost, once; called in a thread.
        abandon: cleans up where the main thread does not end by itself; called in a thread, before `end`.
        end: what then ends the process; does not return, but in tests.
    """

    def __init__(
        self,
        processes: Processes,
        tell: Callable[[Sequence[Lost]], None],
        abandon: Callable[[], None],
        end: Callable[[int], None] = os._exit,
    ):
        self.rank, self.count = processes.rank, processes.count
        self.lost: list[Lost] = []
        self._tell, self._abandon, self._end = tell, abandon, end
        self._places: dict[int, Place] = {}
        self._over, self._settled = threading.Event(), threading.Event()
        self._board: Board | None = None
        self._notes_lost = False
        self._left: set[int] = set()
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    def __enter__(self) -> Peers:
        if self.count > 1:
            self._board = Board.of_the_group(STORE_SECONDS)
            self._board.pin(f"place/{self.rank}", json.dumps(asdict(Place.of_this_process())))
        if self.count > 1 or self._launcher is not None:
            threading.Thread(target=self._watch, name="peers", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended: SystemExit | None = None
        if self._board is not None and isinstance(error, EndedElsewhereError | SystemExit):
            ended = self._await_verdict()
        self._over.set()
        if self._board is not None and not self._notes_lost:
            try:
                self._board.pin(f"left/{self.rank}", "yes")
            except RuntimeError as unreachable:
                log.debug("the others cannot be told that this process leaves: %s", unreachable)
        if self.lost and isinstance(error, EndedElsewhereError):
            raise SystemExit(error.exit_code) from None
        if ended is not None:
            raise ended from None

    def _await_verdict(self) -> SystemExit | None:
        """Wait until it is known whether somebody was lost; returns how torchrun ends this process meanwhile, if it does."""
        ended: SystemExit | None = None
        deadline = time.monotonic() + VERDICT_SECONDS
        while not self._settled.is_set() and (left := deadline - time.monotonic()) > 0:
            try:
                self._settled.wait(left)
            except SystemExit as end:
                log.debug("torchrun ends this process; why is found out first")
                ended = end
        return ended

    def _watch(self) -> None:
        looks = 0
        while not self._over.wait(LOOK_SECONDS):
            looks += 1
            if self._launcher is not None and os.getppid() != self._launcher:
                self._stop_without_launcher()
                return
            if self._board is None:
                continue
            self._look(self._board, listen=looks % LISTEN_LOOKS == 0)
            if self.lost:
                self._settled.set()
                if not self._over.wait(UNWIND_SECONDS):
                    self._give_up()
                return

    def _stop_without_launcher(self) -> None:
        self._settled.set()  # whatever else comes of it, this is why
        if this_machine().local_rank == 0:
            log.error("torchrun (process %s), which started this run, was lost: the run stops", self._launcher)
        os.kill(os.getpid(), signal.SIGTERM)  # Python's handler runs in the main thread

    def _look(self, board: Board, listen: bool) -> None:
        """Find out who has gone, here or, by what is said there, on other machines; and tell it if that is for this process."""
        everyone = range(self.count)
        if len(self._places) < self.count:
            self._places |= {
                rank: Place(**json.loads(note)) for rank, note in self._notes(board, "place", everyone).items()
            }
            if len(self._places) < self.count:
                return
        machine = self._places[self.rank].machine
        gone = [rank for rank in everyone if self._places[rank].machine == machine and self._places[rank].empty]
        if gone:
            self._left |= self._notes(board, "left", gone).keys()
            lost = [rank for rank in gone if rank not in self._left]
            if lost:
                self._note(board, "lost", json.dumps(lost))
                self._take(board, lost)
            else:
                self._settled.set()  # they have told by themselves what happened
        elif listen:
            for note in self._notes(board, "lost", [0]).values():
                self._take(board, json.loads(note))

    def _take(self, board: Board, lost: list[int]) -> None:
        self._left |= self._notes(board, "left", range(self.count)).keys()
        found = [Lost(rank, self._places[rank], silent=not self._notes_lost) for rank in lost]
        if self.rank == min(rank for rank in range(self.count) if rank not in self._left and rank not in lost):
            self._tell(found)
        self.lost = found

    def _notes(self, board: Board, kind: str, ranks: Iterable[int]) -> dict[int, str]:
        """The notes of a kind that there are, by the rank in their name; none where the store has gone with its host."""
        if self._notes_lost:
            return {}
        try:
            notes = board.read(f"{kind}/{rank}" for rank in ranks)
        except RuntimeError as unreachable:
            self._lose_notes(unreachable)
            return {}
        return {int(name.partition("/")[2]): note for name, note in notes.items()}

    def _note(self, board: Board, kind: str, note: str) -> None:
        try:
            board.pin(f"{kind}/0", note)
        except RuntimeError as unreachable:
            self._lose_notes(unreachable)

    def _lose_notes(self, unreachable: RuntimeError) -> None:
        if not self._notes_lost:
            log.debug("notes of other processes can be read no more: %s", unreachable)
        self._notes_lost = True

    def _give_up(self) -> None:
        log.debug("the main thread has not ended within %.0f s after the loss of a process", UNWIND_SECONDS)
        try:
            self._abandon()
            end_workers()
        finally:
            self._end(EndedElsewhereError.exit_code)


def loss_told(lost: Sequence[Lost], count: int, what_next: str) -> str:
    """What a person is told of lost processes.

    Args:
        lost: which ones.
        count: of all processes.
        what_next: where the run stands, and how it goes on.
    """
    names = " and ".join(f"rank {one.rank} of {count} (process {one.place.pid} on {one.place.host})" for one in lost)
    was, it = ("was", "it") if len(lost) == 1 else ("were", "they")
    if not all(one.silent for one in lost):
        return (
            f"{names} {was} lost, and the way to learn why, too; last words, if there were any, are above. {what_next}"
        )
    return (
        f"{names} {was} lost: {it} ended without a word, as a process does that is killed (SIGKILL) or that the system ends for "
        f"want of memory (`dmesg` tells). {what_next}"
    )
