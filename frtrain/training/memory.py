"""How much memory a process takes, asked of the system and of torch without waiting for a device."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

MIB = 2**20


def memory_mib(device: torch.device) -> dict[str, float]:
    """What this process takes and has taken at most, in MiB.

    Returns:
        `host` and `host_peak`: resident memory, pages of files that are mapped included, loader processes not; `device`: on
        a CUDA device what tensors took at most, without what torch keeps in reserve.
    """
    # ru_maxrss is in KiB, but on macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MIB
    found = {"host_peak": peak}
    now = _resident_bytes()
    if now is not None:
        found["host"] = now / MIB
        found["host_peak"] = max(peak, found["host"])
    if device.type == "cuda":
        found["device"] = torch.cuda.max_memory_allocated(device) / MIB
    return found


def _resident_bytes() -> int | None:
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return None  # no Linux
