"""`metrics.csv`: the numbers of a run as a table, for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from frtrain.errors import FrtrainError
from frtrain.files import write_atomically
from frtrain.training.logbook import LOGGERS, LoggedRun, Logger

COLUMNS = ("step", "epoch", "tag", "value")


@LOGGERS.register("csv")
class CsvTable(Logger):
    """One row for each number, `step,epoch,tag,value`, so that a tag which comes later needs no new column.

    Args:
        run: that is logged; rows of a resumed run that are later than its step are dropped.

    Raises:
        FrtrainError: the file cannot be written.
    """

    def __init__(self, run: LoggedRun):
        self.path = run.folder / "metrics.csv"
        try:
            rows: list[list[str]] = []
            if self.path.exists():
                with self.path.open(encoding="utf-8", newline="") as file:
                    rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS) and _kept(row[0], run.step)]
            write_atomically(self.path, _text([COLUMNS, *rows]))
        except (OSError, csv.Error) as error:
            raise FrtrainError(f"{self.path}: cannot be written ({error})") from None

    def scalars(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Append the rows.

        Raises:
            OSError: the disk is full; these rows are lost.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(_text([(step, round(epoch, 4), tag, value) for tag, value in values.items()]))


def _kept(text: str, step: int) -> bool:
    return text.isdecimal() and int(text) <= step


def _text(rows: Iterable[Sequence[object]]) -> str:
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(rows)
    return lines.getvalue()
