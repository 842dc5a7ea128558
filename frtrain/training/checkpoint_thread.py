"""Writing checkpoints while training goes on.

Each process copies what it has to write to main memory, which is all that training waits for, and a thread writes the copy. The
thread talks to nobody. Whether all are done is asked at the end of a step, by all processes, and then process 0 completes the
checkpoint. One write is under way at most.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frtrain.errors import CheckpointError, EndedElsewhereError, FrtrainError
from frtrain.processes import Processes
from frtrain.training.checkpoint_writing import Content, complete, discard, is_written, write_own_files
from frtrain.training.distributed import all_or_none
from frtrain.training.shards import Piece, own_duty

log = logging.getLogger(__name__)

LEAST_PATIENCE_SECONDS = 10.0
"""That process 0 waits for the files of others when the run has failed."""


@dataclass(frozen=True)
class Written:
    """A checkpoint that is complete.

    Attributes:
        folder: its place.
        state: `TrainingState` of it, as a dict.
        stall_seconds: that training has stood still for it.
        write_seconds: from the first byte to the last, of this process.
        bytes: of the tensors that this process wrote.
    """

    folder: Path
    state: dict[str, Any]
    stall_seconds: float
    write_seconds: float
    bytes: int


class Snapshot:
    """A copy of a run's tensors in main memory. Its buffers are used again, so only the first one allocates."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str], Tensor] = {}

    def of(self, content: Content, processes: Processes) -> Content:
        """The same content, with copies of what this process writes. Waits for the device."""
        duty = own_duty(content.pieces, processes)
        pieces = {part: dict(named) for part, named in content.pieces.items()}
        devices = set()
        for part, named in duty.items():
            for name, piece in named.items():
                pieces[part][name] = replace(piece, tensor=self._copy((part, name), piece))
                devices.add(piece.tensor.device)
        for device in devices:
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
        return replace(content, pieces=pieces)

    def _copy(self, key: tuple[str, str], piece: Piece) -> Tensor:
        tensor, buffer = piece.tensor, self._buffers.get(key)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            # In the layout that it has, so that the copy is a plain one.
            buffer = torch.empty_like(tensor, device="cpu", pin_memory=tensor.device.type == "cuda")
            self._buffers[key] = buffer
        return buffer.copy_(tensor, non_blocking=True)


class Writing:
    """One checkpoint on its way to the disk, as far as this process writes it.

    Args:
        folder: its place.
        content: of the checkpoint; not to be changed until `finished`.
        processes: who write together.

    Attributes:
        error: what went wrong, once `finished`.
        asked: whether the others were asked for theirs.
        seconds: it took.
        stall_seconds: that training has stood still for it so far.
        bytes: of the tensors that this process writes.
    """

    def __init__(self, folder: Path, content: Content, processes: Processes):
        self.folder, self.content, self._processes = folder, content, processes
        self.error: Exception | None = None
        self.asked = False
        self.seconds = 0.0
        self.stall_seconds = 0.0
        duty = own_duty(content.pieces, processes)
        self.bytes = sum(piece.bytes for named in duty.values() for piece in named.values())
        # A daemon: a second Ctrl-C ends the process at once, and the next start removes what is half-written.
        self._thread = threading.Thread(target=self._write, name="checkpoint", daemon=True)

    def start(self, background: bool) -> None:
        """Write, in a thread or here and now."""
        if background:
            self._thread.start()
        else:
            self._write()

    @property
    def finished(self) -> bool:
        """Whether this process is done, be it with an error."""
        return not self._thread.is_alive()

    def join(self) -> None:
        """Wait until it is."""
        if self._thread.ident is not None:
            self._thread.join()

    def _write(self) -> None:
        began = time.perf_counter()
        try:
            write_own_files(self.folder, self.content, self._processes)
        except Exception as error:  # told when all processes are done, in the main thread
            self.error = error
        self.seconds = time.perf_counter() - began


class CheckpointWriter:
    """Writes checkpoints, one after the other. All processes must call its methods at the same steps.

    Args:
        processes: who write together.
        background: whether training goes on meanwhile.
    """

    def __init__(self, processes: Processes, background: bool):
        self._processes = processes
        self._background = background
        self._snapshot = Snapshot()
        self._writing: Writing | None = None

    def begin(self, folder: Path, content: Content) -> Written | None:
        """Begin a checkpoint; returns the one before if it was still under way.

        Raises:
            FrtrainError: the one before could not be written.
        """
        began = time.perf_counter()
        before = self.wait()
        if self._background:
            content = self._snapshot.of(content, self._processes)
        self._writing = Writing(folder, content, self._processes)
        self._writing.start(self._background)
        self._writing.stall_seconds = time.perf_counter() - began
        return before

    @property
    def pending(self) -> bool:
        """Whether a checkpoint is under way; the same on all processes."""
        return self._writing is not None

    def completed(self) -> Written | None:
        """Complete the checkpoint under way if all processes have done their part. Costs a small collective while one is.

        Raises:
            FrtrainError: it could not be written; nothing of it is left.
        """
        if self._writing is None:
            return None
        unfinished = torch.tensor(int(not self._writing.finished))
        return None if int(self._processes.maximum(unfinished)) else self.wait()

    def wait(self) -> Written | None:
        """Wait for the checkpoint under way, if there is one, and complete it.

        Raises:
            FrtrainError: it could not be written; nothing of it is left.
        """
        writing = self._writing
        if writing is None:
            return None
        began = time.perf_counter()
        writing.join()
        writing.asked = True
        try:
            with all_or_none(self._processes):
                if writing.error is not None:
                    raise writing.error
            with all_or_none(self._processes):
                if self._processes.rank == 0:
                    complete(writing.folder, writing.content, self._processes.count)
        except EndedElsewhereError:
            raise  # another process may have written its files nevertheless: see `rescue`
        except Exception:
            self._give_up()
            raise
        self._writing = None
        return self._written(writing, time.perf_counter() - began)

    def rescue(self) -> Written | None:
        """The run has failed, maybe in this process alone: bring the checkpoint under way to an end without asking the others.

        Process 0 completes it if the files of all come in time, else it removes what there is.
        """
        writing = self._writing
        if writing is None:
            return None
        writing.join()
        if self._processes.rank > 0:
            self._writing = None
            return None
        # Where the others were asked before, they have written what they will.
        patience = 0.0 if writing.asked else max(LEAST_PATIENCE_SECONDS, writing.seconds)
        deadline = time.monotonic() + patience
        while (missing := self._missing(writing.folder)) and time.monotonic() < deadline:
            time.sleep(0.05)
        try:
            if writing.error is not None:
                raise writing.error
            if missing:
                raise CheckpointError(f"process {', '.join(map(str, missing))} has not written its part")
            complete(writing.folder, writing.content, self._processes.count)
        except FrtrainError as error:
            log.warning("%s is given up: %s", writing.folder.name, error)
            self._give_up()
            return None
        self._writing = None
        return self._written(writing, 0.0)

    def _missing(self, folder: Path) -> list[int]:
        return [rank for rank in range(self._processes.count) if not is_written(folder, rank)]

    def _give_up(self) -> None:
        if self._writing is not None and self._processes.rank == 0:
            discard(self._writing.folder)
        self._writing = None

    def _written(self, writing: Writing, waited_seconds: float) -> Written:
        written = Written(
            writing.folder,
            writing.content.facts.state,
            writing.stall_seconds + waited_seconds,
            writing.seconds,
            writing.bytes,
        )
        log.debug(
            "%s written: training stood still for %.0f ms; %.1f MB in %.2f s, %.0f MB/s",
            writing.folder.name,
            written.stall_seconds * 1e3,
            written.bytes / 1e6,
            written.write_seconds,
            written.bytes / 1e6 / max(written.write_seconds, 1e-9),
        )
        return written
