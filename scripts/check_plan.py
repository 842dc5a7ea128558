"""What `frtrain plan` predicts, against what training takes here, and against a published table.

    python scripts/check_plan.py                   # several configurations on this CPU: predicted and measured peaks
    python scripts/check_plan.py --only dense      # those whose name has the word
    python scripts/check_plan.py --published       # memory over the number of identities, as arcface_torch publishes it

Measured is training itself, `frtrain.training` with its loader, over blank crops of as many identities as asked, in a process of its own
for each figure:
- allocator: the peak of what torch's allocator has given out and not got back, by torch.profiler, from the first weight to the second
  step, and numpy's memory for the centres' gradient, which is not torch's. It includes what operations allocate and free within
  themselves, which a plan cannot see. This is what the prediction of tensors is held against.
- resident: how much the resident set of the process (with its peak, VmHWM) grew after a tiny run, when all libraries are
  loaded. It includes the allocator's gaps and oneDNN's memory. What the process had before is printed, too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from frtrain.commands import plan
from frtrain.commands.composition import compose_plain
from frtrain.data import SOURCES
from frtrain.data.names import Names
from frtrain.planning.gpus import GPUS
from frtrain.planning.job import Job
from frtrain.planning.plain_head import rehearse_plain_head
from frtrain.planning.prediction import Prediction, predict
from frtrain.schema import PositiveInt, parse

MIB = 2**20
STEPS = 2
BOUND = 0.15


@dataclass(frozen=True)
class Case:
    """A configuration to measure."""

    name: str
    identities: int
    overrides: tuple[str, ...]
    processes: int = 1


SMALL = ("backbone=iresnet_tiny", "backbone.embedding_size=512", "trainer.batch_size=64", "trainer.precision=fp32")

CASES = (
    Case(
        "iresnet_tiny, batch 128, fp32",
        600,
        ("backbone=iresnet_tiny", "trainer.batch_size=128", "trainer.precision=fp32"),
    ),
    Case("iresnet18, batch 16, fp32", 600, ("backbone=iresnet18", "trainer.batch_size=16", "trainer.precision=fp32")),
    Case("iresnet18, batch 16, bf16", 600, ("backbone=iresnet18", "trainer.batch_size=16", "trainer.precision=bf16")),
    Case(
        "iresnet18, batch 16, fp32, recomputed",
        600,
        (
            "backbone=iresnet18",
            "trainer.batch_size=16",
            "trainer.precision=fp32",
            "trainer.activation_checkpointing=true",
        ),
    ),
    Case("dense, 100 000 identities", 100_000, (*SMALL, "classifier=dense")),
    Case("chunked, 100 000 identities", 100_000, (*SMALL, "classifier=chunked")),
    Case("chunked, 100 000 identities, adamw", 100_000, (*SMALL, "classifier=chunked", "optimizer=adamw")),
    Case("chunked, 400 000 identities", 400_000, (*SMALL, "classifier=chunked")),
    Case("sampled, 200 000 identities", 200_000, (*SMALL, "classifier=sampled")),
    Case("sharded, 200 000 identities, 2 processes", 200_000, (*SMALL, "classifier=sharded"), 2),
)

WARM_UP = Case(
    "warm-up",
    8,
    (
        "backbone.widths=[16,16,16]",
        "backbone.blocks=[1,1,1]",
        "backbone.embedding_size=16",
        "trainer.batch_size=8",
        "trainer.precision=fp32",
    ),
)
"""Loads what training loads, and computes next to nothing."""

PUBLISHED = {  # identities: MB of a GPU with data parallel centres, model parallel ones, and Partial FC of 0.1; None: too many
    125_000: (7358, 5306, 4868),
    250_000: (9940, 5826, 5004),
    500_000: (14220, 7114, 5202),
    1_000_000: (23708, 9966, 5620),
    1_400_000: (32252, 11178, 6056),
    2_000_000: (None, 13978, 6472),
    4_000_000: (None, 23238, 8284),
    5_500_000: (None, 32188, 9854),
    8_000_000: (None, None, 12310),
    16_000_000: (None, None, 19950),
    29_000_000: (None, None, 32324),
}
"""InsightFace arcface_torch, docs/speed_benchmark.md: 8 V100 of 32 GB, R50, 128 images on each, mixed precision."""


@SOURCES.register("blank")
class Blank:
    """One black crop of each of many identities."""

    def __init__(self, identities: PositiveInt):
        self.classes = Names.of(map(str, range(identities)))
        self.labels = np.arange(identities)
        self.fingerprint = f"blank {identities}"

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> NDArray[np.uint8]:
        return np.zeros((112, 112, 3), np.uint8)

    def describe(self, index: int) -> str:
        return f"blank {index}"


def job_of(case: Case, *overrides: str) -> Job:
    composed = compose_plain(
        "plan",
        [
            f"identities={case.identities}",
            f"processes={case.processes}",
            "validation.fraction=0",
            *case.overrides,
            *overrides,
        ],
    )
    return plan.job_of(parse(plan.Config, composed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--how", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(next(case for case in CASES if case.name == arguments.measure), arguments.how)
    elif arguments.published:
        compare_with_published()
    else:
        compare_with_measured([case for case in CASES if arguments.only in case.name])


def compare_with_measured(cases: list[Case]) -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s); MiB of a process")
    print(
        "| configuration | predicted tensors | allocator | ratio | predicted process | resident | ratio | worst moment |"
    )
    print("|---|---|---|---|---|---|---|---|")
    within = 0
    for case in cases:
        prediction = predict(job_of(case))
        tensors = prediction.peak.total
        # No checkpoint is written while it is measured, and what was there after all imports is no growth.
        growth = tensors + prediction.allowances["allocator and scratch"] + prediction.allowances["loader"]
        with ThreadPoolExecutor(1 if case.processes > 1 else 2) as pool:
            (allocator, _), (resident, before) = pool.map(partial(run_measurement, case), ("allocator", "resident"))
        within += abs(tensors / allocator - 1) <= BOUND
        print(
            f"| {case.name} | {tensors / MIB:.0f} | {allocator / MIB:.0f} | {tensors / allocator:.3f} | {growth / MIB:.0f} | "
            f"{resident / MIB:.0f} | {growth / resident:.3f} | {before / MIB:.0f} | {prediction.peak.name} |",
            flush=True,
        )
    print(f"\ntensors within {BOUND:.0%} of the allocator's peak: {within} of {len(cases)}")


def run_measurement(case: Case, how: str) -> tuple[int, int]:
    command = [sys.executable, __file__, "--measure", case.name, "--how", how]
    if case.processes > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={case.processes}", "--standalone"]
        command = [*launcher, *command[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case.name}: {done.stderr[-3000:]}")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    found = json.loads(lines[-1])
    return int(found["bytes"]), int(found["before"])


def measure(case: Case, how: str) -> None:
    """Train some steps and print the peak of the first process."""
    from frtrain.training.distributed import process_group

    with process_group():
        train_a_little(WARM_UP)
        before = _resident_bytes()
        if how == "allocator":
            peak = allocator_peak(case)
        else:
            train_a_little(case)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    if int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps({"bytes": peak, "before": before}), flush=True)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def allocator_peak(case: Case) -> int:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run = train_a_little(case)
    assert profiler.profiler is not None
    results: Any = profiler.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    memory = getattr(run.classifier, "_memory", None)
    array = None if memory is None else memory._array
    return most + (0 if array is None else array.nbytes)


def train_a_little(case: Case) -> Any:
    from frtrain.config import TrainConfig
    from frtrain.signals import StopRequest
    from frtrain.training.build import prepare
    from frtrain.training.loop import train
    from frtrain.training.run_folder import RunFolder

    overrides = [*case.overrides, "validation.fraction=0", f"trainer.max_steps={STEPS}", "log.tensorboard=false"]
    config = parse(TrainConfig, compose_plain("train", [*overrides, "log.progress=none", "trainer.workers=0"]))
    config = config.model_copy(update={"data": {"name": "blank", "identities": case.identities}})
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(config, RunFolder(Path(folder)), None, Console(quiet=True))
        with StopRequest(0) as stop:
            train(prepared.run, prepared.loader, [], stop)
        prepared.run.logbook.close()
    return prepared.run


def compare_with_published() -> None:
    print("MiB of a GPU; 8 × V100 32 GB, IResNet-50, 128 images on each, fp16\n")
    rows: dict[str, list[tuple[float, float]]] = {}
    names = ("data parallel, plain head", "model parallel, plain head", "model parallel, frtrain", "PFC 0.1, frtrain")
    print("| identities | " + " | ".join(f"{name}: published, ours, ratio" for name in names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for identities, (data, model, sampled) in PUBLISHED.items():
        cells = []
        for name, published in zip(names, (data, model, model, sampled), strict=True):
            if published is None:
                cells.append("-")
                continue
            ours = predicted(name, identities).total / MIB
            rows.setdefault(name, []).append((published, ours))
            cells.append(f"{published}, {ours:.0f}, {ours / published:.2f}")
        print(f"| {identities:,} | " + " | ".join(cells) + " |", flush=True)
    print()
    for name, pairs in rows.items():
        published, ours = np.array(pairs).T
        slope = np.polyfit(published, ours, 1)[0]
        print(f"{name}: rank correlation {spearman(published, ours):.3f}, {slope:.2f} MiB for each MB of theirs")
    alike = [pair for name, pairs in rows.items() if name != "model parallel, frtrain" for pair in pairs]
    published, ours = np.array(alike).T
    print(f"like with like, {len(alike)} figures: rank correlation {spearman(published, ours):.3f}")


def predicted(name: str, identities: int) -> Prediction:
    engine = "sampled" if name.startswith("PFC") else "sharded"
    case = Case(name, identities, ("backbone=iresnet50", f"classifier={engine}", "trainer.batch_size=1024"), 8)
    job = job_of(case, "gpu=v100-32g", "trainer.precision=fp16")
    job = replace(job, target=GPUS["v100-32g"])
    if name.endswith("frtrain"):
        return predict(job)
    whole = name.startswith("data")
    head = rehearse_plain_head(identities if whole else identities // 8, 512, 128 if whole else 1024, torch.float16)
    return predict(job, head)


def spearman(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Correlation of the ranks."""
    first, second = (np.argsort(np.argsort(values)).astype(np.float64) for values in (left, right))
    return 1 - 6 * float(np.square(first - second).sum()) / (len(first) * (len(first) ** 2 - 1))


if __name__ == "__main__":
    main()
