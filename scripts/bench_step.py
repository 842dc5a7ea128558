"""Time and peak memory of a training step: precisions, compiler, activation checkpointing, each against float32 in the same run.

    python scripts/bench_step.py backbone=iresnet18 batch=32 steps=5

Every variant runs in a process of its own, one after the other, and all again `rounds` times; times are the medians over all
steps, memory is the peak of the process less what it had before the first step. On a GPU both are the device's. With `clock=cpu`
times are those of the processor (of all threads), which other work on the machine disturbs less; `only=NAME;NAME` picks variants.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from frtrain.backbones import BACKBONES
from frtrain.backbones.base import Backbone
from frtrain.classifier import CLASSIFIERS
from frtrain.commands.composition import compose_plain
from frtrain.losses import LOSSES
from frtrain.training.activation_checkpointing import recompute_in_backward
from frtrain.training.hardware import choose_device
from frtrain.training.optimization import Optimization
from frtrain.training.optimizers import parameter_groups, with_rates
from frtrain.training.weight_average import WeightAverage

VARIANTS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "fp32, NCHW": {"channels_last": False},
    "bf16": {"precision": torch.bfloat16},
    "fp16": {"precision": torch.float16},
    "compile": {"compile": True},
    "bf16 + compile": {"precision": torch.bfloat16, "compile": True},
    "activation checkpointing": {"recompute": True},
    "compile + checkpointing": {"compile": True, "recompute": True},
    "EMA": {"average": True},
    "compiled classifier": {"compile_classifier": True},
}
"""channels_last unless it says otherwise."""


class Constant:
    """A learning rate that stays."""

    def factor(self, step: int) -> float:
        """1."""
        return 1.0

    def momentum(self, step: int) -> float | None:
        """That of the optimizer."""
        return None


def backbone_of(name: str) -> Backbone:
    """A backbone with the parameters of its configuration."""
    return BACKBONES.build(compose_plain("train", [f"backbone={name}"])["backbone"])


def measured(
    variant: str, backbone_name: str, clock: str, batch: int, classes: int, steps: int, threads: int
) -> dict[str, float]:
    """Median milliseconds of a step, peak memory of it in MiB, and seconds of the first step."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    settings, device = VARIANTS[variant], choose_device("auto").value
    layout = torch.channels_last if settings.get("channels_last", True) else torch.contiguous_format
    backbone = backbone_of(backbone_name).to(device).to(memory_format=layout)
    config = compose_plain("train", [f"backbone={backbone_name}", "classifier=chunked"])
    head = LOSSES.build(config["loss"])
    classifier = CLASSIFIERS.build(
        config["classifier"], head=head, classes=classes, embedding_size=backbone.embedding_size
    ).to(device)
    average = WeightAverage(backbone, 0.9999) if settings.get("average") else None
    if settings.get("recompute"):
        recompute_in_backward(backbone.blocks())
    network = torch.compile(backbone, dynamic=False) if settings.get("compile") else backbone
    classifier.compiled = settings.get("compile_classifier", False)
    modules = {"backbone": backbone, "classifier": classifier}
    optimizer = torch.optim.SGD(with_rates(parameter_groups(modules), 0.01, 5e-4), lr=0.01, momentum=0.9)
    optimization = Optimization(modules, optimizer, Constant(), 1, 5.0, 10, average=average)
    images = torch.randn(batch, 3, 112, 112).to(device).contiguous(memory_format=layout)
    labels = torch.randint(classes, (batch,)).to(device)
    precision = settings.get("precision")
    now = time.process_time if clock == "cpu" else time.perf_counter

    def step(number: int) -> float:
        began = now()
        with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
            embedding = network(images)
        loss, _ = classifier(embedding.float(), labels)
        optimization.backward(loss)
        classifier.advance(optimization.step(number))
        if device.type == "cuda":
            torch.cuda.synchronize()
        return now() - began

    before = _memory(device, current=True)
    first = step(0)
    seconds = [step(number) for number in range(1, steps + 1)]
    return {"ms": 1000 * statistics.median(seconds), "mib": _memory(device) - before, "first": first}


def _memory(device: torch.device, current: bool = False) -> float:
    if device.type == "cuda":
        return (torch.cuda.memory_allocated() if current else torch.cuda.max_memory_allocated()) / 2**20
    name = "VmRSS" if current else "VmHWM"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 2**10


def in_a_process(*arguments: Any) -> dict[str, float] | str:
    """`measured`, in a fresh process; the error in a line where it fails."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(sending, arguments))
    process.start()
    sending.close()
    try:
        answer: dict[str, float] | str = receiving.recv()
    except EOFError:
        answer = "the process ended without an answer"
    process.join()
    return answer


def _report(sending: Any, arguments: tuple[Any, ...]) -> None:
    try:
        sending.send(measured(*arguments))
    except Exception as error:
        sending.send(f"{type(error).__name__}: {str(error).splitlines()[0]}")


def main() -> None:
    """Measure and print a table."""
    given = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    settings = {
        "backbone": "iresnet_tiny",
        "batch": "64",
        "classes": "10000",
        "steps": "5",
        "rounds": "1",
        "threads": "1",
        "clock": "wall",
    }
    settings |= {key: value for key, value in given.items() if key != "only"}
    variants = [
        name for name in VARIANTS if not given.get("only") or name in given["only"].split(";") or name == "fp32"
    ]
    common = (
        settings["backbone"],
        settings["clock"],
        *(int(settings[key]) for key in ("batch", "classes", "steps", "threads")),
    )
    found: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for _ in range(int(settings["rounds"])):
        for name in variants:
            answer = in_a_process(name, *common)
            if isinstance(answer, str):
                print(f"{name}: {answer}", flush=True)
            else:
                found[name].append(answer)
                numbers = ", ".join(f"{key} {value:.1f}" for key, value in answer.items())
                print(f"{name}: {numbers}", file=sys.stderr, flush=True)
    means = {
        name: {key: statistics.median(answer[key] for answer in answers) for key in ("ms", "mib", "first")}
        for name, answers in found.items()
        if answers
    }
    base = means["fp32"]
    print(json.dumps(settings), "torch", torch.__version__)
    print(f"{'':28}{'ms':>9}{'ratio':>8}{'MiB':>9}{'ratio':>8}{'first s':>9}")
    for name, value in means.items():
        time_ratio, memory_ratio = value["ms"] / base["ms"], value["mib"] / base["mib"]
        print(
            f"{name:28}{value['ms']:9.1f}{time_ratio:8.2f}{value['mib']:9.0f}{memory_ratio:8.2f}{value['first']:9.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
