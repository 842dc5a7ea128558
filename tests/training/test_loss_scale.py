"""The scale of the loss, and the average of the weights, by their formulas."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from frtrain.errors import TrainingError
from frtrain.training import loss_scale
from frtrain.training.loss_scale import LossScale
from frtrain.training.optimization import Optimization
from frtrain.training.optimizers import parameter_groups, with_rates
from frtrain.training.weight_average import WeightAverage

CPU = torch.device("cpu")


class Flat:
    def factor(self, step: int) -> float:
        return 1.0

    def momentum(self, step: int) -> float | None:
        return None


class Overflowing(nn.Module):
    """Its gradient is infinite while the loss is scaled by more than `limit`, as in float16."""

    def __init__(self, limit: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.weight.register_hook(lambda gradient: torch.where(gradient.abs() > limit, torch.inf, gradient))

    def forward(self) -> torch.Tensor:
        return self.weight.sum()


def optimization(network: nn.Module, patience: int, lag: int = 0) -> Optimization:
    groups = with_rates(parameter_groups({"backbone": network}), 0.1, 0.0)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, fused=True)
    modules = {"backbone": network}
    return Optimization(modules, optimizer, Flat(), 1, None, patience, scaler=LossScale(CPU), lag=lag)


def test_the_scale_follows_the_rule_of_torchs_grad_scaler(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loss_scale, "GROWTH_INTERVAL", 3)
    ours, theirs = LossScale(CPU), torch.amp.GradScaler("cpu", growth_interval=3)
    weight = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    for finite in [False, False, True, True, False, *9 * [True], False, *4 * [True]]:
        theirs.scale(weight * (1.0 if finite else torch.inf)).backward()
        theirs.step(optimizer)
        theirs.update()
        optimizer.zero_grad()
        ours.update(torch.tensor(finite))
        assert float(ours.scale) == theirs.get_scale()


def test_the_scale_does_not_sink_below_one():
    scale = LossScale(CPU)
    for _ in range(40):
        scale.update(torch.tensor(False))
    assert float(scale.scale) == 1.0


@pytest.mark.parametrize("lag", [0, 2])
def test_a_scale_that_still_falls_from_its_first_value_does_not_end_the_run(lag: int, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "frtrain")
    network = Overflowing(limit=2.0**10)
    steps = optimization(network, patience=2, lag=lag)
    skipped = 0
    for number in range(8):
        steps.backward(network())
        steps.step(number)
        skipped += steps.newly_skipped
    assert skipped + steps.settle() == 6  # 2^16 to 2^10
    assert float(steps.scaler.scale) == 2.0**10
    assert torch.allclose(network.weight, torch.tensor(1 - 0.1 - 0.19))  # two applied steps, unscaled
    assert "step 1 skipped: gradients overflow at a loss scale of 65536, which is halved" in caplog.text


def test_gradients_that_overflow_once_the_run_has_begun_end_it():
    network = Overflowing(limit=2.0**16)
    steps = optimization(network, patience=2)
    steps.backward(network())
    steps.step(0)
    network.weight.register_hook(lambda gradient: gradient * torch.inf)
    steps.backward(network())
    steps.step(1)
    steps.backward(network())
    with pytest.raises(TrainingError, match=r"the gradient of backbone\.weight\. The loss was scaled by 32768"):
        steps.step(2)


def test_a_loss_that_is_not_finite_is_no_matter_of_scale():
    network = Overflowing(limit=2.0**20)
    steps = optimization(network, patience=2)
    steps.backward(network() * torch.nan)
    steps.step(0)
    steps.backward(network() * torch.nan)
    with pytest.raises(TrainingError, match=r"2 steps in a row were not finite.*first bad tensor: the loss"):
        steps.step(1)


def test_the_average_is_that_of_the_formula_and_leaves_out_skipped_steps():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = WeightAverage(network, decay=0.4)
    expected = {name: tensor.double() for name, tensor in network.state_dict().items()}
    applied_before = 0
    for applied in (True, True, False, True, True, True, True):
        with torch.no_grad():
            for tensor in network.state_dict().values():
                tensor.copy_(torch.randn(tensor.shape) * 10)
        average.update(torch.tensor(applied))
        if applied:
            decay = min(0.4, (1 + applied_before) / (10 + applied_before))
            applied_before += 1
            for name, tensor in network.state_dict().items():
                expected[name] = decay * expected[name] + (1 - decay) * tensor.double()
    found = average.module.state_dict()
    assert int(average.updates) == applied_before
    for name in ("0.weight", "1.running_var"):
        assert torch.allclose(found[name].double(), expected[name], atol=1e-5), name
    assert torch.equal(found["1.num_batches_tracked"], network.state_dict()["1.num_batches_tracked"])
