"""`python -m frtrain inspect`: what a data set holds, or which losses and backbones there are."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from frtrain.backbones import BACKBONES, cost_of
from frtrain.commands.composition import choices, group_defaults
from frtrain.data import SOURCES, Source
from frtrain.data.images import write_png_or_jpeg
from frtrain.errors import ConfigError, DataError, ImageError
from frtrain.losses import LOSSES
from frtrain.schema import Section

EXAMPLES = """
python -m frtrain inspect data=folder data.root=/faces/crops   counts, and every unreadable image
python -m frtrain inspect sheet=synthetic.png                  a contact sheet of the embedded synthetic faces
python -m frtrain inspect losses                               all losses with their defaults
python -m frtrain inspect backbones                            all backbones with parameters and cost
"""

POSITIONAL = "what"
SHOWN_PROBLEMS = 20
SHEET_IDENTITIES, SHEET_IMAGES = 8, 10


class Config(Section):
    """What to look at.

    Attributes:
        what: data, losses or backbones.
        data: the source to look at.
        read: whether every image is decoded.
        sheet: PNG to write a contact sheet to.
    """

    what: Literal["data", "losses", "backbones"]
    data: dict[str, Any]
    read: Literal["all", "none"]
    sheet: str | None


def check(config: Config) -> None:
    """Check what can be checked without reading data.

    Raises:
        ConfigError: naming the key.
    """
    if config.what == "data":
        SOURCES.check(config.data)


def run(config: Config) -> int:
    """Print it. Returns 1 when images are unreadable."""
    console = Console(soft_wrap=True, highlight=False, emoji=False)
    if config.what == "losses":
        _print_losses(console)
    elif config.what == "backbones":
        _print_backbones(console)
    else:
        return _inspect_data(config, console)
    return 0


def _inspect_data(config: Config, console: Console) -> int:
    source = SOURCES.build(config.data)
    images = np.bincount(source.labels, minlength=len(source.classes))
    table = Table(show_header=False, box=None)
    table.add_row("images", f"{len(source):,}")
    table.add_row("identities", f"{len(source.classes):,}")
    quartiles = np.percentile(images, [0, 25, 50, 75, 100]).astype(int)
    table.add_row("images per identity", "min {}  quartiles {} {} {}  max {}".format(*quartiles))
    table.add_row("identities with one image", f"{int((images == 1).sum()):,}")
    table.add_row("most images", escape(_most(source, images)))
    table.add_row("fingerprint", source.fingerprint)
    console.print(table)
    if config.sheet is not None:
        _write_sheet(source, Path(config.sheet).expanduser())
        console.print(f"contact sheet: [cyan]{escape(config.sheet)}[/]")
    if config.read == "none":
        return 0
    problems = [error for error in track(_read_all(source), "reading", total=len(source), transient=True) if error]
    for error in problems[:SHOWN_PROBLEMS]:
        console.print(f"[red]unreadable:[/] {escape(str(error))}")
    if len(problems) > SHOWN_PROBLEMS:
        console.print(f"... and {len(problems) - SHOWN_PROBLEMS:,} more")
    console.print(f"{len(source) - len(problems):,} of {len(source):,} images can be read")
    return 1 if problems else 0


def _read_all(source: Source) -> Iterator[ImageError | None]:
    def problem(index: int) -> ImageError | None:
        try:
            source.image(index)
        except ImageError as error:
            return error
        return None

    with ThreadPoolExecutor(4) as pool:
        yield from pool.map(problem, range(len(source)))


def _most(source: Source, images: NDArray[np.int64]) -> str:
    return ", ".join(f"{source.classes[label]} ({images[label]})" for label in np.argsort(-images, kind="stable")[:3])


def _write_sheet(source: Source, path: Path) -> None:
    """One row per identity, evenly spread over the classes."""
    if path.suffix.lower() != ".png":
        raise ConfigError(f"sheet={path}: must end in .png")
    labels = np.unique(np.linspace(0, len(source.classes) - 1, SHEET_IDENTITIES).astype(int))
    rows = []
    for label in labels:
        crops = [source.image(int(index)) for index in np.flatnonzero(source.labels == label)[:SHEET_IMAGES]]
        crops += [np.full_like(crops[0], 255)] * (SHEET_IMAGES - len(crops))
        rows.append(np.concatenate(crops, axis=1))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png_or_jpeg(path, np.concatenate(rows, axis=0))
    except OSError as error:
        raise DataError(f"sheet={path}: cannot be written ({error.strerror})") from None


def _print_losses(console: Console) -> None:
    table = Table("loss", "what", "defaults", show_lines=True)
    for entry in LOSSES:
        summary = (entry.factory.__doc__ or "").strip().splitlines()[0]
        names = ", ".join((entry.name, *entry.aliases))
        parameters = group_defaults("loss", entry.name)
        defaults = "  ".join(f"{key}={value}" for key, value in parameters.items() if key != "name")
        table.add_row(names, escape(summary), escape(defaults))
    console.print(table)
    others = sorted(set(choices("loss")) - {name for entry in LOSSES for name in (entry.name, *entry.aliases)})
    if others:
        console.print(f"further settings of these: {', '.join(f'loss={name}' for name in others)}")


def _print_backbones(console: Console) -> None:
    table = Table("backbone", "parameters", "MACs", "embedding", "what")
    for name in choices("backbone"):
        spec = group_defaults("backbone", name)
        summary = (BACKBONES.get(spec["name"]).factory.__doc__ or "").strip().splitlines()[0]
        cost = cost_of(spec)
        table.add_row(
            name,
            f"{cost.parameters / 1e6:.2f} M",
            f"{cost.multiply_accumulates / 1e9:.2f} G",
            str(spec.get("embedding_size")),
            escape(summary),
        )
    console.print(table)
