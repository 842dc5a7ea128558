"""What the machine has, and what follows from it: device, precision, memory layout, loader workers, threads.

The only place that decides these. A run and `frtrain doctor` ask the same functions, and each answer says why.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Generic, Literal, TypeVar

import torch

from frtrain.errors import ConfigError
from frtrain.training.cgroup import read_limits

T = TypeVar("T")

Precision = Literal["auto", "fp32", "bf16", "fp16", "fp64"]

MAX_GPU_WORKERS = 8
"""Loader processes per GPU: at about 11 000 JPEG crops a second each, more would only take memory."""

CORES_PER_CPU_WORKER = 8
"""Training takes all cores of a CPU for far longer than decoding: one loader process for so many cores is enough."""


@dataclass(frozen=True)
class Choice(Generic[T]):
    """A decision and, in one line, its reason."""

    value: T
    reason: str


@dataclass(frozen=True)
class Gpu:
    """One CUDA (or ROCm) device.

    Attributes:
        name: as the driver gives it.
        memory_bytes: all of it, free or not.
        capability: e.g. (8, 0).
        native_bf16: whether its matrix units compute in bfloat16.
    """

    name: str
    memory_bytes: int
    capability: tuple[int, int]
    native_bf16: bool


@dataclass(frozen=True)
class Hardware:
    """The machine as this process sees it.

    Attributes:
        cpu: model name.
        cpu_flags: instruction set extensions (Linux; empty elsewhere).
        cores_present: logical cores of the machine.
        cores_usable: those that this process may use by its affinity mask and the CPU limit of its container.
        memory_bytes: physical memory.
        memory_limit_bytes: limit of the container, if any.
        gpus: visible CUDA devices.
        mps: whether Apple's GPU is available.
        local_rank: number of this process on this machine (torchrun's LOCAL_RANK).
        local_ranks: processes of this run on this machine (torchrun's LOCAL_WORLD_SIZE).
    """

    cpu: str
    cpu_flags: frozenset[str]
    cores_present: int
    cores_usable: int
    memory_bytes: int
    memory_limit_bytes: int | None
    gpus: tuple[Gpu, ...]
    mps: bool
    local_rank: int
    local_ranks: int

    @property
    def amx_bf16(self) -> bool:
        """Whether the CPU has matrix units for bfloat16 (Intel Xeon from 2023 on)."""
        return {"amx_tile", "amx_bf16"} <= self.cpu_flags

    @property
    def avx512_bf16(self) -> bool:
        """Whether the CPU has vector instructions for bfloat16."""
        return "avx512_bf16" in self.cpu_flags


@lru_cache(maxsize=1)
def this_machine() -> Hardware:
    """Look at the machine; the answer is kept for the life of the process."""
    return inspect_machine(os.environ)


def inspect_machine(environment: Mapping[str, str], root: Path = Path("/")) -> Hardware:
    """Look at the machine. `environment` gives torchrun's variables; `root` holds proc/ and sys/."""
    cpu, flags = _cpu(root)
    limits = read_limits(root)
    present = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else present
    return Hardware(
        cpu=cpu,
        cpu_flags=flags,
        cores_present=present,
        cores_usable=min(usable, max(1, math.ceil(limits.cores))) if limits.cores else usable,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        memory_limit_bytes=limits.memory_bytes,
        gpus=tuple(_gpu(index) for index in range(torch.cuda.device_count())) if torch.cuda.is_available() else (),
        mps=torch.backends.mps.is_available(),
        local_rank=int(environment.get("LOCAL_RANK", "0")),
        local_ranks=int(environment.get("LOCAL_WORLD_SIZE", "1")),
    )


def _cpu(root: Path) -> tuple[str, frozenset[str]]:
    try:
        lines = (root / "proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", facts.get("Features", ""))
    return facts.get("model name", platform.machine()), frozenset(flags.split())


def _gpu(index: int) -> Gpu:
    properties = torch.cuda.get_device_properties(index)
    native = torch.version.hip is not None or properties.major >= 8
    return Gpu(properties.name, properties.total_memory, (properties.major, properties.minor), native)


def choose_device(name: str, machine: Hardware | None = None) -> Choice[torch.device]:
    """The device that `device=name` means for this process.

    Args:
        name: `auto`, `cpu`, `mps`, `cuda` (the GPU of this process's local rank) or `cuda:N`.

    Raises:
        ConfigError: the name is unknown, or the machine has no such device.
    """
    machine = machine or this_machine()
    if name == "auto":
        if machine.gpus:
            return choose_device("cuda", machine)
        aside = "; device=mps is here on request, but not tested" if machine.mps else ""
        return Choice(torch.device("cpu"), f"no CUDA device{aside}")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdigit())):
        raise ConfigError(f"device={name}: unknown device (known: auto, cpu, cuda, cuda:N, mps)")
    if kind == "cpu":
        return Choice(torch.device("cpu"), "as configured")
    if kind == "mps":
        if not machine.mps:
            raise ConfigError("device=mps: this machine or this build of torch has no Apple GPU; use device=auto")
        return Choice(torch.device("mps"), "as configured; not tested")
    return _choose_gpu(name, int(index) if index else None, machine)


def _choose_gpu(name: str, index: int | None, machine: Hardware) -> Choice[torch.device]:
    count = len(machine.gpus)
    if not count:
        why = "torch is built without CUDA" if not torch.backends.cuda.is_built() else "torch sees no CUDA device"
        raise ConfigError(f"device={name}: {why}; use device=auto, or look with `python -m frtrain doctor`")
    if index is not None and machine.local_ranks > 1:
        raise ConfigError(f"device={name}: {machine.local_ranks} processes would share one GPU; use device=cuda")
    number = machine.local_rank if index is None else index
    if number >= count:
        needed = f"process {number} of {machine.local_ranks}" if index is None else name
        raise ConfigError(
            f"device={name}: there is no GPU for {needed}; torch sees {count} (cuda:0 to cuda:{count - 1})"
        )
    return Choice(torch.device("cuda", number), f"{machine.gpus[number].name}")


def choose_precision(
    name: Precision, device: torch.device, machine: Hardware | None = None
) -> Choice[torch.dtype | None]:
    """What the backbone computes in: a dtype, or None for plain float32; what it means is `frtrain.training.precision`.

    `auto` takes bfloat16 where the hardware computes fast in it. On a CPU that means AMX, or AVX512_BF16 of AMD: measured
    with IResNets (docs/performance.md), training in bfloat16 is then 2 to 3 times as fast; on Intel with AVX512_BF16 alone it
    is no faster than float32 in the channels-last layout, and without either it is 2 to 6 times slower.
    """
    machine = machine or this_machine()
    bf16, fp32 = torch.bfloat16, None
    native, unit = _bf16(device, machine)
    if name == "fp32":
        return Choice(fp32, "as configured")
    if name == "fp16":
        return Choice(torch.float16, "as configured; the loss is scaled")
    if name == "fp64":
        return Choice(torch.float64, "as configured; for proofs, it is slow")
    if name == "bf16":
        return Choice(bf16, f"as configured ({unit})")
    return Choice(bf16 if native else fp32, unit)


def _bf16(device: torch.device, machine: Hardware) -> tuple[bool, str]:
    """Whether bfloat16 is worth it on the device, and why."""
    if device.type == "cuda":
        gpu = machine.gpus[device.index or 0]
        here = f"{gpu.name}, compute capability {gpu.capability[0]}.{gpu.capability[1]}"
        return gpu.native_bf16, f"{here}: {'native' if gpu.native_bf16 else 'no native'} bfloat16"
    if device.type == "mps":
        return False, "bfloat16 is not tested on mps"
    if machine.amx_bf16:
        return True, "the CPU has AMX units for bfloat16"
    if machine.avx512_bf16 and "AMD" in machine.cpu:
        return True, "the CPU computes in bfloat16 (AVX512_BF16 of AMD)"
    if machine.avx512_bf16:
        return False, "the CPU has AVX512_BF16 but no AMX: bfloat16 gains nothing over float32"
    return False, "the CPU has no bfloat16 instructions: it would be slower than float32"


def choose_channels_last(
    name: Literal["auto"] | bool, device: torch.device, machine: Hardware | None = None
) -> Choice[bool]:
    """Whether images and convolution weights lie in memory as NHWC (`torch.channels_last`)."""
    machine = machine or this_machine()
    if name != "auto":
        return Choice(name, "as configured")
    if device.type == "cpu":
        return Choice(True, "convolutions on a CPU are faster in it")
    if device.type == "cuda" and machine.gpus[device.index or 0].native_bf16:
        return Choice(True, "the layout of tensor cores")
    return Choice(False, "no tensor cores that need it")


def choose_workers(
    requested: Literal["auto"] | int, device: torch.device, machine: Hardware | None = None
) -> Choice[int]:
    """Processes that decode and augment images for this rank; 0: the training process does it itself."""
    machine = machine or this_machine()
    if requested != "auto":
        return Choice(requested, "as configured")
    cores = _cores_of_a_rank(machine)
    if device.type == "cpu":
        return Choice(cores // CORES_PER_CPU_WORKER, f"training takes the {cores} cores, decoding little of them")
    return Choice(max(1, min(MAX_GPU_WORKERS, cores - 1)), f"{cores} cores per GPU")


def choose_threads(
    workers: int, machine: Hardware | None = None, environment: Mapping[str, str] = os.environ
) -> Choice[int]:
    """Threads of torch's CPU operations in this rank, for `torch.set_num_threads`.

    torch itself counts the cores of the machine, not those of the container, and torchrun sets one thread per rank.
    """
    machine = machine or this_machine()
    if machine.local_ranks == 1 and environment.get("OMP_NUM_THREADS", "").isdigit():
        return Choice(int(environment["OMP_NUM_THREADS"]), "OMP_NUM_THREADS")
    cores = _cores_of_a_rank(machine)
    ranks = f" of {machine.local_ranks} ranks" if machine.local_ranks > 1 else ""
    return Choice(max(1, cores - workers), f"{cores} usable cores{ranks}, {workers} for loader workers")


def _cores_of_a_rank(machine: Hardware) -> int:
    return max(1, machine.cores_usable // machine.local_ranks)
