"""Activation checkpointing: forget what lies within a block and compute it again in backward, for memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recompute_in_backward(blocks: Sequence[nn.Module]) -> None:
    """From now on keep of each block its input alone (Chen et al. 2016, arXiv 1604.06174).

    Costs about one more forward pass. Names, weights and results stay what they are: dropout drops the same again, and batch
    norm, which normalises by the same batch again, does not count it a second time. To be called before blocks are wrapped or
    compiled.

    Args:
        blocks: of a network, each changed in place.
    """
    for block in blocks:
        setattr(block, "forward", _Recomputed(block))  # noqa: B010 (a method, which mypy does not let be assigned)


class _Recomputed:
    """The forward pass of a block, which is done again when its gradient is asked for.

    Args:
        block: whose.
    """

    def __init__(self, block: nn.Module):
        self.block = block

    def __call__(self, *inputs: Any) -> Tensor:
        forward = type(self.block).forward
        result: Tensor
        if torch.compiler.is_compiling():  # the compiler itself chooses what it computes again, and moves buffers once
            result = checkpoint(forward, self.block, *inputs, use_reentrant=False)
        else:
            result = checkpoint(forward, self.block, *inputs, use_reentrant=False, context_fn=self._contexts)
        return result

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Around the first pass and around the second."""
        return nullcontext(), _buffers_spared(self.block)


@contextmanager
def _buffers_spared(block: nn.Module) -> Iterator[None]:
    """Within it the block reads and writes copies of its buffers, so that batch norm moves no running statistics again."""
    holders = [module for module in block.modules() if module._buffers]
    originals = [dict(module._buffers) for module in holders]
    for module in holders:
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.clone()
    try:
        yield
    finally:
        for module, buffers in zip(holders, originals, strict=True):
            module._buffers.update(buffers)
