"""GPUs that people train on, and the machine at hand, as far as a plan needs to know them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from frtrain.errors import ConfigError
from frtrain.schema import nearest
from frtrain.training.hardware import Gpu, Hardware, this_machine

GIB = 2**30


@dataclass(frozen=True)
class Target:
    """What a process computes on.

    Attributes:
        name: for people.
        kind: a CUDA (or ROCm) device, or a CPU.
        memory_bytes: that a program sees; of a CPU, the memory of the machine.
        teraflops: dense, in bfloat16 (float16 where the GPU has no bfloat16), as its maker states it; None: not known.
        native_bf16: whether it computes in bfloat16; None: `frtrain.training.hardware` decides, of the machine at hand.
    """

    name: str
    kind: Literal["cuda", "cpu"]
    memory_bytes: int
    teraflops: float | None
    native_bf16: bool | None

    @property
    def machine(self) -> Hardware:
        """The machine, with this GPU in it, for the choices that `frtrain.training.hardware` makes."""
        here = this_machine()
        if self.native_bf16 is None:
            return here
        capability = (8, 0) if self.native_bf16 else (7, 0)
        return replace(here, gpus=(Gpu(self.name, self.memory_bytes, capability, self.native_bf16),))

    @property
    def device(self) -> torch.device:
        """As torch calls it."""
        return torch.device("cuda", 0) if self.kind == "cuda" else torch.device("cpu")


def _gpu(name: str, memory_gib: float, teraflops: float, native_bf16: bool = True) -> Target:
    return Target(name, "cuda", round(memory_gib * GIB), teraflops, native_bf16)


GPUS: dict[str, Target] = {
    "v100-16g": _gpu("NVIDIA V100 16 GB", 15.8, 125, native_bf16=False),
    "v100-32g": _gpu("NVIDIA V100 32 GB", 31.7, 125, native_bf16=False),
    "t4": _gpu("NVIDIA T4", 14.6, 65, native_bf16=False),
    "rtx2080ti": _gpu("NVIDIA RTX 2080 Ti", 10.7, 54, native_bf16=False),
    "rtx3080": _gpu("NVIDIA RTX 3080", 9.8, 59),
    "rtx3090": _gpu("NVIDIA RTX 3090", 23.6, 71),
    "rtx4090": _gpu("NVIDIA RTX 4090", 23.5, 165),
    "rtx5090": _gpu("NVIDIA RTX 5090", 31.4, 209),
    "a10": _gpu("NVIDIA A10", 22.1, 125),
    "a30": _gpu("NVIDIA A30", 23.5, 165),
    "a40": _gpu("NVIDIA A40", 44.4, 150),
    "a6000": _gpu("NVIDIA RTX A6000", 47.4, 155),
    "l4": _gpu("NVIDIA L4", 22.0, 121),
    "l40s": _gpu("NVIDIA L40S", 44.4, 362),
    "a100-40g": _gpu("NVIDIA A100 40 GB", 39.4, 312),
    "a100-80g": _gpu("NVIDIA A100 80 GB", 79.1, 312),
    "h100": _gpu("NVIDIA H100 80 GB (SXM)", 79.1, 989),
    "h200": _gpu("NVIDIA H200", 139.8, 989),
    "b200": _gpu("NVIDIA B200", 178.0, 2250),
    "mi250x": _gpu("AMD MI250X (one of its two dies)", 63.9, 191),
    "mi300x": _gpu("AMD MI300X", 191.5, 1307),
}
"""By the name that `gpu=` takes. Memory: about what a program sees, a little less than is printed on the box. Speed: dense bfloat16
(float16 of the first four) with float32 sums, from the makers' data sheets."""


def target_of(name: str, memory_gib: float | None = None, processes_here: int = 1) -> Target:
    """The target that `gpu=name` means.

    Args:
        name: of `GPUS`, or `this`: the GPU that torch sees, or else the memory of this machine, shared by
        processes_here: processes on one machine.
        memory_gib: in place of what the table says; of one GPU, or of one process on a CPU.

    Raises:
        ConfigError: an unknown name; suggests the nearest.
    """
    key = name.lower().replace("_", "-").replace(" ", "")
    if key == "this":
        target = _this(processes_here)
    elif key in GPUS:
        target = GPUS[key]
    else:
        sizes = [f"'{known}'" for known in GPUS if known.startswith(f"{key}-")]
        meant = f"; did you mean {' or '.join(sizes)}?" if sizes else nearest(key, [*GPUS, "this"])
        raise ConfigError(f"gpu={name}: unknown GPU{meant} (known: this, {', '.join(GPUS)})")
    return target if memory_gib is None else replace(target, memory_bytes=round(memory_gib * GIB))


def _this(processes_here: int) -> Target:
    machine = this_machine()
    if machine.gpus:
        gpu = machine.gpus[0]
        return Target(gpu.name, "cuda", gpu.memory_bytes, None, None)
    memory = min(machine.memory_bytes, machine.memory_limit_bytes or machine.memory_bytes)
    return Target(machine.cpu, "cpu", memory // processes_here, None, None)
