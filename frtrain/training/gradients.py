"""What the gradients of a step amount to: norms, whether they are finite, and where they are not. Nothing here waits for the device."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from frtrain.processes import Processes

FINITE = -1.0
"""The `first_bad` of a step that is sound."""

THE_LOSS = 0
"""The `first_bad` of a step whose loss is not finite; 1 + i: the i-th gradient; 1 + their number: the norm of all together."""

EVERYWHERE = -1
"""In place of a rank."""


@dataclass(frozen=True)
class Measured:
    """Gradients and losses of a step, the same on all processes. Scalars on the device.

    Attributes:
        norm: of all gradients together.
        norms: by module.
        finite: whether norm and losses are finite everywhere.
        first_bad: see `THE_LOSS`; `FINITE` where `finite`.
        rank: of the process that has the first bad one; `EVERYWHERE` if all have it, as what is averaged.
    """

    norm: Tensor
    norms: dict[str, Tensor]
    finite: Tensor
    first_bad: Tensor
    rank: Tensor


def local_part(tensor: Tensor) -> Tensor:
    """The rows that this process has of a tensor that is divided by torch (FSDP), in the same memory; others as they are."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # a DTensor, whose import takes half a second


@torch.no_grad()
def measure(
    gradients: Mapping[str, Tensor], losses: Sequence[Tensor], divided: Collection[str], processes: Processes
) -> Measured:
    """Measure the gradients of a step; all processes must call it, and reckon with the same numbers to the last bit.

    Args:
        gradients: by full name, `<module>.<parameter>`.
        losses: that they are of.
        divided: names of which each process has rows of its own.
        processes: who trains together.
    """
    names, none = list(gradients), losses[0].new_zeros(())
    norms = dict(zip(names, _norms(list(gradients.values()), processes), strict=True))
    common = _together([norms[name] for name in names if name not in divided], none)
    own = _together([norms[name] for name in names if name in divided], none)
    bad = ~torch.isfinite(torch.stack([torch.stack(list(losses)).sum(), *norms.values()]))
    numbers = torch.arange(len(bad), device=bad.device, dtype=none.dtype)
    first = torch.where(bad, numbers, len(bad)).amin()
    if processes.count == 1:
        norm, rank = _together(list(norms.values()), none), none
        finite = torch.isfinite(torch.stack([*losses, norm.to(none)])).all()
        everyones_own = own[None]
    else:
        mine = torch.stack([value.to(none) for value in (*losses, common, own, first)])
        everyones = processes.stack(mine)
        norm = torch.linalg.vector_norm(torch.cat([everyones[0, -3:-2], everyones[:, -2]]))
        finite = torch.isfinite(everyones[:, :-1]).all() & torch.isfinite(norm)
        firsts = everyones[:, -1]
        first = firsts.amin()
        rank = torch.where((firsts == first).all(), EVERYWHERE, firsts.argmin())
        everyones_own = everyones[:, -2]

    def of_module(module: str) -> Tensor:
        own_names = [name for name in names if name.startswith(f"{module}.")]
        parts = [norms[name][None] for name in own_names if name not in divided]
        if any(name in divided for name in own_names):
            parts.append(everyones_own)
        return torch.linalg.vector_norm(torch.cat(parts))

    modules = dict.fromkeys(name.partition(".")[0] for name in names)
    return Measured(
        norm=norm,
        norms={module: of_module(module) for module in modules},
        finite=finite,
        first_bad=torch.where(finite, FINITE, first),
        rank=rank,
    )


def clip(gradients: Sequence[Tensor], norm: Tensor, longest: float) -> None:
    """Scale gradients down, in place, so that their joint norm, which is `norm`, becomes at most `longest`."""
    if longest != float("inf") and gradients:
        torch._foreach_mul_(list(gradients), (longest / (norm + 1e-6)).clamp(max=1.0))


def _norms(gradients: list[Tensor], processes: Processes) -> list[Tensor]:
    """The norm of each gradient; of those that torch divides among the processes, over all of them."""
    parts = [local_part(gradient) for gradient in gradients]
    on_cpu = all(part.device.type == "cpu" for part in parts)
    norms = [torch.linalg.vector_norm(part) for part in parts] if on_cpu else list(torch._foreach_norm(parts))
    spread = [number for number, gradient in enumerate(gradients) if hasattr(gradient, "to_local")]
    if spread:
        squares = processes.sum(torch.stack([norms[number] for number in spread]).square())
        for number, square in zip(spread, squares.sqrt().unbind(), strict=True):
            norms[number] = square
    return norms


def _together(norms: list[Tensor], none: Tensor) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else none
