"""`python -m frtrain align`: photographs to aligned crops."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from frtrain.alignment.crops import CropStyle
from frtrain.alignment.detector import DETECTORS
from frtrain.alignment.photographs import describe_ignored
from frtrain.alignment.pipeline import Summary, Watcher, align
from frtrain.alignment.report import REPORT_NAME, Record
from frtrain.alignment.transform import TEMPLATES
from frtrain.errors import ConfigError
from frtrain.schema import PositiveInt, Section, nearest
from frtrain.training.hardware import choose_device

EXAMPLES = """
python -m frtrain align source=/photos target=/crops
python -m frtrain align source=/photos target=/crops no_face=centre format=png detector.min_face_size=40
"""

_NAMED_AT_MOST = 5


class Config(Section):
    """The keys of configs/align.yaml.

    Attributes:
        source: folder of photographs, of any depth.
        target: folder of crops; must not overlap the source.
        detector: the node of a registered detector.
        no_face: what becomes of a photograph without a found face.
        size: height and width of a crop, pixels.
        template: a name of `frtrain.alignment.transform.TEMPLATES`.
        format: of the crops.
        quality: of a JPEG.
        batch_size: photographs of one size searched at once, at most.
        device: auto, cpu, cuda, cuda:1, mps.
        limit: only the first so many photographs.
        redo: delete the crops of earlier calls to this target and start anew.
    """

    source: str
    target: str
    detector: dict[str, Any]
    no_face: Literal["skip", "centre"]
    size: Annotated[int, Interval(ge=16, le=4096)]
    template: str
    format: Literal["jpg", "png"]
    quality: Annotated[int, Interval(ge=1, le=100)]
    batch_size: PositiveInt
    device: str
    limit: PositiveInt | None
    redo: bool


def check(config: Config) -> None:
    """Find what is wrong with the components before anything is built.

    Raises:
        ConfigError: unknown template, detector or detector parameter.
    """
    if config.template not in TEMPLATES:
        raise ConfigError(
            f"template={config.template}: unknown{nearest(config.template, TEMPLATES)} (known: {', '.join(TEMPLATES)})"
        )
    DETECTORS.check(config.detector, "device")


def run(config: Config) -> None:
    """Align everything beneath `config.source`, and say what became of it.

    Raises:
        FrtrainError: as `frtrain.alignment.pipeline.align`.
    """
    check(config)
    console = Console(emoji=False)
    source, target = Path(config.source).expanduser(), Path(config.target).expanduser()
    detector = DETECTORS.build(config.detector, device=choose_device(config.device).value)
    started = time.monotonic()
    with _progress(console) as watcher:
        summary = align(
            source,
            target,
            detector,
            CropStyle(config.size, config.template, config.format, config.quality, config.no_face),
            detector_settings=config.detector,
            batch_size=config.batch_size,
            limit=config.limit,
            redo=config.redo,
            watcher=watcher,
        )
    for line in summary_lines(summary, target, time.monotonic() - started):
        console.print(escape(line), highlight=False, soft_wrap=True)


def summary_lines(summary: Summary, target: Path, seconds: float) -> list[str]:
    """The summary of a call in a few sentences, nothing left out that a user would have to know."""
    total, outcomes = summary.outcomes.total(), summary.outcomes
    now = total - summary.earlier
    lines = [
        f"{total} photographs: {outcomes['aligned']} aligned ({outcomes['aligned'] / total:.2%}), "
        f"{outcomes['centre']} without a face cut at the centre, {outcomes['skipped']} skipped, "
        f"{outcomes['unreadable']} unreadable.",
        f"{now} now, in {seconds:.0f} s ({now / seconds:.1f} images/s); {summary.earlier} by earlier calls. "
        f"{summary.several_faces} showed several faces; {summary.second_search} needed the second search.",
    ]
    listing = summary.listing
    if listing.ignored:
        lines.append(f"{listing.ignored.total()} files are no images: {describe_ignored(listing.ignored)}.")
    if listing.outside_links:
        lines.append(f"{listing.outside_links} links led to folders outside the source, and were followed.")
    lines += [f"Passed over: {sentence}." for sentence in listing.passed_over[:_NAMED_AT_MOST]]
    if len(listing.passed_over) > _NAMED_AT_MOST:
        lines.append(f"Passed over: {len(listing.passed_over) - _NAMED_AT_MOST} more.")
    lines.append(f"Each photograph has a line in {target / REPORT_NAME}.")
    return [line.encode("utf-8", "backslashreplace").decode() for line in lines]


class _Bar(Watcher):
    def __init__(self, progress: Progress):
        self._progress = progress
        self._task: TaskID | None = None
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


@contextmanager
def _progress(console: Console) -> Iterator[Watcher]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bar(progress)
