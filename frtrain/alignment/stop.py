"""Stopping between two photographs when the user or the system asks for it."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from frtrain.errors import FrtrainError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(FrtrainError):
    """The work was stopped by a signal, and can go on. The exit code is the shell's: 128 + signal number."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(f"stopped by {signal.Signals(signal_number).name}: {message}")
        self.exit_code = 128 + signal_number


class StopRequest:
    """Within this context SIGINT and SIGTERM only leave a note; a second signal acts as it always does.

    Outside the main thread, where Python takes no signals, it never holds a note.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, signal_number: int, frame: FrameType | None) -> None:
        self.signal_number = signal_number
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)  # type: ignore[arg-type]
