"""`python -m frtrain export`: what was trained, in the forms that others read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from frtrain.deploy.centres import ENDINGS, export_centres
from frtrain.errors import ConfigError, FrtrainError
from frtrain.schema import Section, nearest
from frtrain.training.checkpoint_index import INDEX
from frtrain.training.checkpoint_reading import StoredCheckpoint
from frtrain.training.run_folder import checkpoint_of

EXAMPLES = """
python -m frtrain export model=runs/arcface format=centres target=centres.safetensors   # and centres.json, the identities
python -m frtrain export model=runs/arcface/checkpoints/best format=centres target=centres.npz
"""


@dataclass(frozen=True)
class Format:
    """A form in which a model leaves.

    Attributes:
        endings: that the target may have.
        write: from a checkpoint to files, which it returns.
    """

    endings: tuple[str, ...]
    write: Callable[[StoredCheckpoint, Path], list[Path]]


FORMATS = {"centres": Format(ENDINGS, export_centres)}
"""By name."""


class Config(Section):
    """What is exported, and how.

    Attributes:
        model: run folder or checkpoint.
        format: one of `FORMATS`.
        target: the file.
    """

    model: str
    format: str
    target: str


def check(config: Config) -> None:
    """What can be known to be wrong without reading tensors.

    Raises:
        ConfigError: there is no such format, or the target has another ending.
        CheckpointError: there is no checkpoint.
    """
    if config.format not in FORMATS:
        raise ConfigError(
            f"format={config.format}: unknown format{nearest(config.format, FORMATS)} (known: {', '.join(FORMATS)})"
        )
    endings = FORMATS[config.format].endings
    if Path(config.target).suffix not in endings:
        raise ConfigError(
            f"target={config.target}: format={config.format} is written to a file that ends in {' or '.join(endings)}"
        )
    if (Path(config.target).expanduser().parent / INDEX).exists():
        raise ConfigError(
            f"target={config.target}: lies in a checkpoint, whose files it might replace; choose another folder"
        )
    checkpoint_of(config.model)


def run(config: Config) -> None:
    """Write the files and name them."""
    checkpoint = StoredCheckpoint.at(checkpoint_of(config.model))
    target = Path(config.target).expanduser()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        files = FORMATS[config.format].write(checkpoint, target)
    except OSError as error:
        raise FrtrainError(f"target={target}: cannot be written ({error.strerror or error})") from None
    console = Console(soft_wrap=True, highlight=False, emoji=False)
    console.print(f"{config.format} of {escape(str(checkpoint.path))}: {len(checkpoint.classes):,} identities")
    for file in files:
        console.print(f"  {escape(str(file))}  {file.stat().st_size / 2**20:,.1f} MiB")
