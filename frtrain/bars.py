"""The progress bar of work that counts images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn


def rated_columns() -> tuple[ProgressColumn, ...]:
    """Columns of a bar whose tasks tell their speed in the field `rate`."""
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("left"),
        TimeRemainingColumn(),
    )


@contextmanager
def progress_bar(what: str, total: int, console: Console, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """A bar that goes away at the end; what it yields is told how many more are done.

    Args:
        what: is done.
        total: how many there are.
        console: where the bar is drawn; it draws none where its output is no terminal.
        shown: False for no bar.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)
