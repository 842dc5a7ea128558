"""Speed of backbones by precision and memory layout, as a Markdown table.

    python scripts/bench_backbones.py --backbones iresnet_tiny iresnet18 --batch 32 --threads 2

The modes of a backbone take turns, batch by batch, and the fastest batch of each counts: on a machine that does other
work as well, the ratios stay meaningful. A training step is the forward and backward pass, without loss and optimizer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from frtrain.backbones import BACKBONES, cost
from frtrain.backbones.base import CROP_SIZE
from frtrain.config_files import config_folder


@dataclass(frozen=True)
class Mode:
    name: str
    precision: torch.dtype
    layout: torch.memory_format


MODES = (
    Mode("fp32", torch.float32, torch.contiguous_format),
    Mode("channels_last", torch.float32, torch.channels_last),
    Mode("bf16", torch.bfloat16, torch.contiguous_format),
    Mode("bf16 + channels_last", torch.bfloat16, torch.channels_last),
)
HEADINGS = ["backbone", "parameters", "MACs", "pass", f"{MODES[0].name}, img/s", *(mode.name for mode in MODES[1:])]


def configured(name: str) -> dict[str, Any]:
    values = OmegaConf.to_container(OmegaConf.load(config_folder() / "backbone" / f"{name}.yaml"))
    if not isinstance(values, dict):
        raise SystemExit(f"{name}.yaml must be a mapping")
    return {str(key): value for key, value in values.items()}


def forward(backbone: nn.Module, images: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
        return backbone(images)


def infer(backbone: nn.Module, images: torch.Tensor, precision: torch.dtype) -> None:
    with torch.inference_mode():
        forward(backbone, images, precision)


def train(backbone: nn.Module, images: torch.Tensor, precision: torch.dtype) -> None:
    forward(backbone, images, precision).square().mean().backward()


def seconds_of(step: Callable[[], None], device: torch.device) -> float:
    started = time.perf_counter()
    step()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - started


def images_per_second(
    name: str, step: Callable[[nn.Module, torch.Tensor, torch.dtype], None], options: argparse.Namespace
) -> list[float]:
    """Images per second of every mode, in the order of `MODES`."""
    device = torch.device(options.device)
    setups = []
    for mode in MODES:
        torch.manual_seed(0)
        backbone = BACKBONES.build(configured(name)).to(device).to(memory_format=mode.layout).train(step is train)
        images = torch.rand(options.batch, 3, CROP_SIZE, CROP_SIZE, device=device) * 2 - 1
        setups.append((backbone, images.contiguous(memory_format=mode.layout), mode.precision))
    best = [float("inf")] * len(MODES)
    warm_up, deadline = True, time.perf_counter() + options.seconds * len(MODES)
    while warm_up or time.perf_counter() < deadline or best[-1] == float("inf"):
        for number, (backbone, images, precision) in enumerate(setups):
            seconds = seconds_of(lambda: step(backbone, images, precision), device)  # noqa: B023
            best[number] = best[number] if warm_up else min(best[number], seconds)
        warm_up = False
    return [options.batch / seconds for seconds in best]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES.names(), metavar="NAME", help="default: all")
    parser.add_argument("--batch", type=int, default=32, help="images per step (default %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=10, help="per mode and pass (default %(default)s)")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    print(f"torch {torch.__version__}, {options.device}, {options.threads} threads, batch {options.batch}\n")
    print("| " + " | ".join(HEADINGS) + " |")
    print("|" + "---|" * len(HEADINGS))
    for name in options.backbones:
        size = cost(BACKBONES.build(configured(name)))
        shown = [name, f"{size.parameters / 1e6:.2f} M", f"{size.multiply_accumulates / 1e9:.2f} G"]
        for label, step in (("forward", infer), ("training", train)):
            reference, *others = images_per_second(name, step, options)
            ratios = [f"{speed / reference:.2f} ×" for speed in others]
            print("| " + " | ".join([*shown, label, f"{reference:.1f}", *ratios]) + " |", flush=True)


if __name__ == "__main__":
    main()
