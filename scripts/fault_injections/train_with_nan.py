"""`python -m frtrain` with a number that is none: once, in the step and on the rank that are given.

    python scripts/fault_injections/train_with_nan.py gradient 7 0 loss=arcface ...

KIND is `input` (the crops of the batch), `weight` (the first weight of the backbone, for good) or `gradient` (of the backbone's
last parameter). The trainer itself knows nothing of it: hooks are put on the network that it has built.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import torch
from torch import nn

from frtrain.commands.application import run_verb

KINDS = ("input", "weight", "gradient")


def spoil(backbone: nn.Module, kind: str, step: int) -> None:
    """Register the hooks; steps are counted from 1 and are the forward passes in training mode."""
    passes = [0]

    def before(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        if not module.training:
            return None
        passes[0] += 1
        if passes[0] != step or kind == "gradient":
            return None
        if kind == "input":
            return (inputs[0] * torch.nan, *inputs[1:])
        with torch.no_grad():
            next(module.parameters()).view(-1)[0] = torch.nan
        return None

    def of_gradient(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * torch.nan if passes[0] == step else gradient

    backbone.register_forward_pre_hook(before)
    if kind == "gradient":
        list(backbone.parameters())[-1].register_hook(of_gradient)


def main() -> None:
    kind, step, rank = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if kind not in KINDS:
        raise SystemExit(f"{kind}: known are {', '.join(KINDS)}")
    command: Any = import_module("frtrain.commands.train")
    loop = command.train

    def spoiled(run: Any, *rest: Any) -> None:
        if os.environ.get("RANK", "0") == rank:
            spoil(run.backbone, kind, step)
        loop(run, *rest)

    command.train = spoiled
    sys.exit(run_verb(sys.argv[4:]))


if __name__ == "__main__":
    main()
