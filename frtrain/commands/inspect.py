"""`python -m frtrain inspect`: what a data set holds, which losses and backbones there are, what a loss looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval, Len
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pydantic import Field
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from frtrain.backbones import BACKBONES, cost_of
from frtrain.commands.composition import choices, group_defaults
from frtrain.commands.inspect_data import STANDARD_OUTPUT, Request, inspect_data
from frtrain.commands.inspect_losses import chosen_losses, draw, loss_table
from frtrain.config import SubsetConfig
from frtrain.data.inspection.contact_sheet import SheetOf
from frtrain.data.inspection.duplicates import MOST_DISTANCE
from frtrain.errors import ConfigError
from frtrain.losscurves.curves import Scene
from frtrain.losscurves.picture import DASHES
from frtrain.schema import Positive, PositiveInt, Section

EXAMPLES = """
python -m frtrain inspect data=folder data.root=/faces/crops   counts, sizes, light, blur, duplicates, every unusable image
python -m frtrain inspect data=folder data.root=/faces/crops page=crops.html json=crops.json
python -m frtrain inspect data=auto data.root=/faces/ms1mv3 read=100000
python -m frtrain inspect sheet=synthetic.png                  a contact sheet of the embedded synthetic faces
python -m frtrain inspect losses                               all losses: papers, formulas, defaults
python -m frtrain inspect loss=arcface loss.margin=0.3         a picture: logits, gradients and boundary over the angles
python -m frtrain inspect 'compare=[arcface,sv_softmax]'       several losses over each other in one picture
python -m frtrain inspect 'compare=[{loss: sv_softmax, t: 1.1}, {loss: sv_softmax, t: 1.4}]'
python -m frtrain inspect backbones                            all backbones with parameters and cost
"""

POSITIONAL = "what"
LOSSES_ON_A_PAGE, NORMS_OF_A_LOSS = 7, 5


class Config(Section):
    """What to look at.

    Attributes:
        what: losses or backbones for a list of them, data for `data`; auto: the losses of `loss` and `compare` if there
            are any, otherwise `data`.
        data, subset: the images to look at.
        read: measure all images, none, or so many, evenly spread.
        near: bits in which the perceptual hashes of near duplicates may differ; null: they are not looked for.
        workers: processes that read.
        page, json_file, sheet: files to write about the data; the JSON goes to standard output for `-`.
        sheet_of: which images the contact sheet shows.
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
    subset: SubsetConfig
    read: Literal["all", "none"] | PositiveInt
    near: Annotated[int, Interval(ge=0, le=MOST_DISTANCE)] | None
    workers: Literal["auto"] | Annotated[int, Interval(ge=0, le=256)]
    page: str | None
    json_file: str | None = Field(alias="json")
    sheet: str | None
    sheet_of: SheetOf
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

    @property
    def about_data(self) -> Request:
        """What is asked about the data."""
        return Request(
            data=self.data,
            subset=self.subset,
            read=self.read,
            near=self.near,
            workers=self.workers,
            page=of_this_job(self.page),
            json=self.json_file if self.json_file == STANDARD_OUTPUT else of_this_job(self.json_file),
            sheet=of_this_job(self.sheet),
            sheet_of=self.sheet_of,
        )


def check(config: Config) -> None:
    """Check what can be checked without reading data.

    Raises:
        ConfigError: naming the key.
    """
    if config.draws_losses:
        _refuse(config, "a picture of losses", "page", "json", "sheet")
        for choice in chosen_losses(config.loss, None, config.compare):
            choice.build()
        if config.picture is not None and Path(config.picture).suffix.lower() != ".png":
            raise ConfigError(f"picture={config.picture}: must end in .png")
    elif config.what in ("auto", "data"):
        _refuse(config, "a data set", "loss", "compare", "picture")
        config.about_data.check()
        if config.page is not None and config.page == config.json_file:
            raise ConfigError(f"json={config.json_file}: is the same file as page; choose another")
    else:
        _refuse(config, f"the list of {config.what}", "loss", "compare", "picture", "page", "json", "sheet")


def run(config: Config) -> int:
    """Print or draw it. Returns 1 when there are images that training would refuse."""
    console = Console(soft_wrap=True, highlight=False, emoji=False)
    if config.what == "losses":
        console.print(loss_table(console.width))
    elif config.draws_losses:
        norms = None if config.norms is None else tuple(config.norms)
        scene = Scene(config.classes, tuple(config.angles), norms, config.steps)
        option = HydraConfig.get().runtime.choices.get("loss") if HydraConfig.initialized() else None
        chosen = chosen_losses(config.loss, option, config.compare)
        path = draw(chosen, scene, of_this_job(config.picture), config.dots_per_inch)
        console.print(f"picture: [cyan]{escape(str(path))}[/]")
    elif config.what == "backbones":
        _print_backbones(console)
    else:
        return inspect_data(config.about_data)
    return 0


def _refuse(config: Config, what: str, *keys: str) -> None:
    """Keys that would have no effect are an error, not a riddle."""
    values = config.model_dump(by_alias=True)
    for key in keys:
        if values[key]:
            shown = "" if key in ("loss", "compare") else f"={values[key]}"
            raise ConfigError(f"{key}{shown}: has no meaning for {what}; leave it out")


def of_this_job(path: str | None) -> str | None:
    """In a sweep the jobs must not overwrite each other's files: `x.png` becomes `x-0.png`, `x-1.png` and so on."""
    if path is None or not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return path
    whole = Path(path)
    return str(whole.with_name(f"{whole.stem}-{HydraConfig.get().job.num}{whole.suffix}"))


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
