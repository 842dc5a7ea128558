"""FSDP2: a backbone of which each process keeps its rows of every weight, gradient and optimizer state.

A block's weights are gathered right before it computes, forward and backward, and dropped afterwards; its gradients are
averaged and each process keeps its own rows of the mean. (Zhao et al. 2023, "PyTorch FSDP", arXiv 2304.11277; torch calls the
version used here `fully_shard`.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from frtrain.backbones.base import Backbone
from frtrain.communication import COMMUNICATION
from frtrain.training.batch_norm import BatchNorm, SynchronisedBatchNorm


def fully_sharded(network: nn.Module, device: torch.device) -> nn.Module:
    """Divide every parameter of `network` by rows among all processes, one group of parameters for each block of a backbone.

    Nobody is talked to: the weights must be the same everywhere before. They stay in the network's own precision, autocast
    makes of them what it makes of those of DistributedDataParallel, so that both compute the same. Buffers stay whole;
    statistics of batch norm, where each process takes its own, follow those of process 0, as they do there. torch divides
    contiguous parameters only, so convolution weights leave the channels_last layout; images may keep it, and decide what
    kernels compute in.

    Args:
        network: on its device; changed in place. Parameters become DTensors, their names stay.
        device: where it is.
    """
    everyone = dist.group.WORLD
    assert everyone is not None
    mesh = DeviceMesh.from_group(everyone, device.type)
    network.to(memory_format=torch.contiguous_format)
    for block in network.blocks() if isinstance(network, Backbone) else ():
        if any(True for _ in block.parameters()):
            fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    if statistics_differ(network):
        network.register_forward_pre_hook(follow_statistics_of_first)
    return network


def statistics_differ(network: nn.Module) -> bool:
    """Whether a batch norm of the network takes the statistics of its own process alone."""
    synchronised = (nn.SyncBatchNorm, SynchronisedBatchNorm)
    return any(isinstance(module, BatchNorm) and not isinstance(module, synchronised) for module in network.modules())


@torch.no_grad()
def whole_copy(network: nn.Module, empty: Callable[[], nn.Module], rank: int) -> nn.Module | None:
    """A network of its own with all weights of a sharded one, on process 0; None on the others, which must call it, too.

    The weights are gathered one after the other, so that the others need room for the largest one alone.

    Args:
        network: a network of `fully_sharded`.
        empty: makes the same network anew; called with the device `meta`, so that its weights take no memory.
        rank: of this process.
    """
    state = {name: whole_tensor(tensor, rank) for name, tensor in network.state_dict().items()}
    if rank > 0:
        return None
    with torch.device("meta"):
        copy = empty()
    copy.load_state_dict(state, assign=True)
    for name, buffer in network.named_buffers():
        if name not in state:  # not kept in checkpoints
            parent, _, leaf = name.rpartition(".")
            setattr(copy.get_submodule(parent), leaf, buffer)
    return copy.requires_grad_(False)


def whole_tensor(tensor: Tensor, rank: int) -> Tensor | None:
    """All rows of a DTensor on process 0, None on the others, which must call it, too; other tensors as they are."""
    if not isinstance(tensor, DTensor):
        return tensor.detach()
    whole: Tensor = tensor.full_tensor().detach()
    return whole if rank == 0 else None


@torch.no_grad()
def follow_statistics_of_first(network: nn.Module, inputs: tuple[Any, ...]) -> None:
    """A hook before forward: statistics of batch norm become those of process 0, as in DistributedDataParallel."""
    if not network.training:
        return
    statistics = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    if not statistics:
        return
    joined = torch.cat([buffer.flatten() for buffer in statistics])
    with COMMUNICATION.measured(joined.device):
        dist.broadcast(joined, src=0)
    for buffer, values in zip(statistics, joined.split([buffer.numel() for buffer in statistics]), strict=True):
        buffer.copy_(values.view_as(buffer))
