"""LAMB and LARS, from timm: each layer's update is scaled to the length of its weights. Needs the extra `[timm]`.

The classifier is left out of the scaling: where its class centres are divided among processes, the length of the whole tensor
would have to be exchanged in every step, and is that of all classes together, of which a batch has few. It moves by the rule
that is left without scaling: AdamW's beside LAMB, that of SGD with momentum beside LARS. So every number of its parameters is
computed from that number's own gradient, and any division of the centres gives the same. For the backbone the same is said of
biases and norms, as usual; what FSDP2 divides has the length of the whole tensor, which its tensors compute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.optim.lamb import Lamb as ScaledAdam
from timm.optim.lars import Lars as ScaledSGD

from frtrain.training.optimizers import ParameterGroups


class Lamb(ScaledAdam):
    """LAMB (You et al. 2020, arXiv 1904.00962).

        u = m' / (sqrt(v') + eps) + decay w          m', v' as Adam's, corrected for their start at 0; eps 1e-6
        w := w - lr |w| / |u| u

    A group with `module` classifier: decoupled decay and no |w| / |u|, which is AdamW. Gradients are clipped by the trainer,
    not here.

    Args:
        groups: from `frtrain.training.optimizers.with_rates`.
        lr: learning rate of groups without one.
        betas: decay of the mean gradient and of the mean squared gradient.
        trust_clip: |w| / |u| is at most 1 (LAMBC).
    """

    def __init__(self, groups: ParameterGroups, lr: float, betas: tuple[float, float], trust_clip: bool):
        super().__init__(_unscaled(groups), lr=lr, betas=betas, max_grad_norm=None, trust_clip=trust_clip)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have a gradient."""
        for group in self.param_groups:
            if "step" not in group:  # nor in a checkpoint, which has what belongs to a parameter
                kept = [self._kept(parameter).get("step") for parameter in group["params"]]
                steps = [step for step in kept if step is not None]
                if steps:
                    group["step"] = torch.stack(steps).max().cpu()
            for parameter in group["params"]:
                if group["unscaled_decay"] and parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["unscaled_decay"])
        result = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if self._kept(parameter):
                    self.state[parameter]["step"] = torch.tensor(float(group["step"]))
        return result

    def _kept(self, parameter: torch.Tensor) -> dict[str, Any]:
        """What is kept for a parameter, without beginning to."""
        return self.state.get(parameter, {})


class Lars(ScaledSGD):
    """LARS (You et al. 2017, arXiv 1708.03888).

        g' = c |w| / (|g| + decay |w|) (g + decay w)          c the trust coefficient
        w := w - lr momentum(g')

    A group with `module` classifier: g' = g + decay w, which is SGD.

    Args:
        groups: from `frtrain.training.optimizers.with_rates`.
        lr: learning rate of groups without one.
        momentum: share of the last update that is kept.
        nesterov: look ahead along it.
        trust_coefficient: c.
        trust_clip: the rate of a layer is at most lr (LARC).
    """

    def __init__(
        self,
        groups: ParameterGroups,
        lr: float,
        momentum: float,
        nesterov: bool,
        trust_coefficient: float,
        trust_clip: bool,
    ):
        super().__init__(
            _unscaled(groups),
            lr=lr,
            momentum=momentum,
            nesterov=nesterov,
            trust_coeff=trust_coefficient,
            trust_clip=trust_clip,
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if group["unscaled_decay"] and parameter.grad is not None:
                    parameter.grad.add_(parameter, alpha=group["unscaled_decay"])
        return super().step(closure)


def _unscaled(groups: ParameterGroups) -> ParameterGroups:
    """Say which updates are scaled, and hide the classifier's weight decay from timm, which would scale for it."""
    hidden = [group["module"] == "classifier" for group in groups]
    return [
        {
            **group,
            "weight_decay": 0.0 if hide else group["weight_decay"],
            "unscaled_decay": group["weight_decay"] if hide else 0.0,
            "always_adapt": group["decay"] and not hide,
        }
        for group, hide in zip(groups, hidden, strict=True)
    ]
