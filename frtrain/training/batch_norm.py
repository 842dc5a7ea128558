"""Batch norm over the processes that train together: the statistics of the whole batch, whoever holds its rows."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from frtrain.errors import ConfigError
from frtrain.processes import Processes
from frtrain.training.hardware import Choice

BatchNorm: TypeAlias = nn.modules.batchnorm._BatchNorm
PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def choose_sync_batch_norm(setting: Literal["auto"] | bool, device: torch.device, count: int) -> Choice[bool]:
    """Whether batch norm takes the statistics of all `count` processes; `auto`: on CPUs.

    On a CPU the few numbers that travel cost next to nothing beside the convolutions. GPUs are hundreds of times faster,
    and would wait for each layer's message; their parts of a batch are large, too.
    """
    if count == 1:
        return Choice(False, "one process has the whole batch")
    if setting != "auto":
        return Choice(setting, "as set")
    if device.type == "cpu":
        return Choice(True, "the number of processes then changes nothing, and costs little on a CPU")
    return Choice(False, "GPUs would wait for each other in every layer; true makes the batch that of all")


def synchronised(network: nn.Module, processes: Processes, device: torch.device) -> nn.Module:
    """Let every batch norm of a network take its statistics over all processes.

    On CUDA devices torch's own `SyncBatchNorm` does it with fused kernels, any number of rows in each process. torch has
    none for CPUs: there it is `SynchronisedBatchNorm`. Names and shapes of the state do not change.

    Returns:
        The network, changed in place, or what takes its place where it is a batch norm itself.

    Raises:
        ConfigError: a batch norm of another kind, which may do more than torch's, or one without running statistics.
    """
    for name, module in network.named_modules():
        if isinstance(module, BatchNorm) and (type(module) not in PLAIN or module.running_mean is None):
            raise ConfigError(
                f"trainer.sync_batch_norm: {name} of the backbone is a {type(module).__name__}"
                f"{'' if type(module) not in PLAIN else ' without running statistics'}, which cannot be synchronised; "
                "use trainer.sync_batch_norm=false"
            )
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return converted
    return _replaced(network, processes)


def _replaced(module: nn.Module, processes: Processes) -> nn.Module:
    if isinstance(module, BatchNorm):
        return SynchronisedBatchNorm(module, processes)
    for name, child in module.named_children():
        setattr(module, name, _replaced(child, processes))
    return module


class SynchronisedBatchNorm(BatchNorm):
    """A batch norm that normalises by the rows of all processes; in evaluation mode an ordinary one.

        y = weight (x - mean) / sqrt(var + eps) + bias        mean, var over all rows and places of all processes

    Each process takes mean and squared deviations of its own rows with the kernels of torch's batch norm; these are joined
    in float64 by the formula of Chan, Golub and LeVeque (1979), in the order of the ranks, so that all processes have the
    same statistics to the last bit. Processes may have different numbers of rows, and one alone at least one. One message
    of 2 C + 1 numbers travels forward and one of 2 C backward. The gradients of weight and bias are those of the own rows:
    who averages gradients over the processes averages them, too.

    Args:
        plain: the batch norm whose parameters, statistics and settings are taken over.
        processes: who has the batch together.
    """

    def __init__(self, plain: BatchNorm, processes: Processes):
        nn.Module.__init__(self)
        self.num_features, self.eps, self.momentum = plain.num_features, plain.eps, plain.momentum
        self.affine, self.track_running_stats = plain.affine, plain.track_running_stats
        self.weight, self.bias = plain.weight, plain.bias
        for name, buffer in plain.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.training = plain.training
        self.processes = processes
        # What is said to other processes is not for a compiler. A function, which a copy of the module may share.
        self._uncompiled = torch.compiler.disable(SynchronisedBatchNorm.normalised_over_all)

    def forward(self, values: Tensor) -> Tensor:
        """`[b, C, ...] -> [b, C, ...]`, normalised per channel; in the dtype and memory format of `values`."""
        if values.dim() < 2 or values.shape[1] != self.num_features:
            raise ValueError(f"expected [b, {self.num_features}, ...], got {list(values.shape)}")
        if self.training:
            normalised: Tensor = self._uncompiled(self, values)
            return normalised
        mean, var = self.running_mean, self.running_var
        return functional.batch_norm(values, mean, var, self.weight, self.bias, eps=self.eps)

    def normalised_over_all(self, values: Tensor) -> Tensor:
        """Normalise by the batch of all processes, and move the running statistics as torch does."""
        mean, var, count = _moments_of_all(values.detach(), self.processes)
        if self.track_running_stats:  # it is off while a forward pass is repeated
            self._follow(mean, var * (count / (count - 1).clamp(min=1)))
        normalised: Tensor = _Normalise.apply(
            values, self.weight, self.bias, mean, var, count, self.eps, self.processes
        )
        return normalised

    @torch.no_grad()
    def _follow(self, mean: Tensor, unbiased_var: Tensor) -> None:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, now in ((self.running_mean, mean), (self.running_var, unbiased_var)):
            assert running is not None
            running.lerp_(now.to(running), share)


def _moments_of_all(values: Tensor, processes: Processes) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance `float64 [C]` of `[b, C, ...]` over the rows of all processes, and how many numbers a
    channel has in all, a float64 scalar."""
    own = _moments(values)
    means, squares, counts = processes.stack(own).split(values.shape[1], dim=1)
    total = counts.sum()
    mean = (means * counts).sum(dim=0) / total
    deviations = squares.sum(dim=0) + ((means - mean).square() * counts).sum(dim=0)
    return mean, deviations / total, total


def _moments(values: Tensor) -> Tensor:
    """Mean, squared deviations from it, and their number, of the own rows, `float64 [2 C + 1]`."""
    channels, dtype = values.shape[1], torch.promote_types(values.dtype, torch.float32)
    number = values.numel() // channels
    mean, var = (torch.zeros(channels, dtype=dtype, device=values.device) for _ in range(2))
    if number > 0:
        # With a momentum of 1 the running statistics are those of the batch, not rounded to a half-precision input's type.
        torch.batch_norm_update_stats(values, mean, var, 1.0)
    squares = var.double() * (number - 1) if number > 1 else torch.zeros_like(var, dtype=torch.float64)
    return torch.cat([mean.double(), squares, squares.new_full((1,), number)])


class _Normalise(Function):
    """Batch norm by given statistics of the batch of all processes, differentiated through them.

    With x^ the normalised values, n their number, and sums over all processes,
        dx = weight / sqrt(var + eps) (dy - sum(dy) / n - x^ sum(dy x^) / n)
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        count: Tensor,
        eps: float,
        processes: Processes,
    ) -> Tensor:
        dtype = torch.promote_types(values.dtype, torch.float32)
        mean, var = mean.to(dtype), var.to(dtype)
        ctx.save_for_backward(values, weight, mean, var, count)
        ctx.eps, ctx.processes = eps, processes
        return _affine(values, mean, var, weight, bias, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, mean, var, count = ctx.saved_tensors
        eps = ctx.eps
        # As if the statistics were constants: the two sums of the formula are the gradients of weight and bias.
        _, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, values, weight, mean, var, None, None, False, eps, [False, True, True]
        )
        to_values: Tensor | None = None
        if ctx.needs_input_grad[0]:
            sums = ctx.processes.sum(torch.stack([to_weight, to_bias]).double()) / count
            factor = (var.double() + eps).rsqrt()
            if weight is not None:
                factor = factor * weight
            along, constant = (-factor * sums).to(mean)
            zero, one = torch.zeros_like(mean), torch.ones_like(var)
            # The kernel of batch norm computes in float32 and more, and rounds once, whatever the dtype of the values.
            to_values = _affine(values, mean, var, along, constant, eps)
            to_values.add_(_affine(gradient, zero, one, factor.to(mean), zero, 0.0))
        return (
            to_values,
            to_weight if ctx.needs_input_grad[1] else None,
            to_bias if ctx.needs_input_grad[2] else None,
            *[None] * 5,
        )


def _affine(
    values: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """weight (values - mean) / sqrt(var + eps) + bias, per channel, in the dtype of `values`."""
    return functional.batch_norm(values, mean, var, weight, bias, False, 0.0, eps)
