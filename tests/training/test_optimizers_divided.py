"""Optimizers over parameters that FSDP2 has divided, with real gloo processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_processes import of_each_rank
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from frtrain.errors import ConfigError
from frtrain.training.optimizers import build_optimizer

Specs = dict[str, dict[str, Any]]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 7))


def trained(specs: Specs, divided: bool) -> dict[str, dict[str, torch.Tensor]]:
    """The whole weights after three steps of each optimizer."""
    weights = {}
    for name, spec in specs.items():
        backbone, classifier = network(), nn.Linear(7, 3)
        if divided:
            fully_shard(backbone, mesh=init_device_mesh("cpu", (2,)))
        modules = {"backbone": backbone, "classifier": classifier}
        optimizer = build_optimizer(spec, modules, images_per_step=4)
        generator = torch.Generator().manual_seed(3)
        for _ in range(3):
            images = torch.randn(4, 2, 4, 4, generator=generator)
            classifier(backbone(images)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        weights[name] = {
            key: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach()
            for key, value in backbone.state_dict().items()
        }
    return weights


def refusal(sgd: dict[str, Any]) -> str:
    """What is said of a fused SGD."""
    backbone = fully_shard(network(), mesh=init_device_mesh("cpu", (2,)))
    try:
        build_optimizer({**sgd, "fused": True}, {"backbone": backbone}, 4)
    except ConfigError as error:
        return str(error)
    return ""


def train_divided(rank: int, specs: Specs) -> tuple[dict[str, dict[str, torch.Tensor]], str]:
    return trained(specs, divided=True), refusal(specs["sgd"]) if rank == 0 else ""


@pytest.mark.slow
def test_parameters_divided_by_fsdp_are_updated_as_whole_ones(tmp_path: Path):
    from frtrain.commands.composition import group_defaults  # not in the processes, which start faster without

    specs = {name: group_defaults("optimizer", name) for name in ("sgd", "adamw", "lamb", "lars")}
    specs["fused adamw"] = {**specs["adamw"], "fused": True}
    (divided, refused), _ = of_each_rank(train_divided, 2, tmp_path, specs)
    whole = trained(specs, divided=False)
    for name in specs:
        for key, value in whole[name].items():
            torch.testing.assert_close(
                divided[name][key], value, rtol=1e-5, atol=1e-6, msg=lambda text, at=(name, key): f"{at}: {text}"
            )
    assert "optimizer.fused=true: torch has no such kernel for weights divided by FSDP" in refused
