"""`python -m frtrain inspect`: what a data set holds, which losses and backbones there are, what a loss looks like."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Interval, Len
from hydra.core.hydra_config import HydraConfig
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from frtrain.backbones import BACKBONES, cost_of
from frtrain.commands.composition import choices, group_defaults
from frtrain.commands.inspect_losses import chosen_losses, draw, loss_table
from frtrain.data import SOURCES, Source
from frtrain.data.images import write_png_or_jpeg
from frtrain.errors import ConfigError, DataError, ImageError
from frtrain.losscurves.curves import Scene
from frtrain.losscurves.picture import DASHES
from frtrain.schema import Positive, Section

EXAMPLES = """
python -m frtrain inspect data=folder data.root=/faces/crops   counts, and every unreadable image
python -m frtrain inspect sheet=synthetic.png                  a contact sheet of the embedded synthetic faces
python -m frtrain inspect losses                               all losses: papers, formulas, defaults
python -m frtrain inspect loss=arcface loss.margin=0.3         a picture: logits, gradients and boundary over the angles
python -m frtrain inspect 'compare=[arcface,sv_softmax]'       several losses over each other in one picture
python -m frtrain inspect 'compare=[{loss: sv_softmax, t: 1.1}, {loss: sv_softmax, t: 1.4}]'
python -m frtrain inspect backbones                            all backbones with parameters and cost
"""

POSITIONAL = "what"
SHOWN_PROBLEMS = 20
SHEET_IDENTITIES, SHEET_IMAGES = 8, 10
LOSSES_ON_A_PAGE, NORMS_OF_A_LOSS = 7, 5


class Config(Section):
    """What to look at.

    Attributes:
        what: losses or backbones for a list of them, data for `data`; auto: the losses of `loss` and `compare` if there
            are any, otherwise `data`.
        data: the source to look at.
        read: whether every image is decoded.
        sheet: PNG to write a contact sheet to.
        loss: the loss to draw.
        compare: more losses to draw, by name, or by name and parameters that differ from its defaults.
        picture: PNG to draw them to; null: a name of their own beneath runs/pictures.
        classes: how many identities a loss is told there are.
        angles: degrees at which the other angle is held while one varies.
        norms: lengths of the embedding, for losses that react to it; null: by geometry.
        steps: training steps that the state of a loss has behind it.
        dots_per_inch: of the picture, 11.4 x 7.3 inches.
    """

    what: Literal["auto", "data", "losses", "backbones"]
    data: dict[str, Any]
    read: Literal["all", "none"]
    sheet: str | None
    loss: dict[str, Any] | None = None
    compare: Annotated[list[str | dict[str, Any]], Len(max_length=LOSSES_ON_A_PAGE)]
    picture: str | None
    classes: Annotated[int, Interval(ge=2, le=2**31)]
    angles: Annotated[list[Annotated[float, Interval(ge=0, le=180)]], Len(1, len(DASHES))]
    norms: Annotated[list[Positive], Len(1, NORMS_OF_A_LOSS)] | None
    steps: Annotated[int, Interval(ge=0, le=1_000_000)]
    dots_per_inch: Annotated[int, Interval(ge=20, le=600)]

    @property
    def draws_losses(self) -> bool:
        """Whether losses are to be drawn."""
        return self.what == "auto" and (self.loss is not None or bool(self.compare))


def check(config: Config) -> None:
    """Check what can be checked without reading data.

    Raises:
        ConfigError: naming the key.
    """
    if config.draws_losses:
        for choice in chosen_losses(config.loss, None, config.compare):
            choice.build()
        if config.picture is not None and Path(config.picture).suffix.lower() != ".png":
            raise ConfigError(f"picture={config.picture}: must end in .png")
    elif config.what in ("auto", "data"):
        SOURCES.check(config.data)


def run(config: Config) -> int:
    """Print or draw it. Returns 1 when images are unreadable."""
    console = Console(soft_wrap=True, highlight=False, emoji=False)
    if config.what == "losses":
        console.print(loss_table(console.width))
    elif config.draws_losses:
        norms = None if config.norms is None else tuple(config.norms)
        scene = Scene(config.classes, tuple(config.angles), norms, config.steps)
        option = HydraConfig.get().runtime.choices.get("loss") if HydraConfig.initialized() else None
        chosen = chosen_losses(config.loss, option, config.compare)
        path = draw(chosen, scene, config.picture, config.dots_per_inch)
        console.print(f"picture: [cyan]{escape(str(path))}[/]")
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
