"""Who averages the backbone's gradients over the processes, and how: DistributedDataParallel, or FSDP2."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook, fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from frtrain.config import TrainerConfig
from frtrain.errors import ConfigError

Hook = Callable[[Any, Any], torch.futures.Future[torch.Tensor]]

COMPRESSIONS: dict[str, Hook] = {"bf16": bf16_compress_hook, "fp16": fp16_compress_hook}
"""Gradients are divided by the number of processes, rounded, summed in that type, and widened again."""


def check_parallel(trainer: TrainerConfig) -> None:
    """Refuse what torch cannot do.

    Args:
        trainer: the configuration.

    Raises:
        ConfigError: names the keys.
    """
    if trainer.static_graph and trainer.accumulate > 1:
        raise ConfigError(
            f"trainer.static_graph=true: torch's DistributedDataParallel then cannot leave gradients unaveraged, as "
            f"trainer.accumulate={trainer.accumulate} asks for; use one of the two"
        )
    if trainer.parallel == "fsdp":
        if trainer.compile:
            raise ConfigError(
                "trainer.compile=true: torch compiles no network that trainer.parallel=fsdp gathers piece by piece; use "
                "trainer.compile=false or trainer.parallel=ddp"
            )
        for key, off in (("static_graph", False), ("gradient_compression", "none")):
            if (value := getattr(trainer, key)) != off:
                shown = str(value).lower()
                raise ConfigError(
                    f"trainer.{key}={shown}: is an option of trainer.parallel=ddp, FSDP has no such thing; use "
                    f"trainer.{key}={str(off).lower()}"
                )


def check_shares(batch_size: int, count: int) -> None:
    """See that a batch has two images for each process.

    Raises:
        ConfigError: it has not.
    """
    if batch_size < 2 * count:
        raise ConfigError(
            f"trainer.batch_size={batch_size}: is shared by {count} processes, and batch norm needs two images in each; use "
            f"{2 * count} or more, or fewer processes"
        )


def is_divided(network: nn.Module) -> bool:
    """Whether it is a network of `fully_sharded`, told without importing FSDP2, which takes a second."""
    return hasattr(network, "set_requires_gradient_sync")


def averaging(network: nn.Module, trainer: TrainerConfig) -> nn.Module:
    """What trains `network` together with the other processes; they must all come here at the same time.

    A network of `fully_sharded` averages by itself. Any other is wrapped: its gradients are averaged over the processes while
    backward goes on, in buckets that the gradients are views of, and its buffers (batch norm's statistics) are made those of
    process 0 before each forward pass.
    """
    if trainer.parallel == "fsdp":
        return network
    wrapped = DistributedDataParallel(network, gradient_as_bucket_view=True, static_graph=trainer.static_graph)
    if trainer.gradient_compression != "none":
        wrapped.register_comm_hook(None, COMPRESSIONS[trainer.gradient_compression])
    return wrapped


def accumulating(network: nn.Module, backbone: nn.Module, last: bool) -> AbstractContextManager[None]:
    """A context for the forward pass: its gradients are averaged if it is the `last` one of a step, else left where they are.

    Args:
        network: what is called.
        backbone: what is trained in it.
        last: whether the next backward pass completes a step.
    """
    if is_divided(backbone):
        backbone.set_requires_gradient_sync(last)  # type: ignore[operator]
    elif isinstance(network, DistributedDataParallel) and not last:
        return network.no_sync()
    return nullcontext()
