"""A plan for people and for programs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from frtrain.planning.gpus import GIB
from frtrain.planning.ledger import total
from frtrain.planning.prediction import Prediction
from frtrain.planning.suggestion import Suggestion, precision_name

SMALL = 0.002
"""Lines below this share of the whole are left out of the table; JSON has them."""


def document(prediction: Prediction, suggestion: Suggestion | None, images: int | None) -> dict[str, Any]:
    """Everything, in bytes and plain values, for JSON."""
    job = prediction.job
    facts: dict[str, Any] = {
        "backbone": job.config.backbone["name"],
        "loss": job.config.loss["name"],
        "classifier": prediction.engine,
        "identities": job.identities,
        "processes": job.processes,
        "nodes": job.nodes,
        "batch_size": job.batch,
        "precision": precision_name(job),
        "target": {"name": job.target.name, "kind": job.target.kind, "memory_bytes": job.target.memory_bytes},
        "fits": prediction.fits,
        "total_bytes": prediction.total,
        "peak": prediction.peak.name,
        "moments": [
            {"name": moment.name, "total_bytes": moment.total, "held": dict(moment.held)}
            for moment in prediction.moments
        ],
        "allowances": dict(prediction.allowances),
        "host_bytes_of_a_process": dict(prediction.host),
        "sent_bytes_per_step": dict(prediction.sent),
        "flops_per_step": {"backbone": prediction.backbone_flops, "classifier": prediction.classifier_flops},
        "epoch": _epoch(prediction, images),
        "left_out": prediction.left_out,
    }
    if suggestion is not None:
        facts["suggestion"] = {
            "changes": [
                {"override": change.override, "cost": change.cost, "total_bytes": change.prediction.total}
                for change in suggestion.changes
            ],
            "fits": suggestion.fits,
            "largest_batch": suggestion.largest_batch,
        }
    return facts


def tables(prediction: Prediction, suggestion: Suggestion | None, images: int | None) -> Iterator[RenderableType]:
    """What is printed, part by part."""
    yield _headline(prediction)
    yield _timeline(prediction)
    yield _memory(prediction)
    yield _cost(prediction, images)
    if prediction.left_out:
        yield f"[yellow]not counted[/]: {escape(prediction.left_out)}"
    yield _verdict(prediction)
    if suggestion is not None:
        yield from _suggestion(prediction, suggestion)


def _headline(prediction: Prediction) -> str:
    job = prediction.job
    where = f"{job.processes} × " if job.processes > 1 else ""
    nodes = f" on {job.nodes} machines" if job.nodes > 1 else ""
    rows = f", {job.rows[0]} images each" if job.processes > 1 else ""
    return (
        f"[bold]{escape(job.config.backbone['name'])}[/], {escape(job.config.loss['name'])}, classifier {prediction.engine}, "
        f"{job.identities:,} identities, batch {job.batch}{rows}, {precision_name(job)}, on {where}"
        f"[bold]{escape(job.target.name)}[/]{nodes}"
    )


def _timeline(prediction: Prediction) -> Table:
    table = Table("over a step", "tensors held at most", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for moment in prediction.moments:
        style = "bold" if moment is prediction.peak else ""
        table.add_row(f"  {moment.name}", size(moment.total), style=style)
    return table


def _memory(prediction: Prediction) -> Table:
    whole = prediction.total
    table = Table(f"at the peak ({prediction.peak.name})", "of a process", "share", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"

    def add(held: Mapping[str, int], note: str) -> None:
        for label, count in sorted(held.items(), key=lambda item: -item[1]):
            if count >= SMALL * whole:
                table.add_row(f"  {label}{note}", size(count), f"{count / whole:.0%}")

    add(prediction.peak.held, "")
    add(prediction.allowances, " [dim](allowance)[/]")
    table.add_row("  [bold]together[/]", f"[bold]{size(whole)}[/]", "")
    if prediction.host:
        table.add_row("in main memory, of a process")
        for label, count in prediction.host.items():
            table.add_row(f"  {label}", size(count), "")
        here = prediction.job.processes // prediction.job.nodes
        if here > 1:
            table.add_row(f"  both, of the {here} processes of a machine", size(here * total(prediction.host)), "")
    return table


def _cost(prediction: Prediction, images: int | None) -> Table:
    table = Table(
        f"a step of {prediction.job.batch * prediction.job.config.trainer.accumulate} images costs",
        "",
        box=None,
        pad_edge=False,
    )
    table.columns[1].justify = "right"
    table.add_row("  backbone, a process", f"{prediction.backbone_flops / 1e12:.3g} TFLOP")
    table.add_row("  classifier, a process", f"{prediction.classifier_flops / 1e12:.3g} TFLOP")
    teraflops = prediction.job.target.teraflops
    if teraflops is not None:
        table.add_row(f"  at least, with {teraflops:g} TFLOP/s", f"{prediction.flops / teraflops / 1e9:.1f} ms")
    for what, count in sorted(prediction.sent.items(), key=lambda item: -item[1]):
        table.add_row(f"  sent by a process: {what}", size(count))
    epoch = _epoch(prediction, images)
    if epoch is not None:
        table.add_row(f"an epoch of {images:,} images", f"{epoch['steps']:,} steps")
        if epoch["least_hours"] is not None:
            table.add_row("  at least", duration(epoch["least_hours"]))
        if epoch["sent_bytes"]:
            table.add_row("  sent by a process", size(epoch["sent_bytes"]))
    return table


def _epoch(prediction: Prediction, images: int | None) -> dict[str, Any] | None:
    if images is None:
        return None
    job = prediction.job
    steps = math.ceil(images / (job.batch * job.config.trainer.accumulate))
    teraflops = job.target.teraflops
    hours = None if teraflops is None else steps * prediction.flops / teraflops / 1e12 / 3600
    return {"images": images, "steps": steps, "least_hours": hours, "sent_bytes": steps * total(prediction.sent)}


def _verdict(prediction: Prediction) -> str:
    room = prediction.job.target.memory_bytes
    if prediction.fits:
        return f"[bold green]fits[/]: {size(prediction.total)} of {size(room)}"
    return f"[bold red]does not fit[/]: {size(prediction.total)}, and there are {size(room)}"


def _suggestion(prediction: Prediction, suggestion: Suggestion) -> Iterator[RenderableType]:
    if suggestion.changes:
        table = Table(
            "change" if len(suggestion.changes) == 1 else "change, in this order",
            "then",
            "costs",
            box=None,
            pad_edge=False,
        )
        for change in suggestion.changes:
            table.add_row(f"  {change.override}", size(change.prediction.total), change.cost)
        yield table
        if not suggestion.fits:
            yield "[bold red]and it still does not fit[/]: take GPUs with more memory"
    if suggestion.largest_batch is not None:
        job = suggestion.changes[-1].job if suggestion.changes else prediction.job
        each = f", {suggestion.largest_batch // job.processes} of each process" if job.processes > 1 else ""
        yield f"largest batch that fits{' then' if suggestion.changes else ''}: {suggestion.largest_batch}{each}"


def size(count: int) -> str:
    """Bytes for people."""
    if count >= 1024 * GIB:
        return f"{count / GIB / 1024:.1f} TiB"
    if count >= GIB:
        return f"{count / GIB:.2f} GiB"
    if count >= 2**20:
        return f"{count / 2**20:.1f} MiB"
    return f"{count / 2**10:.1f} KiB"


def duration(hours: float) -> str:
    """Hours for people."""
    if hours >= 1:
        return f"{hours:.1f} hours"
    return f"{hours * 60:.1f} minutes" if hours >= 1 / 60 else f"{hours * 3600:.1f} s"
