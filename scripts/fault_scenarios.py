"""What faults_disk.py and faults_signals.py share: scenarios that are tried one after the other, and the table of what came of them."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from fault_comparison import differences
from fault_harness import Started, draw_crops, headline, print_table, short, start, train_command

GOES_ON = "goes on to the untouched end"


@dataclass
class Result:
    """A line of the table.

    Attributes:
        fault: what was done to a run.
        detail: how, or with what exit status, as the script's second column has it.
        happened: what came of it.
        good: whether that is as it should be.
    """

    fault: str
    detail: str
    happened: str
    good: bool


class Bench:
    """Where the scenarios work: crops, and folders of untouched runs by the number of processes.

    Args:
        work: a folder for all of it.
        steps: of each run.
        settings: overrides of each run.
    """

    def __init__(self, work: Path, steps: int, *settings: str):
        self.work, self.steps, self.settings = work, steps, settings
        self.crops = draw_crops(work / "crops")
        self.count = 0
        self._references: dict[int, Path] = {}

    def start(
        self,
        folder: Path,
        *overrides: str,
        processes: int = 1,
        torchrun: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        steps: int | None = None,
        altered: Callable[[list[str]], list[str]] = list,
    ) -> Started:
        """Start a run in `folder`, or go on with it; `altered` makes another command of the ordinary one."""
        self.count += 1
        given = (*self.settings, *overrides)
        command = train_command(
            folder, self.crops, *given, processes=processes, torchrun=torchrun, steps=steps or self.steps
        )
        return start(altered(command), self.work / f"output.{self.count:03d}.txt", environment)

    def reference(self, processes: int = 1) -> Path:
        """The folder of a run that nobody touches, made when it is first asked for."""
        if processes not in self._references:
            folder = self.work / f"reference{processes}"
            run = self.start(folder, processes=processes)
            if run.wait():
                raise SystemExit(f"the run that nobody touches failed:\n{run.text()}")
            self._references[processes] = folder
        return self._references[processes]

    def end_of(self, folder: Path, processes: int = 1) -> str:
        """Give the command again: the end compared with the untouched run's."""
        run = self.start(folder, processes=processes)
        if run.wait():
            return f"does not go on: {short(headline(run), folder)}"
        found = differences(self.reference(processes), folder)
        return f"ends otherwise: {found[0]}" if found else GOES_ON


Scenarios = Iterator[tuple[str, Callable[[], Result]]]
"""By name, in the order in which they are tried."""


def try_all(
    description: str | None,
    bench_in: Callable[[Path], Bench],
    scenarios: Callable[[Bench], Scenarios],
    column: str,
    circumstances: str,
) -> int:
    """The command line of a script: try its scenarios and print the table; the exit status.

    Args:
        description: for --help.
        bench_in: makes the bench in a folder.
        scenarios: of the script.
        column: the name of the second one.
        circumstances: printed above the table.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="of the faults, those whose name contains this")
    parser.add_argument("--folder", type=Path, help="keep everything here (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults.") as temporary:
        results = []
        for name, scenario in scenarios(bench_in(options.folder or Path(temporary))):
            if options.only in name:
                try:
                    result = scenario()
                except TimeoutError as error:
                    result = Result(name, "", f"HANGS: {str(error).splitlines()[0]}", False)
                results.append(result)
                told = "; ".join(filter(None, [result.detail, result.happened]))
                print(f"  {'ok ' if result.good else 'BAD'} {result.fault}: {told}", flush=True)
    print(f"\n{date.today()}, {circumstances}")
    print_table(
        ["fault", column, "what happened", "result"],
        [[item.fault, item.detail, item.happened, "ok" if item.good else "FAILED"] for item in results],
    )
    return 0 if all(item.good for item in results) else 1
