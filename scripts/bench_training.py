"""Images per second of whole training steps, as ratios to float32 in one process, from runs of the command line.

    python scripts/bench_training.py                                         # on JPEG crops made for it; a few minutes
    python scripts/bench_training.py data=folder data.root=data/lfw/crops    # on crops of yours; any override may follow
    python scripts/bench_training.py --gpu --peak-tflops 989                 # IResNet-50 on a CUDA machine, by number of identities

Every run is a process of its own, started as a user starts it: decoding, augmentation, backbone, classifier, backward pass,
clipping and update, with the speed that its metrics.jsonl tells. The steps of `--warmup` do not count (start-up, compilation), of
the others the median of five at a time. The cases take turns for `--rounds` rounds, every second one backwards, with a run of the
reference before and after each; a ratio is to the mean of these two. Its spread is the least and the largest of the rounds. No
round begins that would end after `--minutes`.

`--gpu` prints what one GPU, and all of the machine, do with `--classes` identities. The share of the peak is 6 × the
multiply-accumulates of the backbone (`frtrain.backbones.cost`: 2 operations each, forward once and backward twice) × images per
second and GPU, by the dense bfloat16 peak that the vendor publishes (`--peak-tflops`; H100 SXM: 989). The head's products and what
is computed again are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import cv2
import torch

PUBLISHED_EVERY = 5
"""Steps between two lines of metrics.jsonl."""

PLAIN = (
    "trainer.epochs=null",
    f"log.every_steps={PUBLISHED_EVERY}",
    "log.tensorboard=false",
    "log.progress=none",
    "log.pictures_every_epochs=null",
    "validation.fraction=0",
    "checkpoint.every_epochs=1000000",
)
"""Nothing but training steps."""

GPU_IDENTITIES = (100_000, 1_000_000)


@dataclass(frozen=True)
class Case:
    """One way to train.

    Attributes:
        name: as printed.
        overrides: of the command line.
        processes: more than one are started by torchrun.
    """

    name: str
    overrides: tuple[str, ...]
    processes: int = 1


REFERENCE = Case("fp32, channels_last", ("trainer.precision=fp32", "trainer.channels_last=true"))

CASES = (
    Case("bf16", ("trainer.precision=bf16", "trainer.channels_last=true")),
    Case("fp32, compile", ("trainer.precision=fp32", "trainer.channels_last=true", "trainer.compile=true")),
    Case("bf16, compile", ("trainer.precision=bf16", "trainer.channels_last=true", "trainer.compile=true")),
    Case("fp32, channels_last off", ("trainer.precision=fp32", "trainer.channels_last=false")),
    Case(
        "fp32, activation checkpointing",
        ("trainer.precision=fp32", "trainer.channels_last=true", "trainer.activation_checkpointing=true"),
    ),
    Case("fp32, two processes", ("trainer.precision=fp32", "trainer.channels_last=true"), processes=2),
    Case("bf16, two processes", ("trainer.precision=bf16", "trainer.channels_last=true"), processes=2),
)


@dataclass(frozen=True)
class Measured:
    """What a run told of itself.

    Attributes:
        images_per_second: of all processes together.
        data_wait_share: of the time, in which steps waited for images.
        peak_mib: what tensors on the GPU took at most, or the process in main memory.
    """

    images_per_second: float
    data_wait_share: float
    peak_mib: float


@dataclass
class Rounds:
    """What the rounds gave for one case."""

    runs: list[Measured] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)


def run(case: Case, common: Sequence[str], warmup: int, steps: int) -> Measured:
    """Train `warmup + steps` steps in processes of their own."""
    start = [sys.executable, "-m", "frtrain"]
    if case.processes > 1:
        launch = ["torch.distributed.run", f"--nproc-per-node={case.processes}", "--standalone"]
        start = [sys.executable, "-m", *launch, "-m", "frtrain"]
    # What one process computes with is decided as for several: by the cores.
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    with tempfile.TemporaryDirectory(prefix="frtrain-bench-") as folder:
        arguments = [*PLAIN, *case.overrides, *common, f"trainer.max_steps={warmup + steps}", f"run_dir={folder}/run"]
        finished = subprocess.run([*start, *arguments], capture_output=True, text=True, check=False, env=environment)
        if finished.returncode:
            sys.exit(f"{case.name}: {' '.join(arguments)}\n{finished.stdout[-2000:]}{finished.stderr[-2000:]}")
        lines = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    counted = [line for line in lines if line["step"] > warmup and "speed/images_per_second" in line]
    last = counted[-1]
    return Measured(
        statistics.median(line["speed/images_per_second"] for line in counted),
        statistics.median(line["speed/data_wait_share"] for line in counted),
        last.get("memory/device_mib", last.get("memory/host_peak_mib", float("nan"))),
    )


def in_rounds(
    cases: Sequence[Case], common: Sequence[str], warmup: int, steps: int, rounds: int, minutes: float
) -> dict[str, Rounds]:
    """All cases in turn, each between two runs of the reference."""
    found = {case.name: Rounds() for case in (REFERENCE, *cases)}
    began = time.monotonic()

    def measured(case: Case) -> float:
        value = run(case, common, warmup, steps)
        found[case.name].runs.append(value)
        print(f"  {case.name}: {value.images_per_second:.1f} images/s", file=sys.stderr, flush=True)
        return value.images_per_second

    for number in range(rounds):
        round_began = time.monotonic()
        before = measured(REFERENCE)
        for case in cases if number % 2 == 0 else cases[::-1]:
            speed, after = measured(case), measured(REFERENCE)
            found[case.name].ratios.append(speed / statistics.mean((before, after)))
            before = after
        now = time.monotonic()
        if now - began + (now - round_began) > minutes * 60:
            break
    return found


def print_ratios(found: dict[str, Rounds]) -> None:
    print("| one step | images/s | of the reference | least to largest | waits for data |")
    print("|---|---|---|---|---|")
    for name, rounds in found.items():
        speed = statistics.median(value.images_per_second for value in rounds.runs)
        wait = statistics.median(value.data_wait_share for value in rounds.runs)
        ratio = f"{statistics.median(rounds.ratios):.2f} ×" if rounds.ratios else "the reference"
        spread = f"{min(rounds.ratios):.2f} to {max(rounds.ratios):.2f}" if rounds.ratios else ""
        print(f"| {name} | {speed:.1f} | {ratio} | {spread} | {wait:.0%} |")


def make_crops(folder: Path, count: int, size: int = 112) -> list[Path]:
    """Synthetic faces as JPEG files, 20 of each person."""
    from frtrain.commands.composition import group_defaults
    from frtrain.data import SOURCES

    per_person = 20
    spec = {**group_defaults("data", "synthetic"), "identities": -(-count // per_person), "cache": None}
    source = SOURCES.build({**spec, "images_per_identity": per_person})
    paths = []
    for index in range(count):
        person = folder / f"person_{index // per_person:04d}"
        person.mkdir(parents=True, exist_ok=True)
        paths.append(person / f"{index % per_person:02d}.jpg")
        pixels = cv2.resize(source.image(index), (size, size))
        if not cv2.imwrite(str(paths[-1]), pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95]):
            sys.exit(f"{paths[-1]}: cannot be written")
    return paths


def list_of_identities(crops: Sequence[Path], folder: Path, identities: int) -> Path:
    """A list of so many identities with one image each: links to the crops, which are read as files of their own."""
    folder.mkdir()
    lines = []
    for identity in range(identities):
        within = folder / f"{identity // 1000:04d}"
        if identity % 1000 == 0:
            within.mkdir()
        path = within / f"{identity:07d}.jpg"
        path.hardlink_to(crops[identity % len(crops)])
        lines.append(f"{path.relative_to(folder)} {identity}\n")
    listing = folder / "list.txt"
    listing.write_text("".join(lines))
    return listing


def on_cpu(arguments: argparse.Namespace, overrides: list[str], folder: Path) -> None:
    if not any(text.startswith("data=") for text in overrides):
        make_crops(folder / "crops", arguments.crops)
        overrides = ["data=folder", f"data.root={folder / 'crops'}", *overrides]
    common = [f"backbone={arguments.backbone}", f"trainer.batch_size={arguments.batch}", *overrides]
    cases = [case for case in CASES if arguments.only in case.name]
    found = in_rounds(cases, common, arguments.warmup, arguments.steps, arguments.rounds, arguments.minutes)
    done = max(len(rounds.ratios) for rounds in found.values()) if cases else len(found[REFERENCE.name].runs)
    print(f"{_machine()}; {arguments.backbone}, batch {arguments.batch}, {arguments.steps} steps a run, {done} rounds")
    print_ratios(found)


def on_gpu(arguments: argparse.Namespace, overrides: list[str], folder: Path) -> None:
    from frtrain.backbones.cost import cost_of
    from frtrain.commands.composition import group_defaults

    gpus = torch.cuda.device_count()
    if not gpus:
        sys.exit("--gpu: torch sees no CUDA device here")
    operations = 6 * cost_of(group_defaults("backbone", arguments.backbone)).multiply_accumulates
    crops = make_crops(folder / "crops", arguments.crops)
    print(
        f"{_machine()}, {gpus} × {torch.cuda.get_device_name()}; {arguments.backbone}, bf16, batch {arguments.batch} a GPU"
    )
    print(
        "| identities | classifier | GPUs | images/s | least to largest | peak memory, GiB | share of peak | waits for data |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for identities in arguments.classes:
        listing = list_of_identities(crops, folder / f"of_{identities}", identities)
        cases = [
            Case(classifier, (f"classifier={classifier}",), processes)
            for processes in sorted({1, gpus})
            for classifier in ("dense", "chunked" if processes == 1 else "sharded", "sampled")
            if arguments.only in classifier
        ]
        runs: dict[Case, list[Measured]] = {case: [] for case in cases}
        for number in range(arguments.rounds):
            for case in cases if number % 2 == 0 else cases[::-1]:
                common = [
                    *("data=list", f"data.list={listing}", f"backbone={arguments.backbone}", "trainer.precision=bf16"),
                    *(f"trainer.batch_size={arguments.batch * case.processes}", *overrides),
                ]
                runs[case].append(run(case, common, arguments.warmup, arguments.steps))
        for case, measured in runs.items():
            speeds = [value.images_per_second for value in measured]
            speed = statistics.median(speeds)
            peak = arguments.peak_tflops
            share = f"{operations * speed / case.processes / (peak * 1e12):.1%}" if peak else "-"
            memory = max(value.peak_mib for value in measured) / 1024
            wait = statistics.median(value.data_wait_share for value in measured)
            cells = (
                f"{identities:,}",
                case.name,
                case.processes,
                f"{speed:.0f}",
                f"{min(speeds):.0f} to {max(speeds):.0f}",
            )
            print("|", " | ".join(map(str, (*cells, f"{memory:.1f}", share, f"{wait:.0%}"))), "|", flush=True)


def _machine() -> str:
    return f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, {date.today()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of training: data=folder data.root=..., anything")
    parser.add_argument("--backbone", help="iresnet_tiny; with --gpu: iresnet50")
    parser.add_argument("--batch", type=int, help="images of a step: 64; with --gpu, of each GPU: 128")
    parser.add_argument("--warmup", type=int, default=5, help="first steps, which do not count; a multiple of 5")
    parser.add_argument("--steps", type=int, help="steps that count: 15; with --gpu: 100")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=7.5, help="no round begins that would end later (not --gpu)")
    parser.add_argument("--crops", type=int, default=320, help="JPEG files that are made where no data are given")
    parser.add_argument("--only", default="", help="cases whose name contains this, and the reference")
    parser.add_argument("--gpu", action="store_true", help="IResNet-50 on the CUDA devices of this machine")
    parser.add_argument("--classes", type=int, nargs="+", default=GPU_IDENTITIES, help="with --gpu: identities")
    parser.add_argument("--peak-tflops", type=float, help="with --gpu: published dense bfloat16 peak of one GPU")
    arguments = parser.parse_intermixed_args()
    arguments.backbone = arguments.backbone or ("iresnet50" if arguments.gpu else "iresnet_tiny")
    arguments.batch = arguments.batch or (128 if arguments.gpu else 64)
    arguments.steps = arguments.steps or (100 if arguments.gpu else 15)
    if arguments.warmup % PUBLISHED_EVERY or arguments.steps < PUBLISHED_EVERY:
        parser.error(f"--warmup must be a multiple of {PUBLISHED_EVERY}, and --steps at least that")
    with tempfile.TemporaryDirectory(prefix="frtrain-bench-") as folder:
        (on_gpu if arguments.gpu else on_cpu)(arguments, arguments.overrides, Path(folder))


if __name__ == "__main__":
    main()
