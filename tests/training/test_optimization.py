from __future__ import annotations

import pytest
import torch
from torch import nn

from frtrain.errors import TrainingError
from frtrain.training.length import RunLength
from frtrain.training.optimization import Optimization
from frtrain.training.optimizers import OPTIMIZERS, parameter_groups
from frtrain.training.schedule import SCHEDULERS


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(batch)).square().mean() + self.linear(batch).mean()


def optimization(
    network: nn.Module, accumulate: int = 1, clip_norm: float | None = None, lr: float = 0.1, patience: int = 3
) -> Optimization:
    modules = {"backbone": network}
    spec = {"name": "sgd", "lr": lr, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "fused": False}
    flat = {"name": "constant", "warmup": 0, "warmup_unit": "steps"}
    return Optimization(
        modules,
        OPTIMIZERS.build(spec, groups=parameter_groups(modules)),
        SCHEDULERS.build(flat, length=RunLength(100, 1.0, 1)),
        accumulate,
        clip_norm,
        patience,
    )


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


def test_accumulated_losses_give_the_gradient_of_their_mean(network: Network):
    torch.manual_seed(1)
    parts = [torch.randn(4, 3), torch.randn(4, 3)]
    expected = torch.autograd.grad(sum(network(part) for part in parts) / 2, network.linear.weight)[0]
    optimizer = optimization(network, accumulate=2)
    before = network.linear.weight.detach().clone()
    for part in parts:
        assert not optimizer.due
        optimizer.backward(network(part))
    assert optimizer.due
    assert optimizer.step(0)
    assert torch.allclose(before - network.linear.weight, 0.1 * expected, atol=1e-6)


def test_gradients_are_clipped_to_the_joint_norm(network: Network):
    optimizer = optimization(network, clip_norm=0.01, lr=1.0)
    before = nn.utils.parameters_to_vector(network.parameters()).detach()
    optimizer.backward(network(torch.randn(4, 3)))
    optimizer.step(0)
    after = nn.utils.parameters_to_vector(network.parameters()).detach()
    assert float((after - before).norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_step_changes_neither_weights_nor_batch_norm(network: Network, bad: float):
    optimizer = optimization(network)
    optimizer.backward(network(torch.randn(4, 3)))
    optimizer.step(0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer.backward(network(torch.full((4, 3), bad)))
    assert not optimizer.step(1)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_step_after_a_skipped_one_works_as_if_it_had_not_been(network: Network):
    optimizer = optimization(network)
    optimizer.backward(network(torch.full((4, 3), float("nan"))))
    optimizer.step(0)
    optimizer.backward(network(torch.randn(4, 3)))
    assert optimizer.step(1)
    assert optimizer.guard.in_a_row == 0
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_too_many_skipped_steps_stop_the_run_and_name_the_tensor(network: Network, bad: float):
    optimizer = optimization(network, patience=2)
    network.norm.bias.register_hook(lambda gradient: gradient * bad)
    for step in range(2):
        optimizer.backward(network(torch.randn(4, 3)))
        if step == 1:
            with pytest.raises(TrainingError, match=r"2 steps in a row.*the gradient of backbone\.norm\.bias"):
                optimizer.step(step)
        else:
            optimizer.step(step)
