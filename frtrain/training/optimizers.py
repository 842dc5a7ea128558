"""Optimizers, the groups of parameters that they treat differently, and the learning rate by the batch."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

import torch
from torch import nn

from frtrain.errors import ConfigError
from frtrain.registry import Registry
from frtrain.schema import FractionBelowOne, NonNegative, Positive, PositiveInt, Section, parse
from frtrain.training.schedule import Schedule

log = logging.getLogger(__name__)

OPTIMIZERS: Registry[torch.optim.Optimizer] = Registry("optimizer")

ParameterGroups = list[dict[str, Any]]

Fused = Literal["auto"] | bool


@OPTIMIZERS.register("sgd")
def sgd(
    groups: ParameterGroups,
    lr: Positive,
    momentum: FractionBelowOne,
    nesterov: bool,
    weight_decay: NonNegative,
    fused: Fused,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum: what the published margin-loss recipes use."""
    _check_nesterov(nesterov, momentum)
    return torch.optim.SGD(
        with_rates(groups, lr, weight_decay),
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        **_kernels(groups, fused, of_divided=False),
    )


@OPTIMIZERS.register("adamw")
def adamw(
    groups: ParameterGroups,
    lr: Positive,
    beta1: FractionBelowOne,
    beta2: FractionBelowOne,
    weight_decay: NonNegative,
    fused: Fused,
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    return torch.optim.AdamW(
        with_rates(groups, lr, weight_decay),
        lr=lr,
        betas=(beta1, beta2),
        **_kernels(groups, fused, of_divided=True),
    )


@OPTIMIZERS.register("lamb")
def lamb(
    groups: ParameterGroups,
    lr: Positive,
    beta1: FractionBelowOne,
    beta2: FractionBelowOne,
    weight_decay: NonNegative,
    trust_clip: bool,
) -> torch.optim.Optimizer:
    """LAMB (You et al. 2020, arXiv 1904.00962), see `frtrain.training.layerwise`: Adam for very large batches.

    Raises:
        ConfigError: timm is not installed.
    """
    return _layerwise("lamb").Lamb(with_rates(groups, lr, weight_decay), lr, (beta1, beta2), trust_clip)


@OPTIMIZERS.register("lars")
def lars(
    groups: ParameterGroups,
    lr: Positive,
    momentum: FractionBelowOne,
    nesterov: bool,
    weight_decay: NonNegative,
    trust_coefficient: Positive,
    trust_clip: bool,
) -> torch.optim.Optimizer:
    """LARS (You et al. 2017, arXiv 1708.03888), see `frtrain.training.layerwise`: SGD for very large batches.

    Raises:
        ConfigError: timm is not installed.
    """
    _check_nesterov(nesterov, momentum)
    layerwise = _layerwise("lars")
    return layerwise.Lars(with_rates(groups, lr, weight_decay), lr, momentum, nesterov, trust_coefficient, trust_clip)


class Rates(Section):
    """What every optimizer's configuration has besides its own parameters.

    Attributes:
        classifier_lr_factor: on the learning rate of the classifier: class centres, and what loss and auxiliary learn.
        classifier_weight_decay: of the classifier in place of `weight_decay`; null: the same.
        reference_batch: images of a step that the learning rate was found with; null: it is taken as it is.
        batch_rule: how the rate follows the images of a step: in proportion (linear; Goyal et al. 2017, arXiv
            1706.02677), with their square root, or not (none).
    """

    classifier_lr_factor: Positive
    classifier_weight_decay: NonNegative | None
    reference_batch: PositiveInt | None
    batch_rule: Literal["linear", "sqrt", "none"]

    def factor(self, images_per_step: int) -> float:
        """On the learning rate, for steps of this many images; exactly 1 where no rule applies."""
        if self.reference_batch is None or self.batch_rule == "none":
            return 1.0
        ratio = images_per_step / self.reference_batch
        return ratio if self.batch_rule == "linear" else math.sqrt(ratio)

    def sentence(self, lr: float, images_per_step: int) -> str:
        """What the rule makes of a learning rate."""
        if self.reference_batch is None or self.batch_rule == "none":
            why = "optimizer.reference_batch=null" if self.reference_batch is None else "optimizer.batch_rule=none"
            return f"learning rate {lr:g} as it is ({why})"
        relation = "" if self.batch_rule == "linear" else "the square root of "
        return (
            f"learning rate {lr * self.factor(images_per_step):g} = {lr:g} × {relation}{images_per_step}/"
            f"{self.reference_batch} (optimizer.batch_rule={self.batch_rule})"
        )


def build_optimizer(
    spec: Mapping[str, Any], modules: Mapping[str, nn.Module], images_per_step: int
) -> torch.optim.Optimizer:
    """The optimizer of a configuration node.

    Args:
        spec: name and parameters of a registered optimizer, and those of `Rates`.
        modules: what is trained, by name (`backbone`, `classifier`).
        images_per_step: rows of all processes times the batches accumulated.

    Raises:
        ConfigError: names the key.
    """
    own, rates = _divided(spec)
    lr = OPTIMIZERS.check(own, "groups")["lr"]
    groups = parameter_groups(modules)
    for group in groups:
        if group["module"] == "classifier":
            group["lr_factor"] = rates.classifier_lr_factor
            group["own_weight_decay"] = rates.classifier_weight_decay
    return OPTIMIZERS.build({**own, "lr": lr * rates.factor(images_per_step)}, groups=groups)


def batch_sentence(spec: Mapping[str, Any], processes: int, batch_size: int, accumulate: int) -> str:
    """The global batch and the learning rate for it, in a line for the log.

    Args:
        spec: of the optimizer, as for `build_optimizer`.
        processes: that share the batch.
        batch_size: rows of all processes.
        accumulate: batches of a step.
    """
    own, rates = _divided(spec)
    images = batch_size * accumulate
    rows = f"{batch_size // processes}" if batch_size % processes == 0 else f"{batch_size / processes:.1f}"
    shares = f"{processes} {'process' if processes == 1 else 'processes'} × {rows} rows × {accumulate} accumulated"
    sentence = f"global batch {images} images ({shares}): {rates.sentence(own['lr'], images)}"
    if spec["name"] == "sgd" and rates.factor(images) == 1.0:
        sentence += f"; InsightFace's 0.1 for 512 images would be {0.1 * images / 512:.3g} by the linear rule"
    return sentence


def parameter_groups(modules: Mapping[str, nn.Module]) -> ParameterGroups:
    """The trainable parameters of each module, those with weight decay and those without: norms, biases, slopes, all 1-D.

    The decayed groups of all modules come before the others. Each group carries the `module`, whether it has `decay`, and the
    parameters' full names, `<module>.<parameter>`, under `names`.
    """
    groups: ParameterGroups = []
    for decay in (True, False):
        for module_name, module in modules.items():
            named = [
                (f"{module_name}.{name}", parameter)
                for name, parameter in module.named_parameters()
                if parameter.requires_grad and (parameter.ndim >= 2) == decay
            ]
            if named:
                names, parameters = (list(column) for column in zip(*named, strict=True))
                groups.append({"params": parameters, "names": names, "module": module_name, "decay": decay})
    return groups


def with_rates(groups: ParameterGroups, lr: float, weight_decay: float) -> ParameterGroups:
    """Give each group its learning rate, those marked `decay` this weight decay, and the others none.

    A group's `lr_factor` and, unless it is None, `own_weight_decay` go before.
    """

    def decay_of(group: dict[str, Any]) -> float:
        own = group.get("own_weight_decay")
        return (weight_decay if own is None else float(own)) if group["decay"] else 0.0

    return [{**group, "lr": lr * group.get("lr_factor", 1.0), "weight_decay": decay_of(group)} for group in groups]


def set_momentum(optimizer: torch.optim.Optimizer, momentum: float) -> None:
    """Set the momentum of every group: `momentum` itself, or the beta1 of Adam's kin."""
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            group["momentum"] = momentum


def place_steps(optimizer: torch.optim.Optimizer) -> None:
    """Move the counts of steps, as a checkpoint gave them, where the optimizer keeps them.

    Fused kernels read them on the device of their parameters, all others on the CPU.
    """
    for group in optimizer.param_groups:
        on_device = group.get("fused") or group.get("capturable")
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if isinstance(state.get("step"), torch.Tensor):
                state["step"] = state["step"].to(parameter.device if on_device else "cpu")


def check_momentum(optimizer: torch.optim.Optimizer, schedule: Schedule) -> None:
    """See that a schedule that rules the momentum has one to rule.

    Raises:
        ConfigError: the optimizer was asked to have none.
    """
    if schedule.momentum(0) is not None and optimizer.param_groups[0].get("momentum") == 0:
        raise ConfigError(
            "optimizer.momentum=0: the scheduler sets the momentum of every step; use scheduler.cycle_momentum=false, or a "
            "momentum above 0"
        )


def _check_nesterov(nesterov: bool, momentum: float) -> None:
    if nesterov and momentum == 0:
        raise ValueError("optimizer.nesterov=true needs optimizer.momentum > 0")


def _divided(spec: Mapping[str, Any]) -> tuple[dict[str, Any], Rates]:
    """The optimizer's own keys, and those that all have."""
    common = {key: value for key, value in spec.items() if key in Rates.model_fields}
    return {key: value for key, value in spec.items() if key not in common}, parse(Rates, common, "optimizer")


def _kernels(groups: ParameterGroups, asked: Fused, of_divided: bool) -> dict[str, bool]:
    """Which of torch's ways to update many tensors: fused in one kernel, a few kernels for all (foreach), one by one.

    Args:
        groups: of parameters.
        asked: for fused kernels.
        of_divided: whether torch has a fused kernel of this optimizer for weights that FSDP2 has divided.

    Returns:
        The optimizer's arguments; none leaves it to torch, which takes foreach on GPUs, but not for divided weights.

    Raises:
        ValueError: fused kernels are asked for where there are none.
    """
    parameters = [parameter for group in groups for parameter in group["params"]]
    devices = {parameter.device.type for parameter in parameters}
    divided = any(type(parameter) not in (torch.Tensor, nn.Parameter) for parameter in parameters)
    if asked == "auto":
        if devices != {"cuda"}:
            return {}
        return {"fused": True} if of_divided or not divided else {"foreach": True}
    if asked and not devices <= {"cpu", "cuda", "mps", "xpu"}:
        raise ValueError(f"optimizer.fused=true: there is no fused kernel for {', '.join(sorted(devices))}; use auto")
    if asked and divided and not of_divided:
        raise ValueError("optimizer.fused=true: torch has no such kernel for weights divided by FSDP; use auto")
    return {"fused": True} if asked else {"foreach": True} if divided and devices == {"cuda"} else {}


def _layerwise(name: str) -> ModuleType:
    """The module that needs timm.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import_module("timm.optim")
    except ImportError:
        raise ConfigError(f'optimizer={name} needs timm, which is not installed: pip install "frtrain[timm]"') from None
    return import_module("frtrain.training.layerwise")
