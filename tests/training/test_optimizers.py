"""What each optimizer does to which parameters, against formulas and torch; divided, fused and resumed alike."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frtrain.commands import train as command
from frtrain.commands.composition import group_defaults
from frtrain.config import TrainConfig
from frtrain.errors import ConfigError
from frtrain.training.checkpoint import read_checkpoint
from frtrain.training.optimizers import batch_sentence, build_optimizer, parameter_groups, place_steps, set_momentum
from frtrain.training.run_folder import RunFolder

NAMES = ("sgd", "adamw", "lamb", "lars")


class Classes(nn.Module):
    """Stands in for a classifier."""

    def __init__(self, centres: Tensor):
        super().__init__()
        self.centres = nn.Parameter(centres.clone())
        self.bias = nn.Parameter(torch.full((len(centres),), 0.5))


def modules_of(centres: Tensor | None = None, dtype: torch.dtype = torch.float32) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4))
    drawn = torch.randn(7, 4)
    modules = {"backbone": backbone, "classifier": Classes(drawn if centres is None else centres)}
    return {name: module.to(dtype) for name, module in modules.items()}


def optimizer_of(name: str, modules: dict[str, nn.Module], images: int = 8, **changed: Any) -> torch.optim.Optimizer:
    return build_optimizer({**group_defaults("optimizer", name), **changed}, modules, images)


def named(modules: dict[str, nn.Module]) -> dict[str, nn.Parameter]:
    return {f"{part}.{name}": value for part, module in modules.items() for name, value in module.named_parameters()}


def set_gradients(modules: dict[str, nn.Module], step: int, rows: slice = slice(None)) -> None:
    """The same gradients for the same step, and of the classifier those of the given rows."""
    generator = torch.Generator().manual_seed(step)
    whole = named(modules_of())
    for name, parameter in named(modules).items():
        gradient = torch.randn(whole[name].shape, generator=generator).to(parameter.dtype)
        parameter.grad = gradient[rows] if name.startswith("classifier") else gradient


def by_name(optimizer: torch.optim.Optimizer, key: str) -> dict[str, float]:
    return {name: group[key] for group in optimizer.param_groups for name in group["names"]}


def test_norms_and_biases_have_no_weight_decay_and_modules_do_not_mix():
    groups = parameter_groups(modules_of())
    assert [(group["module"], group["decay"], group["names"]) for group in groups] == [
        ("backbone", True, ["backbone.0.weight", "backbone.3.weight"]),
        ("classifier", True, ["classifier.centres"]),
        ("backbone", False, ["backbone.0.bias", "backbone.1.weight", "backbone.1.bias", "backbone.3.bias"]),
        ("classifier", False, ["classifier.bias"]),
    ]


def test_frozen_parameters_are_in_no_group():
    modules = modules_of()
    modules["backbone"].requires_grad_(False)
    assert {group["module"] for group in parameter_groups(modules)} == {"classifier"}


@pytest.mark.parametrize("name", NAMES)
def test_the_classifier_has_the_rate_and_the_decay_asked_for(name: str):
    optimizer = optimizer_of(
        name, modules_of(), lr=0.5, weight_decay=0.2, classifier_lr_factor=10.0, classifier_weight_decay=0.03
    )
    rates = by_name(optimizer, "lr")
    assert rates["backbone.0.weight"] == rates["backbone.1.bias"] == 0.5
    assert rates["classifier.centres"] == rates["classifier.bias"] == 5.0
    decays = by_name(optimizer, "unscaled_decay" if name in ("lamb", "lars") else "weight_decay")
    assert decays["classifier.centres"] == 0.03
    assert decays["classifier.bias"] == by_name(optimizer, "weight_decay")["backbone.1.weight"] == 0
    assert by_name(optimizer, "weight_decay")["backbone.0.weight"] == 0.2


@pytest.mark.parametrize("name", NAMES)
def test_the_classifier_has_the_decay_of_all_unless_asked(name: str):
    optimizer = optimizer_of(name, modules_of(), weight_decay=0.2)
    key = "unscaled_decay" if name in ("lamb", "lars") else "weight_decay"
    assert by_name(optimizer, key)["classifier.centres"] == 0.2


def lamb_by_formula(weight: Tensor, gradients: list[Tensor], lr: float, decay: float, scaled: bool) -> Tensor:
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, gradient in enumerate(gradients, 1):
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        update = (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-6) + decay * weight
        weight = weight - lr * (weight.norm() / update.norm() if scaled else 1) * update
    return weight


def lars_by_formula(weight: Tensor, gradients: list[Tensor], lr: float, decay: float, scaled: bool) -> Tensor:
    velocity = torch.zeros_like(weight)
    for gradient in gradients:
        ratio = 0.001 * weight.norm() / (gradient.norm() + decay * weight.norm()) if scaled else 1
        velocity = 0.9 * velocity + ratio * (gradient + decay * weight)
        weight = weight - lr * velocity
    return weight


@pytest.mark.parametrize("decay", [0.1, 0.0])
@pytest.mark.parametrize(("name", "formula"), [("lamb", lamb_by_formula), ("lars", lars_by_formula)])
def test_layers_are_scaled_to_their_weights_and_the_classifier_is_not(
    name: str, formula: Callable[..., Tensor], decay: float
):
    modules = modules_of(dtype=torch.float64)
    start = {key: value.detach().clone() for key, value in named(modules).items()}
    optimizer = optimizer_of(name, modules, lr=0.05, weight_decay=decay, classifier_lr_factor=0.5)
    gradients: dict[str, list[Tensor]] = {key: [] for key in start}
    for step in range(3):
        set_gradients(modules, step)
        for key, value in named(modules).items():
            gradients[key].append(value.grad.clone())
        optimizer.step()
    for key, value in named(modules).items():
        of_classifier, matrix = key.startswith("classifier"), value.ndim >= 2
        lr = 0.025 if of_classifier else 0.05
        expected = formula(start[key], gradients[key], lr, decay if matrix else 0.0, matrix and not of_classifier)
        torch.testing.assert_close(
            value.detach(), expected, rtol=1e-6, atol=1e-8, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize(("name", "without"), [("lamb", "adamw"), ("lars", "sgd")])
def test_the_class_centres_move_by_the_rule_without_scaling(name: str, without: str):
    ours, theirs = modules_of(), modules_of()
    one = optimizer_of(name, ours, lr=0.01, weight_decay=0.1, classifier_lr_factor=1.0)
    other = optimizer_of(without, theirs, lr=0.01, weight_decay=0.1)
    for step in range(3):
        for modules, optimizer in ((ours, one), (theirs, other)):
            set_gradients(modules, step)
            optimizer.step()
    torch.testing.assert_close(ours["classifier"].centres, theirs["classifier"].centres, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_divided_centres_are_updated_as_whole_ones(name: str):
    whole = modules_of()
    centres = whole["classifier"].centres.detach().clone()
    shards = [slice(0, 4), slice(4, 7)]
    parts = [modules_of(centres[rows]) for rows in shards]
    optimizers = [optimizer_of(name, modules) for modules in (whole, *parts)]
    for step in range(4):
        set_gradients(whole, step)
        for rows, modules in zip(shards, parts, strict=True):
            set_gradients(modules, step, rows)
        for optimizer in optimizers:
            optimizer.step()
    for key in ("centres", "bias"):
        together = torch.cat([getattr(modules["classifier"], key) for modules in parts])
        assert torch.equal(together, getattr(whole["classifier"], key)), key
    for key, value in whole["backbone"].state_dict().items():
        assert torch.equal(value, parts[1]["backbone"].state_dict()[key]), key


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_fused_kernels_update_as_the_others_do_up_to_rounding(name: str):
    found = []
    for fused in (True, False, "auto"):
        modules = modules_of()
        optimizer = optimizer_of(name, modules, fused=fused)
        assert bool(optimizer.param_groups[0]["fused"]) == (fused is True)  # auto: on GPUs alone
        for step in range(3):
            set_gradients(modules, step)
            optimizer.step()
        found.append(nn.utils.parameters_to_vector(named(modules).values()).detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
    assert torch.equal(found[1], found[2])


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_fused_kernel_that_a_device_does_not_have_is_refused(name: str):
    modules = {key: module.to("meta") for key, module in modules_of().items()}
    with pytest.raises(ConfigError, match=r"optimizer\.fused=true: there is no fused kernel for meta; use auto"):
        optimizer_of(name, modules, fused=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_fused_adam_goes_on_from_counts_that_a_checkpoint_gave_on_the_cpu():
    modules = {key: module.cuda() for key, module in modules_of().items()}
    optimizer = optimizer_of("adamw", modules)
    for parameter in named(modules).values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for state in optimizer.state.values():
        state["step"] = state["step"].cpu()
    place_steps(optimizer)
    optimizer.step()
    assert {int(state["step"]) for state in optimizer.state.values()} == {2}


def test_without_timm_lamb_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(ConfigError, match=r'optimizer=lamb needs timm, .*: pip install "frtrain\[timm\]"'):
        optimizer_of("lamb", modules_of())


@pytest.mark.parametrize(
    ("rule", "reference", "images", "factor"),
    [
        ("linear", 512, 128, 0.25),
        ("sqrt", 512, 128, 0.5),
        ("none", 512, 128, 1),
        ("linear", None, 128, 1),
        ("linear", 256, 1024, 4),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_the_rate_follows_the_global_batch(name: str, rule: str, reference: int | None, images: int, factor: float):
    optimizer = optimizer_of(
        name, modules_of(), images, lr=0.1, batch_rule=rule, reference_batch=reference, classifier_lr_factor=2.0
    )
    rates = by_name(optimizer, "lr")
    assert rates["backbone.0.weight"] == pytest.approx(0.1 * factor, rel=1e-12)
    assert rates["classifier.centres"] == pytest.approx(0.2 * factor, rel=1e-12)


def test_the_log_says_what_the_rule_makes_of_the_rate():
    spec = group_defaults("optimizer", "sgd")
    assert batch_sentence(spec, 1, 128, 1) == (
        "global batch 128 images (1 process × 128 rows × 1 accumulated): learning rate 0.1 as it is "
        "(optimizer.reference_batch=null); InsightFace's 0.1 for 512 images would be 0.025 by the linear rule"
    )
    assert batch_sentence({**spec, "reference_batch": 512}, 2, 128, 2) == (
        "global batch 256 images (2 processes × 64 rows × 2 accumulated): learning rate 0.05 = 0.1 × 256/512 "
        "(optimizer.batch_rule=linear)"
    )
    assert "0.0707107 = 0.1 × the square root of 256/512" in batch_sentence(
        {**spec, "reference_batch": 512, "batch_rule": "sqrt"}, 3, 128, 2
    )


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"batch_rule": "cubic"}, r"optimizer\.batch_rule='cubic'"),
        ({"reference_batch": 0}, r"optimizer\.reference_batch=0"),
        ({"classifier_lr_factor": 0}, r"optimizer\.classifier_lr_factor=0"),
        ({"classifier_weight_decay": -1.0}, r"optimizer\.classifier_weight_decay=-1"),
        ({"lr": 0}, r"optimizer\.lr=0"),
        ({"momentum": 0, "nesterov": True}, r"optimizer\.nesterov=true needs optimizer\.momentum > 0"),
    ],
)
@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_values_that_cannot_be_are_refused_by_key(name: str, changed: dict[str, object], complaint: str):
    with pytest.raises(ConfigError, match=complaint):
        optimizer_of(name, modules_of(), **changed)


@pytest.mark.parametrize("name", NAMES)
def test_the_momentum_of_a_step_reaches_every_group(name: str):
    optimizer = optimizer_of(name, modules_of())
    set_momentum(optimizer, 0.87)
    assert {group["betas"][0] if "betas" in group else group["momentum"] for group in optimizer.param_groups} == {0.87}


def test_a_schedule_that_cycles_the_momentum_needs_one(small_config: Callable[..., TrainConfig]):
    with pytest.raises(ConfigError, match=r"optimizer\.momentum=0: .*scheduler\.cycle_momentum=false"):
        command.check(small_config("scheduler=one_cycle", "optimizer.momentum=0"))
    command.check(small_config("scheduler=one_cycle", "optimizer.momentum=0", "scheduler.cycle_momentum=false"))
    command.check(small_config("scheduler=one_cycle", "optimizer=lamb"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer=lamb", "scheduler=one_cycle"),
        ("optimizer=lars", "scheduler=constant"),
        ("optimizer=sgd", "optimizer.fused=true", "scheduler=one_cycle"),
        ("optimizer=adamw", "optimizer.fused=true", "optimizer.reference_batch=512", "optimizer.batch_rule=sqrt"),
    ],
    ids=["lamb", "lars", "fused-sgd", "fused-adamw"],
)
def test_a_resumed_run_has_the_optimizer_of_an_uninterrupted_one(
    small_run: Callable[..., tuple[int, RunFolder]], tmp_path: Path, overrides: tuple[str, ...]
):
    keep = ("checkpoint.every_steps=3", "checkpoint.keep=9", "trainer.epochs=null", "trainer.max_steps=5")
    _, whole = small_run("whole", *keep, *overrides)
    shutil.copytree(whole.path, tmp_path / "resumed", symlinks=True)
    resumed = RunFolder(tmp_path / "resumed")
    shutil.rmtree(resumed.checkpoint(5))
    small_run("resumed", *keep, *overrides)
    one, other = read_checkpoint(whole.checkpoint(5)), read_checkpoint(resumed.checkpoint(5))
    for part in ("backbone", "classifier", "optimizer"):
        assert one.tensors[part].keys() == other.tensors[part].keys()
        for name, tensor in one.tensors[part].items():
            assert torch.equal(tensor, other.tensors[part][name]), f"{part}: {name}"
    steps = {float(tensor) for name, tensor in one.tensors["optimizer"].items() if name.endswith("/step")}
    assert steps == (set() if overrides[0] in ("optimizer=sgd", "optimizer=lars") else {5.0})
    assert "going on from" in resumed.log.read_text()


@pytest.mark.slow
def test_a_run_counted_in_samples_ends_with_the_step_that_completes_them(
    small_run: Callable[..., tuple[int, RunFolder]],
):
    _, folder = small_run("samples", "trainer.epochs=null", "trainer.max_steps=null", "trainer.max_samples=17")
    assert folder.steps() == [3]
    assert "global batch 8 images (1 process × 8 rows × 1 accumulated): learning rate 0.1" in folder.log.read_text()
