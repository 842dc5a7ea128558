"""The guard where nobody waits for the device: late verdicts, a step without synchronisation, and state put back on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from frtrain.auxiliary.center import CenterLoss
from frtrain.backbones import BACKBONES
from frtrain.backbones.base import Backbone
from frtrain.classifier import CLASSIFIERS
from frtrain.classifier.base import Classifier
from frtrain.errors import TrainingError
from frtrain.losses import LOSSES
from frtrain.processes import ALONE
from frtrain.training.activation_checkpointing import recompute_in_backward
from frtrain.training.gradients import clip, measure
from frtrain.training.guard import Skip
from frtrain.training.loss_scale import LossScale
from frtrain.training.optimization import Optimization
from frtrain.training.optimizers import parameter_groups, with_rates
from frtrain.training.weight_average import WeightAverage

LATE = 2

CLASSIFIER = {"chunk": 3, "init_std": 0.01, "keep_mib": 0, "matmul": "float32"}
CLASSIFIERS_TO_TRY = {
    "dense": {"name": "dense", "init_std": 0.01},
    "chunked": {"name": "chunked", **CLASSIFIER},
    "sampled": {"name": "sampled", "rate": 0.5, **CLASSIFIER},
}


class Flat:
    """A constant learning rate."""

    def factor(self, step: int) -> float:
        return 1.0

    def momentum(self, step: int) -> float | None:
        return None


def tiny_backbone() -> Backbone:
    torch.manual_seed(0)
    spec = {"widths": [16, 16], "blocks": [1, 1], "strides": [2, 2], "stem_stride": 2, "activation": "prelu"}
    return BACKBONES.build({"name": "iresnet_tiny", **spec, "embedding_size": 8, "dropout": 0.0})


class Steps:
    """A network, a classifier and an optimizer, and steps on faces that are made up."""

    def __init__(self, loss_spec: Callable[..., Any], lag: int, **further: Any):
        self.device = torch.device(further.pop("device", "cpu"))
        self.backbone = tiny_backbone().to(self.device)
        head = LOSSES.build(loss_spec("curricularface"))
        spec = CLASSIFIERS_TO_TRY[further.pop("classifier", "chunked")]
        self.classifier: Classifier = CLASSIFIERS.build(spec, head=head, classes=8, embedding_size=8)
        self.classifier.auxiliary = CenterLoss(weight=0.003, alpha=0.5, update="paper", normalised=False)
        self.classifier.auxiliary.set_up(8, 8)
        self.classifier.to(self.device)
        modules = {"backbone": self.backbone, "classifier": self.classifier}
        groups = with_rates(parameter_groups(modules), 0.05, 5e-4)
        self.optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, fused=True)
        self.average = WeightAverage(self.backbone, 0.9)
        if further.pop("recompute", False):
            recompute_in_backward(self.backbone.blocks())
        patience = further.pop("patience", 9)
        scaler = LossScale(self.device) if further.pop("scaled", False) else None
        self.optimization = Optimization(
            modules, self.optimizer, Flat(), 1, 1.0, patience, scaler=scaler, average=self.average, lag=lag
        )

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(number)
        images = torch.randn(6, 3, 112, 112, generator=generator)
        return images.to(self.device), torch.tensor([0, 1, 2, 3, 4, 0]).to(self.device)

    def take(self, number: int, images: Tensor, labels: Tensor, poison: float = 1.0) -> Tensor:
        loss, _ = self.classifier(self.backbone(images), labels)
        self.optimization.backward(loss * poison)
        applied = self.optimization.step(number)
        self.classifier.advance(applied)
        return applied

    def step(self, number: int, poison: float = 1.0) -> Tensor:
        return self.take(number, *self.batch(number), poison)

    def state(self) -> dict[str, Tensor]:
        """Everything that a step may move, copied."""
        named = {**self.backbone.state_dict(prefix="backbone."), **self.classifier.state_dict(prefix="classifier.")}
        momenta = {
            name: state["momentum_buffer"] for name, state in zip(named, self.optimizer.state.values(), strict=False)
        }
        averages = self.average.state_dict()
        moved = {
            **named,
            **{f"{n}/momentum": m for n, m in momenta.items()},
            **{f"ema.{n}": a for n, a in averages.items()},
        }
        return {name: tensor.clone() for name, tensor in moved.items()}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("classifier", ["chunked", "sampled"])
def test_a_skipped_step_leaves_no_trace_on_the_device(loss_spec: Callable[..., Any], classifier: str):
    steps = Steps(loss_spec, lag=LATE, classifier=classifier)
    steps.step(0)
    before = steps.state()
    assert not steps.step(1, poison=torch.nan)
    assert_same(steps.state(), before)
    steps.step(2)
    assert not torch.equal(steps.state()["backbone.fc.weight"], before["backbone.fc.weight"])


def test_a_first_step_that_is_skipped_leaves_no_momentum(loss_spec: Callable[..., Any]):
    steps = Steps(loss_spec, lag=LATE)
    steps.step(0, poison=torch.nan)
    assert all(not state["momentum_buffer"].any() for state in steps.optimizer.state.values())


def test_verdicts_that_are_read_late_change_no_result(loss_spec: Callable[..., Any]):
    late, at_once = Steps(loss_spec, lag=LATE), Steps(loss_spec, lag=0)
    for number, poison in enumerate([1.0, torch.inf, 1.0, 1.0]):
        assert bool(late.step(number, poison)) == bool(at_once.step(number, poison))
    assert_same(late.state(), at_once.state())


def test_a_skipped_step_is_told_two_steps_later_with_its_number_and_its_culprit(loss_spec: Callable[..., Any]):
    steps = Steps(loss_spec, lag=LATE)
    told = []
    for number in range(5):
        steps.step(number, poison=torch.nan if number == 1 else 1.0)
        told.append((steps.optimization.newly_skipped, list(steps.optimization.skips)))
    skip = Skip(2, "the loss")
    assert told == [(0, []), (0, []), (0, []), (1, [skip]), (0, [skip])]


def test_waiting_for_all_verdicts_tells_each_skip_once(loss_spec: Callable[..., Any]):
    steps = Steps(loss_spec, lag=LATE)
    counted = 0
    for number in range(4):
        steps.step(number, poison=torch.nan if number == 3 else 1.0)
        counted += steps.optimization.newly_skipped
    assert counted == 0
    assert [steps.optimization.settle(), steps.optimization.settle()] == [1, 0]
    steps.step(4)
    assert steps.optimization.newly_skipped == 0


def test_late_verdicts_end_the_run_with_the_name_of_the_first_bad_gradient(loss_spec: Callable[..., Any]):
    steps = Steps(loss_spec, lag=LATE, patience=2)
    steps.backbone.fc.bias.register_hook(lambda gradient: gradient * torch.nan)
    for number in range(3):
        steps.step(number)
    with pytest.raises(TrainingError, match=r"2 steps in a row .* at step 2; .*the gradient of backbone\.fc\.bias"):
        steps.step(3)


class NoWaiting(TorchDispatchMode):
    """Raises where the host would read a value from the device."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name().removeprefix("aten::").partition(".")[0]
        if name in {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2"}:
            raise AssertionError(f"{name} waits for the device")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("classifier", list(CLASSIFIERS_TO_TRY))
def test_nothing_in_a_step_reads_from_the_device(loss_spec: Callable[..., Any], classifier: str):
    steps = Steps(loss_spec, lag=LATE, classifier=classifier, scaled=True)
    steps.step(0)
    batch = steps.batch(1)
    with NoWaiting():
        steps.take(1, *batch)
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        bool(steps.optimization.gradient_norm > 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("classifier", list(CLASSIFIERS_TO_TRY))
def test_nothing_in_a_step_synchronises_with_a_gpu(loss_spec: Callable[..., Any], classifier: str):
    steps = Steps(loss_spec, lag=LATE, classifier=classifier, scaled=True, device="cuda")
    batches = [steps.batch(number) for number in range(4)]
    steps.take(0, *batches[0])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in (1, 2, 3):
            steps.take(number, *batches[number])
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("matter", ["norm", "clip"])
def test_norm_and_clipping_are_those_of_torch_to_the_last_bit(matter: str):
    torch.manual_seed(0)
    weights = {f"part.{n}": nn.Parameter(torch.randn(shape)) for n, shape in enumerate([(40, 30), (7,), (16, 3, 3, 3)])}
    for weight in weights.values():
        weight.grad = torch.randn_like(weight) * 100
    gradients = {name: weight.grad.clone() for name, weight in weights.items()}
    norm = nn.utils.clip_grad_norm_(weights.values(), 5.0)
    measured = measure(gradients, [torch.zeros(())], (), ALONE)
    clip(list(gradients.values()), measured.norm, 5.0)
    if matter == "norm":
        assert torch.equal(measured.norm, norm)
        assert torch.equal(measured.norms["part"], norm)
    else:
        assert all(torch.equal(gradients[name], weight.grad) for name, weight in weights.items())


def test_recomputed_blocks_give_the_same_step_and_count_their_batch_once(loss_spec: Callable[..., Any]):
    kept, recomputed = Steps(loss_spec, lag=0), Steps(loss_spec, lag=0, recompute=True)
    for number in range(3):
        kept.step(number)
        recomputed.step(number)
    assert_same(recomputed.state(), kept.state())
    assert int(recomputed.state()["backbone.layer1.0.bn1.num_batches_tracked"]) == 3
