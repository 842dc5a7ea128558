"""Several processes align: each decodes, cuts out and keeps the crops of its photographs, this one deals and collects.

    this process ── photographs, a few at a time ──▶ worker 1..N   (each its own detector, one thread)
                 ◀── records ──
    with a detector that all share (on a GPU), also
                 ◀── images ──   ── faces ──▶

A worker has one connection. What arrives on it is read by a thread of its own, so that neither side ever waits for the other
to read; when the connection ends, the process ends.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection, forkserver, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from frtrain.alignment.crops import CropMaker, CropSink, CropStyle
from frtrain.alignment.detector import Detector, Face
from frtrain.alignment.report import Record
from frtrain.alignment.work import DETECTOR_ERRORS, Assignment, DetectionError, LazyDetector, align_photographs
from frtrain.errors import FrtrainError
from frtrain.signals import STOP_SIGNALS

_POLL_SECONDS = 0.2
_NAMED_AT_MOST = 3


@dataclass(frozen=True)
class Job:
    """What a worker must know; everything in it can be pickled.

    Attributes:
        source: folder of the photographs.
        target: folder of the crops.
        style: of the crops.
        sink: makes what keeps them, given the target.
        build_detector: makes the detector; None: the images are sent to the one that all workers share.
        batch_size: photographs searched at once, at most.
    """

    source: Path
    target: Path
    style: CropStyle
    sink: Callable[[Path], CropSink]
    build_detector: Callable[[], Detector] | None
    batch_size: int


_Word = Literal["no more", "stop", "done"]


class _Images(NamedTuple):
    images: list[NDArray[np.uint8]]


class _Faces(NamedTuple):
    faces: list[list[Face]] | None
    failure: str


class _Failed(NamedTuple):
    error: FrtrainError | None
    trace: str


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    connection: Connection
    in_hand: dict[str, None] = field(default_factory=dict)
    """Photographs that were given to it and have no record yet."""
    told_the_end: bool = False

    def tell(self, message: list[Assignment] | _Faces | _Word) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it was killed, which is read next
            self.connection.send(message)


def align_in_processes(
    assignments: Sequence[Assignment],
    job: Job,
    workers: int,
    shared: Detector | None,
    stopped: Callable[[], bool],
) -> Iterator[Record]:
    """One record per photograph, in the order in which they are done; the crops are kept by then.

    Once `stopped`, each worker finishes the batch in hand.

    Args:
        assignments: the photographs.
        job: what the workers do.
        workers: how many.
        shared: the detector of all workers, where `job.build_detector` is None; called in this process.
        stopped: asked several times a second.

    Raises:
        FrtrainError: of a worker; or a worker was killed. The records of what the others had in hand came before.
    """
    context = get_context("forkserver")  # a plain fork would copy this process's threads' locks and open files
    context.set_forkserver_preload([__name__])
    _start_server()
    team: list[_Worker] = []
    try:
        for number in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, job), name=f"align-{number}", daemon=True)
            process.start()
            theirs.close()
            team.append(_Worker(process, ours))
        yield from _Dealer(assignments, team, job.batch_size, shared).records(stopped)
    finally:
        for worker in team:
            worker.connection.close()
            worker.process.kill()  # it has ended already, unless this is an error or a second Ctrl-C
            worker.process.join()


def _start_server() -> None:
    """Start what workers are forked from; a Ctrl-C while it imports torch is this process's business alone."""
    if threading.current_thread() is not threading.main_thread():
        forkserver.ensure_running()
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}  # what is ignored is inherited
    try:
        forkserver.ensure_running()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Dealer:
    def __init__(
        self, assignments: Sequence[Assignment], team: list[_Worker], batch_size: int, shared: Detector | None
    ):
        self._waiting = deque(assignments)
        self._at_work = list(team)
        self._workers = len(team)
        self._batch_size = batch_size
        self._shared = shared
        self._failure: FrtrainError | None = None

    def records(self, stopped: Callable[[], bool]) -> Iterator[Record]:
        stopping = False
        for worker in self._at_work:
            self._deal(worker)
        while self._at_work:
            if not stopping and (self._failure is not None or stopped()):
                stopping = True
                self._waiting.clear()
                for worker in self._at_work:
                    worker.told_the_end = True
                    worker.tell("stop")
            searches: list[tuple[_Worker, _Images]] = []
            ready = connection.wait([worker.connection for worker in self._at_work], _POLL_SECONDS)
            for worker in [worker for worker in self._at_work if worker.connection in ready]:
                message = self._receive(worker)
                if isinstance(message, Record):
                    worker.in_hand.pop(message.path, None)
                    yield message
                    self._deal(worker)
                elif isinstance(message, _Images):
                    searches.append((worker, message))
            if searches:
                self._search(searches)
        if self._failure is not None:
            raise self._failure

    def _deal(self, worker: _Worker) -> None:
        """See that the worker has enough for two batches, never more, and that all end at about the same time.

        What it has in hand is what a kill of this process can cost: its records may be on their way, not yet written.
        """
        while self._waiting and (room := 2 * self._batch_size - len(worker.in_hand)) > 0:
            count = max(1, min(room, self._batch_size, len(self._waiting) // self._workers))
            chunk = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
            worker.in_hand.update(dict.fromkeys(assignment.path for assignment in chunk))
            worker.tell(chunk)
        if not self._waiting and not worker.told_the_end:
            for each in self._at_work:
                each.told_the_end = True
                each.tell("no more")

    def _receive(self, worker: _Worker) -> Record | _Images | None:
        try:
            message = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            self._at_work.remove(worker)
            self._failure = self._failure or _killed(worker)
            return None
        if isinstance(message, _Failed):
            self._failure = self._failure or message.error or FrtrainError(f"a worker failed:\n{message.trace}")
        if message == "done":
            self._at_work.remove(worker)
        return message if isinstance(message, (Record, _Images)) else None

    def _search(self, searches: list[tuple[_Worker, _Images]]) -> None:
        """What several workers wait for is searched in one call."""
        assert self._shared is not None
        images = [image for _, request in searches for image in request.images]
        try:
            faces = self._shared.detect(images)
        except DETECTOR_ERRORS as error:
            if len(searches) > 1:
                for search in searches:
                    self._search([search])
            else:
                searches[0][0].tell(_Faces(None, f"{type(error).__name__}: {error}"))
            return
        start = 0
        for worker, request in searches:
            worker.tell(_Faces(faces[start : start + len(request.images)], ""))
            start += len(request.images)


def _killed(worker: _Worker) -> FrtrainError:
    code = worker.process.exitcode or 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    names = list(worker.in_hand)
    shown = ", ".join(names[:_NAMED_AT_MOST]) + (", ..." if len(names) > _NAMED_AT_MOST else "")
    cause = "most often because memory ran out; use fewer workers=... or a smaller batch_size=..." if code == -9 else ""
    return FrtrainError(
        f"a worker process {how}{', ' if cause else ''}{cause}. What is done is kept, and the same command goes on from "
        f"there; the worker had {len(names)} photographs in hand: {shown}"
    )


def _work(link: Connection, job: Job) -> None:
    """The life of a worker."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the dealer tells what to do
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    inbox = _Inbox(link)
    sink = job.sink(job.target)
    try:
        detector = _Remote(link, inbox) if job.build_detector is None else LazyDetector(job.build_detector)
        crops = CropMaker(sink, job.style)
        for record in align_photographs(
            inbox.assignments(), job.source, detector, crops, job.batch_size, inbox.stopped.is_set
        ):
            link.send(record)
        sink.close()
    except (BrokenPipeError, ConnectionResetError):
        os._exit(1)
    except Exception as error:
        link.send(_Failed(error if isinstance(error, FrtrainError) else None, traceback.format_exc()))
    link.send("done")


class _Inbox:
    """What arrives at a worker, read at once whatever the worker does."""

    def __init__(self, link: Connection):
        self.stopped = threading.Event()
        self.faces: queue.SimpleQueue[_Faces] = queue.SimpleQueue()
        self._link = link
        self._chunks: queue.SimpleQueue[list[Assignment] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def assignments(self) -> Iterator[Assignment]:
        while (chunk := self._chunks.get()) is not None:
            yield from chunk

    def _read(self) -> None:
        while True:
            try:
                message = self._link.recv()
            except (EOFError, OSError):
                os._exit(1)  # the dealer is gone: nobody would write a record of what this process does
            if isinstance(message, list):
                self._chunks.put(message)
            elif isinstance(message, _Faces):
                self.faces.put(message)
            else:
                if message == "stop":
                    self.stopped.set()
                self._chunks.put(None)


class _Remote:
    """The detector that all workers share, from a worker's side."""

    def __init__(self, link: Connection, inbox: _Inbox):
        self._link = link
        self._inbox = inbox

    def detect(self, images: list[NDArray[np.uint8]]) -> list[list[Face]]:
        """See `Detector.detect`.

        Raises:
            DetectionError: the detector failed.
        """
        self._link.send(_Images(images))
        answer = self._inbox.faces.get()
        if answer.faces is None:
            raise DetectionError(answer.failure)
        return answer.faces
