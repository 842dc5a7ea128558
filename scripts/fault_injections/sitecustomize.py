"""Faults inside the process, chosen by environment variables; Python imports this file first where it is on PYTHONPATH.

    FRTRAIN_FAULT_FOLDER   of the run: only what happens to files in it counts
    FRTRAIN_FAULT_EVENTS   file that gets a line for each such event: what there is to be killed at
    FRTRAIN_FAULT_KILL     "KIND:N": SIGKILL right before the N-th event of this kind: open, rename, remove, mkdir, symlink
    FRTRAIN_FAULT_CLOCK    "AFTER:JUMP,...": so many seconds after the start the wall clock jumps by so many

Events are what Python's audit hooks report: `open` for writing, `os.rename` (and replace), `os.remove`, ... They need no
knowledge of the trainer.
"""

import os
import signal
import sys
import time

_KINDS = {
    "open": "open",
    "os.rename": "rename",
    "os.remove": "remove",
    "os.rmdir": "remove",
    "os.mkdir": "mkdir",
    "os.symlink": "symlink",
}


def _watch_files(folder: str) -> None:
    kind_to_kill, _, number = os.environ.get("FRTRAIN_FAULT_KILL", ":0").partition(":")
    record = os.environ.get("FRTRAIN_FAULT_EVENTS")
    left = [int(number)]
    owner = os.getpid()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        kind = _KINDS.get(event)
        if kind is None or os.getpid() != owner:
            return
        if kind == "open" and not (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
            return
        paths = [os.fsdecode(item) for item in arguments if isinstance(item, (str, bytes, os.PathLike))]
        inside = [path for path in paths if path.startswith(folder)]
        if not inside and not (kind == "remove" and arguments[1:] and arguments[-1] != -1):
            return  # rmtree removes by file descriptor, with bare names
        if record:
            descriptor = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(descriptor, f"{kind} {' '.join(paths)}\n".encode())
            os.close(descriptor)
        if kind == kind_to_kill:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _move_clock(jumps: str) -> None:
    began = time.monotonic()
    plan = [tuple(map(float, jump.split(":"))) for jump in jumps.split(",")]
    true_time = time.time

    def moved() -> float:
        elapsed = time.monotonic() - began
        return true_time() + sum(jump for after, jump in plan if elapsed >= after)

    time.time = moved
    time.time_ns = lambda: int(moved() * 1e9)


if os.environ.get("FRTRAIN_FAULT_FOLDER") and os.environ.get("RANK", "0") == os.environ.get("FRTRAIN_FAULT_RANK", "0"):
    _watch_files(os.environ["FRTRAIN_FAULT_FOLDER"])
if os.environ.get("FRTRAIN_FAULT_CLOCK"):
    _move_clock(os.environ["FRTRAIN_FAULT_CLOCK"])
