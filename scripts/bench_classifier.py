"""Time and memory of the classifier engines, as ratios to a plain dense head in PyTorch, in one run.

    python scripts/bench_classifier.py                                    # B=128, d=512, C=100 000: the losses side by side
    python scripts/bench_classifier.py --growth                           # over the number of classes and the sampling rate

The reference is what one writes without thinking: normalise both, linear, margin on the target, cross_entropy, backward.
Each case runs in a process of its own, so that its peak memory is its own; cases take turns for `--rounds` rounds, each with a
run of the reference beside it, and the fastest step of each counts. Extra memory is what a step adds at its peak to what was there
before: the gradient of the centres included, centres and embeddings not.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOSSES = ("arcface", "sv_softmax", "curricularface", "sface")
PAGE_BYTES = 4096
LARGEST_DENSE = 100_000


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes:
        loss: of `configs/loss`, or `reference`.
        classes, batch, size: C, B and d.
        engine: classifier settings.
    """

    loss: str
    classes: int
    batch: int
    size: int
    engine: tuple[tuple[str, Any], ...] = ()


@dataclass
class Measured:
    """Fastest step in seconds, peak extra memory in bytes."""

    seconds: float
    extra_bytes: int


class Reference(nn.Module):
    """CosFace as a plain dense head."""

    def __init__(self, classes: int, size: int):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(classes, size) * 0.01)

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        cosine = F.linear(F.normalize(embedding), F.normalize(self.centres))
        margin = torch.zeros_like(cosine).scatter_(1, labels[:, None], 0.35)
        return F.cross_entropy(64 * (cosine - margin), labels)


def build(case: Case) -> nn.Module:
    """A module whose call gives the loss, or a pair that begins with it."""
    if case.loss == "reference":
        return Reference(case.classes, case.size)
    from frtrain.classifier import CLASSIFIERS
    from frtrain.commands.composition import group_defaults
    from frtrain.losses import LOSSES as REGISTRY

    engine = dict(case.engine)
    spec = {**group_defaults("classifier", engine["name"]), **engine}
    head = REGISTRY.build(group_defaults("loss", case.loss))
    classifier = CLASSIFIERS.build(spec, head=head, classes=case.classes, embedding_size=case.size)
    classifier.watch = False  # as in all training steps but the published ones
    return classifier


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


class PeakMemory:
    """The largest resident set while it watches, sampled every millisecond or so."""

    def __enter__(self) -> PeakMemory:
        gc.collect()
        self.before = self.peak = resident_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.001):
            self.peak = max(self.peak, resident_bytes())


def measure(case: Case, threads: int, steps: int) -> Measured:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    head = build(case)
    embedding = torch.randn(case.batch, case.size, requires_grad=True)
    labels = torch.randint(case.classes, (case.batch,))

    def step() -> float:
        began = time.perf_counter()
        loss = head(embedding, labels)
        (loss if isinstance(loss, Tensor) else loss[0]).backward()
        return time.perf_counter() - began

    def clear() -> None:
        embedding.grad = None
        head.zero_grad(set_to_none=True)

    clear()
    with PeakMemory() as memory:  # apart from the timing, which the watcher would disturb
        step()
    fastest = float("inf")
    for _ in range(steps):
        clear()
        fastest = min(fastest, step())
    return Measured(fastest, memory.peak - memory.before)


def in_own_process(case: Case, threads: int, steps: int) -> Measured:
    command = [
        sys.executable,
        __file__,
        "--case",
        json.dumps(asdict(case)),
        "--threads",
        str(threads),
        "--steps",
        str(steps),
    ]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        sys.exit(f"{case}: {finished.stderr[-2000:]}")
    return Measured(**json.loads(finished.stdout.splitlines()[-1]))


def in_turns(cases: dict[str, Case], threads: int, steps: int, rounds: int) -> dict[str, Measured]:
    best: dict[str, Measured] = {}
    for _ in range(rounds):
        for name, case in cases.items():
            found = in_own_process(case, threads, steps)
            known = best.get(name, found)
            best[name] = Measured(min(known.seconds, found.seconds), min(known.extra_bytes, found.extra_bytes))
            print(f"  {name}: {found.seconds:.3f} s", file=sys.stderr, flush=True)
    return best


def engine(name: str, **settings: Any) -> tuple[tuple[str, Any], ...]:
    return tuple({"name": name, **settings}.items())


def side_by_side(batch: int, size: int, classes: int) -> dict[str, Case]:
    variants = {
        "float32": engine("chunked"),
        "float32, nothing kept": engine("chunked", keep_mib=0.0),
        "bf16 gradients": engine("chunked", matmul="bf16_gradients"),
        "bf16": engine("chunked", matmul="bf16"),
    }
    cases = {"reference": Case("reference", classes, batch, size)}
    for variant, settings in variants.items():
        cases |= {f"{loss} | {variant}": Case(loss, classes, batch, size, settings) for loss in LOSSES}
    return cases


def growth(batch: int, size: int, largest: int) -> dict[str, Case]:
    cases = {}
    for classes in (3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000):
        if classes > largest:
            continue
        cases[f"reference | {classes}"] = Case("reference", classes, batch, size)
        if classes <= LARGEST_DENSE:
            cases[f"dense | {classes}"] = Case("arcface", classes, batch, size, engine("dense"))
        for rate in (1.0, 0.3, 0.1):
            settings = engine("chunked") if rate == 1 else engine("sampled", rate=rate)
            cases[f"rate {rate} | {classes}"] = Case("arcface", classes, batch, size, settings)
    return cases


def print_table(found: dict[str, Measured], references: Callable[[str], str]) -> None:
    print("| case | step, s | of the reference | extra memory, MiB | of the reference |")
    print("|---|---|---|---|---|")
    for name, value in found.items():
        reference = found.get(references(name))
        ratio = f"{value.seconds / reference.seconds:.2f}" if reference else "-"
        memory = f"{value.extra_bytes / reference.extra_bytes:.2f}" if reference else "-"
        shown = name.replace(" | ", ", ")
        print(f"| {shown} | {value.seconds:.3f} | {ratio} | {value.extra_bytes / 2**20:,.0f} | {memory} |")


def plot(found: dict[str, Measured], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    lines: dict[str, list[tuple[int, Measured]]] = {}
    for name, value in found.items():
        label, number_of_classes = name.split(" | ")
        lines.setdefault(label, []).append((int(number_of_classes), value))
    for number, (label, points) in enumerate(lines.items()):
        numbers = [classes for classes, _ in points]
        style = {"color": "0.4", "linestyle": "--"} if label == "reference" else {"color": f"C{number - 1}"}
        shown = {"reference": "plain dense head", "rate 1.0": "chunked", "dense": "dense"}.get(
            label, f"sampled, {label}"
        )
        time_axes.plot(numbers, [value.seconds for _, value in points], marker="o", label=shown, **style)
        memory_axes.plot(numbers, [value.extra_bytes / 2**30 for _, value in points], marker="o", **style)
    for axes, title in ((time_axes, "forward and backward, s"), (memory_axes, "extra memory at its peak, GiB")):
        axes.set(xscale="log", yscale="log", xlabel="identities", title=title)
        axes.grid(visible=True, which="major", alpha=0.3)
    time_axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--growth", action="store_true", help="over the number of classes and the sampling rate")
    parser.add_argument("--largest", type=int, default=1_000_000, help="classes at which --growth ends")
    parser.add_argument("--only", default="", help="cases whose name contains this, and the reference")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--plot", type=Path, help="with --growth: draw the figures here")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        case = json.loads(arguments.case)
        case["engine"] = tuple(map(tuple, case["engine"]))
        print(json.dumps(asdict(measure(Case(**case), arguments.threads, arguments.steps))))
        return
    if arguments.growth:
        cases = growth(arguments.batch, arguments.size, arguments.largest)
    else:
        cases = side_by_side(arguments.batch, arguments.size, arguments.classes)
    cases = {name: case for name, case in cases.items() if arguments.only in name or name.startswith("reference")}
    print(
        f"torch {torch.__version__}, {platform.machine()}, {arguments.threads} threads, {date.today()}; B={arguments.batch}, d={arguments.size}"
    )
    found = in_turns(cases, arguments.threads, arguments.steps, arguments.rounds)
    print_table(found, lambda name: f"reference | {name.split(' | ')[-1]}" if arguments.growth else "reference")
    if arguments.plot:
        plot(found, arguments.plot)
    if arguments.json:
        arguments.json.write_text(json.dumps({name: asdict(value) for name, value in found.items()}, indent=1))


if __name__ == "__main__":
    main()
