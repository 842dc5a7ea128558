"""torch.compile for the backbone, and whether it works at all: fewer passes over memory, for a minute of compilation at the start."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import torch
from torch import nn

from frtrain.errors import ConfigError


def compiled(backbone: nn.Module) -> nn.Module:
    """The backbone as a compiler makes it faster; the same weights, which keep their names in `backbone` itself.

    Compiled once, for the shape of the training batch, when the first one comes. Whoever evaluates calls `backbone`.
    """
    return cast(nn.Module, torch.compile(backbone, dynamic=False))


@lru_cache
def check_compiler(device_type: str, key: str) -> None:
    """See that torch.compile works on this machine: on CPUs it needs a C++ compiler, on GPUs Triton and a C compiler.

    Args:
        device_type: that is compiled for.
        key: who asks for it.

    Raises:
        ConfigError: it does not, with its reason.
    """
    try:
        function = torch.compile(lambda values: (values * 2 + 1).relu().sum(), dynamic=False)
        function(torch.ones(64, device=device_type))
    except Exception as error:  # whatever the compiler's stack raises, the user has to know before training
        reason = str(error).strip().splitlines()
        raise ConfigError(
            f"{key}=true: torch.compile does not work here ({type(error).__name__}: {reason[0] if reason else ''}); "
            f"{'install a C++ compiler (g++)' if device_type == 'cpu' else 'install Triton and a C compiler (gcc)'}, or use "
            f"{key}=false"
        ) from None
    finally:
        torch.compiler.reset()
