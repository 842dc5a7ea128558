"""`python -m frtrain align`: photographs to aligned crops."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID

from frtrain.alignment.crops import CropStyle
from frtrain.alignment.detector import DETECTORS
from frtrain.alignment.packing import To
from frtrain.alignment.photographs import Links, describe_ignored
from frtrain.alignment.pipeline import Request, Summary, Watcher, align
from frtrain.alignment.report import REPORT_NAME, Record
from frtrain.alignment.shards import Rank
from frtrain.alignment.transform import TEMPLATES, crop_size
from frtrain.bars import rated_columns
from frtrain.errors import ConfigError
from frtrain.schema import NonNegativeInt, PositiveInt, Section, nearest
from frtrain.training.hardware import Hardware, choose_device, this_machine

EXAMPLES = """
python -m frtrain align source=/photos target=/crops
python -m frtrain align source=/photos target=/crops no_face=centre format=png detector.min_face_size=40
python -m frtrain align source=/photos target=/faces to=recordio landmarks=points.csv
torchrun --nproc-per-node=8 -m frtrain align source=/photos target=/crops
"""

_NAMED_AT_MOST = 5
_MOST_WORKERS_OF_A_GPU = 16
_CORES_OF_ONE_PROCESS = 2


class Config(Section):
    """The keys of configs/align.yaml.

    Attributes:
        source: folder of photographs, of any depth.
        target: folder of crops, or of the pack; must not overlap the source.
        to: what the crops are written as.
        detector: the node of a registered detector.
        landmarks: CSV file of five landmarks per photograph.
        landmarks_missing: what becomes of a photograph without a line there.
        no_face: what becomes of a photograph without a found face.
        size: height of a crop, pixels; the width follows from the template.
        template: a name of `frtrain.alignment.transform.TEMPLATES`.
        margin: added around the template on each side, as a share of its height and width.
        format: of the crops.
        quality: of a JPEG.
        links: whether links that lead outside of the source are followed.
        batch_size: photographs searched at once, at most.
        workers: processes that align; 0: this one does it all.
        device: auto, cpu, cuda, cuda:1, mps.
        limit: only the first so many photographs.
        redo: delete the crops of earlier calls to this target and start anew.
    """

    source: str
    target: str
    to: To
    detector: dict[str, Any]
    landmarks: str | None
    landmarks_missing: Literal["detect", "skip"]
    no_face: Literal["skip", "centre"]
    size: Annotated[int, Interval(ge=16, le=4096)]
    template: str
    margin: Annotated[float, Interval(ge=0, le=2)]
    format: Literal["jpg", "png"]
    quality: Annotated[int, Interval(ge=1, le=100)]
    links: Links
    batch_size: PositiveInt
    workers: Literal["auto"] | NonNegativeInt
    device: str
    limit: PositiveInt | None
    redo: bool


def check(config: Config) -> None:
    """Find what is wrong with the components before anything is built.

    Raises:
        ConfigError: unknown template, detector or detector parameter; crops that the pack cannot hold.
    """
    if config.template not in TEMPLATES:
        raise ConfigError(
            f"template={config.template}: unknown{nearest(config.template, TEMPLATES)} (known: {', '.join(TEMPLATES)})"
        )
    DETECTORS.check(config.detector, "device")
    height, width = crop_size(config.size, config.template)
    if config.to == "recordio" and (height, width) != (112, 112):
        raise ConfigError(
            f"to=recordio: its readers expect crops of 112x112, but size={config.size}, template={config.template} are "
            f"{height}x{width}; use to=folder or to=webdataset"
        )


def choose_workers(workers: Literal["auto"] | int, device: torch.device, machine: Hardware | None = None) -> int:
    """Processes that align for this rank. A GPU is fed by several; on a CPU of more than two cores each core has one.

    On two cores they were measured to gain nothing (docs/alignment.md): MTCNN itself searches two images at a time.
    """
    if workers != "auto":
        return workers
    machine = machine or this_machine()
    cores = max(1, machine.cores_usable // machine.local_ranks)
    if device.type == "cpu":
        return cores if cores > _CORES_OF_ONE_PROCESS else 0
    return max(1, min(_MOST_WORKERS_OF_A_GPU, cores - 1))


def run(config: Config) -> None:
    """Align everything beneath `config.source`, and say what became of it.

    Raises:
        FrtrainError: as `frtrain.alignment.pipeline.align`.
    """
    check(config)
    console = Console(emoji=False)
    rank = Rank.of(os.environ)
    device = choose_device(config.device).value
    request = Request(
        source=Path(config.source).expanduser(),
        target=Path(config.target).expanduser(),
        style=CropStyle(config.size, config.template, config.format, config.quality, config.no_face, config.margin),
        build_detector=partial(DETECTORS.build, config.detector, device=device),
        detector_settings=config.detector,
        batch_size=config.batch_size,
        to=config.to,
        workers=choose_workers(config.workers, device),
        shared_detector=device.type != "cpu",
        landmarks=Path(config.landmarks).expanduser() if config.landmarks is not None else None,
        landmarks_missing=config.landmarks_missing,
        links=config.links,
        limit=config.limit,
        redo=config.redo,
        rank=rank,
    )
    started = time.monotonic()
    with _progress(console, shown=rank.number == 0) as watcher:
        summary = align(request, watcher)
    for line in summary_lines(summary, request, time.monotonic() - started):
        console.print(escape(line), highlight=False, soft_wrap=True)


def summary_lines(summary: Summary, request: Request, seconds: float) -> list[str]:
    """The summary of a call in a few sentences, nothing left out that a user would have to know."""
    total, outcomes, rank = summary.outcomes.total(), summary.outcomes, request.rank
    if summary.left_to_others is not None:
        return [
            f"Rank {rank.number} of {rank.count}: its {total} photographs are done, {summary.now} now, in {seconds:.0f} s. "
            f"Other ranks had {summary.left_to_others} left; the last one to end completes the report, or the next call."
        ]
    by_whom = "" if rank.alone else f" by rank {rank.number}, the last one"
    lines = [
        f"{total} photographs: {outcomes['aligned']} aligned ({outcomes['aligned'] / max(1, total):.2%}), "
        f"{outcomes['centre']} without a face cut at the centre, {outcomes['skipped']} skipped, "
        f"{outcomes['unreadable']} unreadable.",
        f"{summary.now} now{by_whom}, in {seconds:.0f} s ({summary.now / seconds:.1f} images/s); "
        f"{summary.earlier} by earlier calls. "
        f"{summary.several_faces} showed several faces; {summary.second_search} needed the second search.",
    ]
    lines += _pack_lines(summary, request)
    listing = summary.listing
    if summary.unknown_landmarks:
        lines.append(f"{summary.unknown_landmarks} lines of {request.landmarks} name no photograph of the source.")
    if listing.ignored:
        lines.append(f"{listing.ignored.total()} files are no images: {describe_ignored(listing.ignored)}.")
    if listing.outside_links:
        lines.append(f"{listing.outside_links} links led to folders outside the source, and were followed.")
    lines += [f"Passed over: {sentence}." for sentence in listing.passed_over[:_NAMED_AT_MOST]]
    if len(listing.passed_over) > _NAMED_AT_MOST:
        lines.append(f"Passed over: {len(listing.passed_over) - _NAMED_AT_MOST} more.")
    lines.append(f"Each photograph has a line in {request.target / REPORT_NAME}.")
    return [line.encode("utf-8", "backslashreplace").decode() for line in lines]


def _pack_lines(summary: Summary, request: Request) -> list[str]:
    if summary.pack is None:
        return []
    images, identities = len(summary.pack.crops), len(summary.pack.classes)
    if not images:
        return [f"There is nothing to pack as {request.to}."]
    lines = [f"{request.target} holds {images} images of {identities} identities as {request.to}."]
    if summary.pack.outside:
        lines.append(f"{summary.pack.outside} crops of photographs outside identity folders are left out of it.")
    return lines


class _Bar(Watcher):
    def __init__(self, progress: Progress):
        self._progress = progress
        self._task: TaskID | None = None
        self._packing: TaskID | None = None
        self._done = 0
        self._started = 0.0

    def start(self, total: int, done: int) -> None:
        self._task = self._progress.add_task("aligning", total=total, completed=done, rate="")
        self._started = time.monotonic()

    def advance(self, record: Record) -> None:
        self._done += 1
        if self._task is not None:
            rate = self._done / (time.monotonic() - self._started)
            self._progress.update(self._task, advance=1, rate=f"{rate:.1f} images/s")

    def pack(self, written: int, total: int) -> None:
        if self._packing is None:
            self._packing = self._progress.add_task("packing", total=total, rate="")
        self._progress.update(self._packing, completed=written)


@contextmanager
def _progress(console: Console, shown: bool) -> Iterator[Watcher]:
    """A bar; several ranks would write over each other's."""
    if not shown:
        yield Watcher()
        return
    with Progress(*rated_columns(), console=console) as progress:
        yield _Bar(progress)
