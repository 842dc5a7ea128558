"""`python -m frtrain plan`: whether a run will fit, what its step costs, and what to change, before anything is paid for."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval
from pydantic import Field
from rich.console import Console
from rich.markup import escape

from frtrain.auxiliary import AUXILIARIES
from frtrain.backbones import BACKBONES
from frtrain.classifier import CLASSIFIERS
from frtrain.commands.composition import group_defaults
from frtrain.commands.inspect import of_this_job
from frtrain.config import TrainConfig
from frtrain.data import SOURCES
from frtrain.data.known import known_of
from frtrain.errors import ConfigError
from frtrain.files import write_atomically
from frtrain.losses import LOSSES
from frtrain.modifiers import modified
from frtrain.planning.gpus import target_of
from frtrain.planning.job import Job
from frtrain.planning.page import document, tables
from frtrain.planning.prediction import predict
from frtrain.planning.suggestion import MOST_PROCESSES, suggest
from frtrain.schema import Positive, PositiveInt
from frtrain.training.hardware import choose_precision
from frtrain.training.parallel import check_parallel, check_shares
from frtrain.training.precision import check_precision

EXAMPLES = """
python -m frtrain plan identities=1000000 processes=8 gpu=a100-80g backbone=iresnet50 trainer.batch_size=1024
python -m frtrain plan identities=2059906 processes=8 gpu=v100-32g backbone=iresnet100 classifier=sampled images=42474557
python -m frtrain plan backbone=iresnet18 trainer.batch_size=128     this machine, the default data
python -m frtrain plan experiment=... processes=8 gpu_memory_gib=24   a GPU that is in no table
python -m frtrain plan -m gpu=a100-40g,a100-80g,h100 identities=600000 processes=8
"""

STANDARD_OUTPUT = "-"
MOST_IDENTITIES = 2 * 10**9
MOST_BATCH = 10**8


class Config(TrainConfig):
    """A training run, and what to plan it for.

    Attributes:
        identities: that are trained on; auto: what is known of the data set without reading it.
        images: of an epoch; null: what is known.
        processes: one for each GPU, on all machines together.
        nodes: machines.
        gpu: a name of `frtrain.planning.gpus.GPUS`, or `this`.
        gpu_memory_gib: in place of the GPU's own.
        json_file: a file to write; `-`: standard output.
        suggest: whether changes and the largest batch are looked for.
    """

    identities: Literal["auto"] | Annotated[int, Interval(ge=2, le=MOST_IDENTITIES)]
    images: PositiveInt | None
    processes: Annotated[int, Interval(ge=1, le=MOST_PROCESSES)]
    nodes: Annotated[int, Interval(ge=1, le=MOST_PROCESSES)]
    gpu: str
    gpu_memory_gib: Annotated[Positive, Interval(le=100_000)] | None
    json_file: str | None = Field(alias="json")
    suggest: bool


def check(config: Config) -> None:
    """What can be known to be wrong before anything is rehearsed.

    Raises:
        ConfigError: naming the key.
    """
    job = job_of(config)
    trainer = config.trainer
    SOURCES.get(str(config.data["name"]))
    BACKBONES.check(config.backbone)
    modified(LOSSES.build(config.loss), config.modifiers)
    if config.auxiliary is not None:
        AUXILIARIES.build(config.auxiliary)
    CLASSIFIERS.check(config.classifier, "head", "classes", "embedding_size", "processes")
    check_parallel(trainer)
    check_precision(choose_precision(trainer.precision, job.target.device, job.target.machine), job.target.device)


def job_of(config: Config) -> Job:
    """What is planned.

    Raises:
        ConfigError: an unknown GPU, a batch too small for the processes or absurdly large, more machines than processes, or a number of identities
            that nobody knows.
    """
    if config.processes % config.nodes:
        raise ConfigError(f"nodes={config.nodes}: {config.processes} processes cannot be divided among them evenly")
    check_shares(config.trainer.batch_size, config.processes)
    if config.trainer.batch_size > MOST_BATCH:
        raise ConfigError(
            f"trainer.batch_size={config.trainer.batch_size}: nobody trains with more than {MOST_BATCH:,} images"
        )
    target = target_of(config.gpu, config.gpu_memory_gib, config.processes // config.nodes)
    return Job(config, _identities(config), config.processes, config.nodes, target)


def _identities(config: Config) -> int:
    if config.identities != "auto":
        return config.identities
    known = known_of(config.data)
    count = known.identities if known is not None else config.data.get("identities")
    if not isinstance(count, int):
        raise ConfigError(
            f"identities=auto: how many data={config.data['name']} has is not known without reading it; set identities=... "
            "(python -m frtrain inspect data=... counts them)"
        )
    if config.subset.first is not None:
        count = min(count, config.subset.first)
    return max(2, count - round(config.validation.fraction * count))


def _images(config: Config) -> int | None:
    known = known_of(config.data)
    if config.images is not None or known is not None:
        return config.images or (known.images if known is not None else None)
    each = config.data.get("images_per_identity")
    return each * _identities(config) if isinstance(each, int) and config.identities == "auto" else None


def run(config: Config) -> int:
    """Print it. Returns 1 where the run does not fit."""
    check(config)
    job = job_of(config)
    prediction = predict(job)
    suggestion = suggest(job, partial(group_defaults, "classifier")) if config.suggest else None
    facts = document(prediction, suggestion, _images(config))
    text = json.dumps(facts, indent=2) + "\n"
    if config.json_file == STANDARD_OUTPUT:
        sys.stdout.write(text)
        return 0 if prediction.fits else 1
    console = Console(highlight=False, emoji=False)
    for part in tables(prediction, suggestion, _images(config)):
        console.print(part)
    path = of_this_job(config.json_file)
    if path is not None:
        write_atomically(Path(path), text)
        console.print(f"written: {escape(path)}")
    return 0 if prediction.fits else 1
