"""`python -m frtrain evaluate`: a published verification protocol on a trained model, with its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from frtrain.bars import progress_bar
from frtrain.deploy.embedder import Weights, load_embedder
from frtrain.errors import ConfigError
from frtrain.evaluation import SUITES, Report
from frtrain.evaluation.references import REFERENCES, Embedder
from frtrain.evaluation.report import prepare_folder, write_report
from frtrain.evaluation.summary import rows
from frtrain.schema import PositiveInt, Section
from frtrain.training.hardware import choose_device

EXAMPLES = """
python -m frtrain evaluate model=runs/arcface suite=lfw_view2 suite.crops=data/lfw/crops suite.pairs=data/lfw/pairs.txt
python -m frtrain evaluate model=pixels suite=lfw_view1 suite.crops=data/lfw/crops suite.pairs=data/lfw/pairsDevTest.txt
"""


class Config(Section):
    """What is evaluated on what.

    Attributes:
        model: run folder or checkpoint; or `pixels`, a reference that learned nothing.
        weights: of a checkpoint: those of the model, or their average (`trainer.ema_decay`).
        suite: the protocol.
        output: folder of the report; by default `evaluations/<suite>` in the run folder.
        device: auto, cpu, cuda, cuda:1, mps.
        batch_size: images at once.
    """

    model: str | None
    weights: Weights
    suite: dict[str, Any]
    output: str | None
    device: str
    batch_size: PositiveInt


def check(config: Config) -> None:
    """What can be known to be wrong without loading the model.

    Raises:
        ConfigError, DataError: no model, a key of the suite is wrong, or its files are missing.
    """
    if config.model is None:
        raise ConfigError(
            "model: which model? A run folder or a checkpoint, e.g. model=runs/arcface; "
            f"or a reference that learned nothing: {', '.join(f'model={name}' for name in REFERENCES.names())}"
        )
    SUITES.build(config.suite).check()


def run(config: Config) -> None:
    """Evaluate, print the table, write the report."""
    model = str(config.model)
    suite = SUITES.build(config.suite)
    folder = Path(config.output).expanduser() if config.output else default_folder(model, suite.name, config.weights)
    embedder = load_model(model, config.device, config.weights)
    prepare_folder(folder)
    console = Console(emoji=False)
    with progress_bar("embedding", suite.images(), console) as advance:
        report = suite.run(embedder.embed, embedder.preprocessing.size, config.batch_size, advance)
    _show(console, report, embedder.description)
    console.print(f"report: {escape(str(write_report(report, embedder.description, folder)))}", soft_wrap=True)


def default_folder(model: str, suite: str, weights: Weights = "model") -> Path:
    """Where a report goes when nobody says.

    A run folder: `<run>/evaluations/<suite>`. A checkpoint `<run>/checkpoints/<step>`: in the same place
    `<suite>-<step>`. A reference: `runs/<name>/evaluations/<suite>`. Of averaged weights with `-ema` behind it.
    """
    suite = f"{suite}-ema" if weights == "ema" else suite
    if _is_reference(model):
        return Path("runs") / model / "evaluations" / suite
    path = Path(model).expanduser()
    if path.parent.name == "checkpoints":
        return path.parent.parent / "evaluations" / f"{suite}-{path.name}"
    return path / "evaluations" / suite


def _is_reference(model: str) -> bool:
    return model in REFERENCES.names() and not Path(model).exists()


def load_model(model: str, device: str, weights: Weights = "model") -> Embedder:
    """A trained model, by its run folder or checkpoint, or a reference by its name.

    Raises:
        CheckpointError: there is no usable checkpoint, or it has no averaged weights and those were asked for.
    """
    if _is_reference(model):
        if weights == "ema":
            raise ConfigError(f"weights=ema: model={model} has no weights; use weights=model")
        return REFERENCES.build({"name": model})
    return load_embedder(model, choose_device(device).value, weights)


def _show(console: Console, report: Report, model: str) -> None:
    console.print(f"[bold]{escape(report.title)}[/]  {escape(model)}", soft_wrap=True, highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name, justify in (("", "left"), ("value", "right"), ("95 % interval", "right"), ("threshold", "right")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in rows(report.verification):
        note = "  (not resolved)" if row.note.startswith("not resolved") else ""
        table.add_row(row.name, row.value, row.interval, row.threshold + note)
    console.print(table)
    skipped = report.pairs_in_list - len(report.pairs)
    if skipped:
        console.print(
            f"{len(report.missing):,} images are missing: {skipped:,} of {report.pairs_in_list:,} pairs left out; "
            "not comparable with published numbers",
            style="yellow",
        )
