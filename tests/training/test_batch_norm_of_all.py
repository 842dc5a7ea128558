"""Batch norm over real gloo processes with unequal rows: what torch's batch norm computes of the whole batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from gloo_processes import of_each_rank
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from frtrain.errors import ConfigError
from frtrain.processes import Processes
from frtrain.training.batch_norm import SynchronisedBatchNorm, choose_sync_batch_norm, synchronised

ROWS = (7, 1)
STEPS = 2
CPU = torch.device("cpu")


def small() -> nn.Sequential:
    """Two batch norms with a convolution between them, of eight images."""
    return nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: nn.BatchNorm1d(3), (3,)),
    "1d, length": (lambda: nn.BatchNorm1d(3, eps=1e-3), (3, 5)),
    "2d": (lambda: nn.BatchNorm2d(3, momentum=0.3), (3, 4, 5)),
    "not affine": (lambda: nn.BatchNorm2d(3, affine=False), (3, 4, 5)),
    "cumulative": (lambda: nn.BatchNorm2d(3, momentum=None), (3, 4, 5)),
    "fixed weight": (lambda: fixed(nn.BatchNorm1d(3)), (3,)),
    "network": (small, (3, 6, 6)),
    "checkpointed": (lambda: Checkpointed(small()), (3, 6, 6)),
}
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
CASES = [
    *((name, "float64", "contiguous_format") for name in LAYERS),
    ("2d", "float32", "contiguous_format"),
    ("2d", "float32", "channels_last"),
    ("2d", "bfloat16", "channels_last"),
]


class Checkpointed(nn.Module):
    """Computes everything a second time in backward."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, values: Tensor) -> Tensor:
        return checkpoint(self.inner, values, use_reentrant=False)


def fixed(layer: nn.BatchNorm1d) -> nn.Module:
    layer.weight.requires_grad_(False)
    return layer


def case_of(name: str, dtype: str, layout: str) -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make()
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    if dtype == "float64":
        layer.double()
    values = 3 * torch.randn(STEPS, sum(ROWS), *shape) + 5
    return layer, [
        step.to(DTYPES[dtype]).contiguous(
            memory_format=getattr(torch, layout) if step.dim() == 4 else torch.contiguous_format
        )
        for step in values
    ]


def train(layer: nn.Module, steps: list[Tensor], rows: slice) -> dict[str, Tensor]:
    """Output and gradients of the last step for these rows, and the state after it."""
    output = values = torch.empty(0)
    for step in steps:
        layer.zero_grad()
        weights = torch.linspace(-1, 2, step.numel(), dtype=torch.float64).view(step.shape).to(step)[rows]
        values = step[rows].clone(memory_format=torch.preserve_format).requires_grad_()
        output = layer(values)
        (output * weights).sum().backward()
    found = {"output": output.detach(), "to values": values.grad}
    found |= {f"to {name}": value.grad for name, value in layer.named_parameters() if value.grad is not None}
    layer.eval()
    found |= {"evaluated": layer(values).detach(), **layer.state_dict()}
    return {name: value.clone(memory_format=torch.preserve_format) for name, value in found.items()}


def train_cases(rank: int) -> dict[tuple[str, str, str], dict[str, Tensor]]:
    processes = Processes(rank, len(ROWS))
    rows = slice(sum(ROWS[:rank]), sum(ROWS[: rank + 1]))
    found = {}
    for case in CASES:
        layer, steps = case_of(*case)
        found[case] = train(synchronised(layer, processes, CPU), steps, rows)
    return found


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str, str], dict[str, Tensor]]]:
    return of_each_rank(train_cases, len(ROWS), tmp_path_factory.mktemp("batch_norm"))


BOUNDS = {"float64": (1e-10, 1e-10), "float32": (1e-5, 1e-4), "bfloat16": (1e-2, 5e-2)}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}, {case[1]}, {case[2]}")
def test_two_processes_normalise_as_one_does_forward_and_backward(
    of_two: list[dict[tuple[str, str, str], dict[str, Tensor]]], case: tuple[str, str, str]
):
    whole = train(*case_of(*case), slice(None))
    relative, absolute = BOUNDS[case[1]]
    for name, value in whole.items():
        parts = [part[case][name] for part in of_two]
        if name in ("output", "to values", "evaluated"):
            joined = torch.cat(parts)
            assert all(part.stride() == value[: len(part)].stride() for part in parts), name
        elif name.startswith("to "):
            joined = torch.stack(parts).sum(dim=0)
        else:
            joined = parts[0]
            assert all(torch.equal(part, joined) for part in parts), name
        assert joined.dtype == value.dtype, name
        torch.testing.assert_close(
            joined, value, rtol=relative, atol=absolute, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_auto_synchronises_on_cpus_alone():
    assert choose_sync_batch_norm("auto", CPU, 2).value
    assert not choose_sync_batch_norm("auto", torch.device("cuda"), 2).value
    assert choose_sync_batch_norm(True, torch.device("cuda"), 2).value
    assert not choose_sync_batch_norm(True, CPU, 1).value


def test_the_state_keeps_its_names_and_a_copy_is_independent():
    plain = small()
    names = list(plain.state_dict())
    network = synchronised(copy.deepcopy(plain), Processes(0, 2), CPU)
    assert list(network.state_dict()) == names
    assert isinstance(network[0], SynchronisedBatchNorm)
    copied = copy.deepcopy(network).eval()
    copied[0].running_mean += 1
    assert not torch.equal(copied[0].running_mean, network[0].running_mean)


def test_a_batch_norm_that_cannot_be_synchronised_is_refused_by_name():
    network = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))
    with pytest.raises(ConfigError, match="0 of the backbone is a BatchNorm2d without running statistics"):
        synchronised(network, Processes(0, 2), CPU)


def test_a_mean_far_from_zero_costs_no_digits(tmp_path: Path):
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.FileStore(str(tmp_path / "store"), 1))
    try:
        layer = synchronised(nn.BatchNorm1d(1), Processes(0, 1), CPU)
        values = 1000 + torch.tensor([[-1.0], [0.0], [1.0], [0.0]])
        torch.testing.assert_close(layer(values), (values - 1000) * 2**0.5, rtol=1e-4, atol=1e-4)
    finally:
        dist.destroy_process_group()
