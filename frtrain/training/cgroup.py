"""What a container or a batch system lets this process use, which may be less than the machine has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """The tightest limits of this process's control groups (Linux cgroups, version 1 and 2); None: no limit.

    Attributes:
        cores: processor time per second, in cores; may be fractional.
        memory_bytes: memory above which the process is killed.
    """

    cores: float | None
    memory_bytes: int | None


def read_limits(root: Path = Path("/")) -> Limits:
    """Read the limits below `root` (another one than `/` is for tests). Where there are no cgroups, there is no limit."""
    cores = [*_cores_v2(root), *_cores_v1(root)]
    memory = [
        *_numbers(_files(root, "", "memory.max")),
        *_numbers(_files(root, "memory", "memory.limit_in_bytes")),
    ]
    return Limits(min(cores, default=None), min((value for value in memory if value < 1 << 60), default=None))


def _cores_v2(root: Path) -> Iterator[float]:
    for path in _files(root, "", "cpu.max"):
        quota, _, period = path.read_text().strip().partition(" ")
        if quota.isdigit() and period.isdigit():
            yield int(quota) / int(period)


def _cores_v1(root: Path) -> Iterator[float]:
    for path in _files(root, "cpu", "cpu.cfs_quota_us"):
        for quota in _numbers([path]):
            for period in _numbers([path.with_name("cpu.cfs_period_us")]):
                yield quota / period


def _files(root: Path, controller: str, name: str) -> list[Path]:
    """The file `name` of this process's group and of all its ancestors, where they exist."""
    group = _group(root, controller)
    if group is None:
        return []
    # A container may see the group's path on the host while only the group itself is mounted: hence the ancestors.
    folders = (root / "sys/fs/cgroup" / controller / part for part in (group, *group.parents))
    return [folder / name for folder in folders if (folder / name).is_file()]


def _group(root: Path, controller: str) -> Path | None:
    """This process's path in the hierarchy of a version 1 `controller`, or of version 2 for an empty name."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controller in controllers.split(","):
            return Path(group.lstrip("/"))
    return None


def _numbers(paths: list[Path]) -> Iterator[int]:
    """The files' contents where they are a positive number: "max", -1 and missing files mean no limit."""
    for path in paths:
        text = path.read_text().strip() if path.is_file() else ""
        if text.isdigit() and int(text) > 0:
            yield int(text)
