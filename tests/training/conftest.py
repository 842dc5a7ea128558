"""Small runs on stand-in crops, through the same door as the command line."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from frtrain.commands import train as command
from frtrain.commands.composition import compose_plain
from frtrain.config import TrainConfig
from frtrain.schema import parse
from frtrain.signals import StoppedError
from frtrain.training.run_folder import RunFolder

SMALL = [
    "backbone.widths=[16,16,16]",
    "backbone.blocks=[1,1,1]",
    "backbone.embedding_size=16",
    "trainer.batch_size=8",
    "trainer.max_steps=6",
    "trainer.precision=fp32",
    "trainer.workers=0",
    "validation.fraction=0",
    "checkpoint.every_epochs=100",
    "log.tensorboard=false",
    "log.pictures_every_epochs=null",
    "log.progress=none",
    "log.every_steps=1",
]


@pytest.fixture(scope="session")
def small_overrides() -> Callable[[Path], list[str]]:
    """What makes a small run on the crops of a folder."""
    return lambda root: ["data=folder", f"data.root={root}", *SMALL]


@pytest.fixture(scope="session")
def small_config_on(small_overrides: Callable[[Path], list[str]]) -> Callable[..., TrainConfig]:
    """Compose a small run on the crops of a folder."""

    def compose(root: Path, *overrides: str) -> TrainConfig:
        return parse(TrainConfig, compose_plain("train", [*small_overrides(root), *overrides]))

    return compose


@pytest.fixture
def small_config(
    crops_folder: Callable[..., Path], small_config_on: Callable[..., TrainConfig]
) -> Callable[..., TrainConfig]:
    """Compose a small run on 8 identities with 6 images each."""
    return partial(small_config_on, crops_folder())


@pytest.fixture
def small_run(small_config: Callable[..., TrainConfig], tmp_path: Path) -> Callable[..., tuple[int, RunFolder]]:
    """Run it in `<tmp>/<name>`; returns the exit status and the run folder."""

    def run(name: str, *overrides: str) -> tuple[int, RunFolder]:
        folder = tmp_path / name
        config = small_config(f"run_dir={folder}", *overrides)
        command.check(config)
        try:
            command.run(config)
        except StoppedError as stopped:
            print(stopped)
            return stopped.exit_code, RunFolder(folder)
        return 0, RunFolder(folder)

    return run
