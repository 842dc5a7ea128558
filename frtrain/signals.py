"""Stop requests: Ctrl-C and a scheduler's preemption end the work after the step or photograph in hand."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from frtrain.errors import FrtrainError

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Ctrl-C, a scheduler's or the system's request, a closed terminal, a scheduler's early warning."""


class StoppedError(FrtrainError):
    """The work was stopped by a signal, and can go on. The exit code is the shell's 128 + signal number unless given."""

    everywhere = True

    def __init__(self, signal_number: int, message: str, exit_code: int | None = None):
        super().__init__(f"by {signal.Signals(signal_number).name}: {message}")
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number if exit_code is None else exit_code


class StopRequest:
    """Within this context the first stop signal leaves a note; a second one acts as it always does.

    Outside the main thread, where Python takes no signals, it never holds a note.

    Args:
        echo_seconds: what comes so soon after the first is the same request on another way (a scheduler tells torchrun
            and its processes, and torchrun tells them again).

    Attributes:
        signal: the one that came, or None.
    """

    def __init__(self, echo_seconds: float = 0.0) -> None:
        self.signal: signal.Signals | None = None
        self._echo_seconds = echo_seconds
        self._noted_at: float | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a stop signal has arrived."""
        return self.signal is not None

    @property
    def exit_status(self) -> int:
        """130 after Ctrl-C; 0 after a scheduler's signal, which asked for an orderly end and got it."""
        return 130 if self.signal == signal.SIGINT else 0

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._noted_at is None:
            self.signal, self._noted_at = signal.Signals(number), now
            if not self._echo_seconds:
                self._restore()
        elif now - self._noted_at > self._echo_seconds:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)


@contextmanager
def orderly_end() -> Iterator[None]:
    """Within this context SIGTERM and SIGHUP end the process by SystemExit, so that what is half-done is cleaned up."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
