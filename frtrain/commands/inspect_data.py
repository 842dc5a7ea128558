"""The part of `inspect` that is about data: read, summarise, tell."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from frtrain.bars import progress_bar
from frtrain.config import SubsetConfig
from frtrain.data import SOURCES
from frtrain.data.encoded import image_name
from frtrain.data.images import encode_png_or_jpeg
from frtrain.data.inspection.contact_sheet import SheetOf, contact_sheet, sheet_rows
from frtrain.data.inspection.document import document
from frtrain.data.inspection.page import html_page
from frtrain.data.inspection.scan import choose_processes, sample, scan
from frtrain.data.inspection.summary import Bar, Summary, summarize
from frtrain.data.inspection.words import KINDS, facts, number, problem_words, shortened
from frtrain.data.known import compare_with_known, known_of
from frtrain.data.manifest import escaped
from frtrain.data.selection import select
from frtrain.data.soundness import check_labels
from frtrain.data.source import Preparable, Source
from frtrain.errors import ConfigError, DataError
from frtrain.files import write_atomically
from frtrain.training.hardware import this_machine

SHOWN_PROBLEMS, SHOWN_GROUPS, SHOWN_EXTREMES = 20, 10, 3
"""Of each, so many on the screen; page and JSON have more."""

STANDARD_OUTPUT = "-"

BAR_WIDTH = 40


@dataclass(frozen=True)
class Request:
    """What is looked at, and what is written where.

    Attributes:
        data, subset: which images.
        read: all of them, none, or so many.
        near: bits in which near duplicates may differ; None: they are not looked for.
        workers: processes that read.
        page, json, sheet: files to write.
        sheet_of: what the contact sheet shows.
    """

    data: dict[str, Any]
    subset: SubsetConfig
    read: Literal["all", "none"] | int
    near: int | None
    workers: Literal["auto"] | int
    page: str | None
    json: str | None
    sheet: str | None
    sheet_of: SheetOf

    def check(self) -> None:
        """Find what is wrong with the keys before anything is read.

        Raises:
            ConfigError: naming the key.
        """
        SOURCES.check(self.data)
        known_of(self.data)
        for key, value, suffixes in (("sheet", self.sheet, (".png",)), ("page", self.page, (".html", ".htm"))):
            if value is not None and Path(value).suffix.lower() not in suffixes:
                raise ConfigError(f"{key}={value}: must end in {suffixes[0]}")
        if self.sheet is not None and self.sheet_of != "spread" and self.read == "none":
            raise ConfigError(f"sheet_of={self.sheet_of}: needs images to be read; use read=all or a number")


def inspect_data(request: Request) -> int:
    """Look at a data set, and tell. Returns 1 when there are images that training would refuse.

    Raises:
        FrtrainError: the data cannot be opened, or a file cannot be written.
    """
    to_output = request.json == STANDARD_OUTPUT
    console = Console(stderr=to_output, soft_wrap=True, highlight=False, emoji=False)
    everything = SOURCES.build(request.data)
    known = compare_with_known(everything, known_of(request.data))
    source = select(everything, request.subset)
    check_labels(source)
    summary = _summary(everything, source, request)
    print_summary(console, source, summary, known)
    written: list[tuple[str, str, bytes | str]] = []
    if request.sheet is not None:
        sheet = contact_sheet(source, sheet_rows(source, summary, request.sheet_of))
        written.append(("sheet", request.sheet, encode_png_or_jpeg(sheet, ".png")))
    if request.page is not None:
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        written.append(("page", request.page, html_page(source, summary, _title(request.data), known, created)))
    if request.json is not None:
        settings = {
            "data": request.data,
            "subset": request.subset.model_dump(),
            "read": request.read,
            "near": request.near,
        }
        text = json.dumps(document(source, summary, known, settings), indent=1) + "\n"
        if to_output:
            sys.stdout.write(text)
        else:
            written.append(("json", request.json, text))
    for key, path, content in written:
        _write(key, Path(path).expanduser(), content)
        console.print(f"{key}: [cyan]{escape(escaped(path))}[/]")
    return 1 if summary.faults else 0


def _title(spec: dict[str, Any]) -> str:
    known = known_of(spec)
    root = spec.get("root")
    return ": ".join([str(spec["name"]) if known is None else known.title, *([str(root)] if root else [])])


def _summary(everything: Source, source: Source, request: Request) -> Summary:
    wanted = {"all": None, "none": 0}.get(request.read) if isinstance(request.read, str) else request.read
    indices = sample(len(source), wanted)
    cores = this_machine().cores_usable
    if source is everything and isinstance(source, Preparable) and wanted is None:
        with progress_bar("drawing", len(source), Console(stderr=True)) as advance:
            source.prepare(cores if request.workers == "auto" else request.workers, advance)
    workers = choose_processes(len(indices), cores) if request.workers == "auto" else request.workers
    with progress_bar("reading", len(indices), Console(stderr=True)) as advance:
        found = scan(source, indices, workers, advance)
    return summarize(source, found, request.near)


def _write(key: str, path: Path, content: bytes | str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise DataError(f"{key}={path}: cannot be written ({error.strerror})") from None


def print_summary(console: Console, source: Source, summary: Summary, known: Sequence[str]) -> None:
    """Tell everything that fits a screen or two, 80 columns wide."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts(summary):
        table.add_row(name, escape(value))
    for row, sentence in enumerate(known):
        table.add_row("" if row else "published", escape(escaped(sentence)))
    console.print(table)
    console.print()
    _print_histogram(console, summary.per_identity.histogram)
    if summary.readable:
        _print_measures(console, source, summary)
    if summary.looked_at:
        _print_duplicates(console, source, summary)
        _print_problems(console, source, summary)
        console.print(f"{summary.readable:,} of {summary.looked_at:,} images can be read")


def _print_histogram(console: Console, bars: Sequence[Bar]) -> None:
    table = _table("images", "identities", "")
    most = max(bar.identities for bar in bars)
    for bar in bars:
        table.add_row(bar.label, f"{bar.identities:,}", "█" * int(np.ceil(BAR_WIDTH * bar.identities / most)))
    console.print(table)
    console.print()


def _print_measures(console: Console, source: Source, summary: Summary) -> None:
    table = _table("", "min", "1 %", "25 %", "median", "75 %", "99 %", "max")
    for name, spread in summary.measures.items():
        table.add_row(name, *(number(value) for value in spread.percentiles.values()))
    console.print(table)
    console.print()
    for extreme in summary.extremes:
        for place, (index, value) in enumerate(extreme.images[:SHOWN_EXTREMES]):
            label = extreme.name if place == 0 else ""
            console.print(f"{label:<11}{number(value):>7}  {escape(shortened(image_name(source, index)))}")
    console.print()


def _print_duplicates(console: Console, source: Source, summary: Summary) -> None:
    table = _table("duplicates", "groups", "images", "surplus", "in one identity", "between")
    for level in summary.duplicates.levels:
        counts = (level.groups, level.images, level.surplus, level.within, level.between)
        table.add_row(KINDS[level.kind], *(f"{count:,}" for count in counts))
    console.print(table)
    console.print()
    groups = summary.duplicates.groups
    for group in groups[:SHOWN_GROUPS]:
        names = [escape(shortened(image_name(source, index))) for index in group.images[:SHOWN_EXTREMES]]
        more = len(group.images) - len(names)
        style, where = ("yellow", "between identities") if group.identities > 1 else ("dim", "in one identity")
        tail = f"  and {more:,} more" if more else ""
        console.print(f"[{style}]{KINDS[group.kind]}, {where}:[/]\n  {'  '.join(names)}{tail}")
    if len(groups) > SHOWN_GROUPS:
        console.print(f"... and {len(groups) - SHOWN_GROUPS:,} more groups (page=..., json=...)")
    if groups:
        console.print()


def _print_problems(console: Console, source: Source, summary: Summary) -> None:
    if not summary.faults:
        return
    for fault in summary.faults[:SHOWN_PROBLEMS]:
        name = shortened(source.describe(fault.index))
        console.print(f"[red]{fault.kind}:[/] {escape(name)}: {escape(shortened(fault.reason))}")
    if len(summary.faults) > SHOWN_PROBLEMS:
        console.print(f"... and {len(summary.faults) - SHOWN_PROBLEMS:,} more (json=... has all)")
    console.print(f"[yellow]{problem_words(summary)}[/]")


def _table(*headers: str) -> Table:
    """Names on the left, numbers right-aligned; a bar at the end stays at the left."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for place, header in enumerate(headers):
        table.add_column(header, justify="left" if place == 0 or (not header) else "right", no_wrap=True)
    return table
