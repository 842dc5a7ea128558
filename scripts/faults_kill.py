"""SIGKILL at many moments of a small run, each time followed by the same command again; the end must be as if nothing had been.

    python scripts/faults_kill.py                        # 50 kills, about ten minutes on two cores
    python scripts/faults_kill.py --kills 12 --seed 7    # fewer, at other moments

Chains of one and of two processes are killed again and again until they have had their share; then they are left to finish.
The finished folder is compared with that of a run that nobody touched: weights and progress of the last checkpoint byte for
byte, each published step once and with equal values (speeds apart) in metrics.jsonl and in TensorBoard, the links `last` and
`best`, nothing temporary, no lock; and no process may be left over after any kill. Exit status 1 if anything of this fails.
"""

from __future__ import annotations

import argparse
import platform
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from fault_comparison import (
    differences,
    last_step,
    metrics,
    names_in_checkpoints,
    saved_steps,
)
from fault_harness import (
    Started,
    draw_crops,
    injected,
    print_table,
    resumed_step,
    send,
    start,
    train_command,
    wait_until,
)


@dataclass
class Chain:
    """One run folder that is killed again and again.

    Attributes:
        folder: of the run.
        crops: what it trains on.
        processes: how many train.
        steps: of the whole run.
        overrides: besides those of all small runs.
        start_seconds: until the first step, measured.
        starts: how often the command was given.
        saved: step of the newest checkpoint at the last start.
        before: what was published then, see `published`.
    """

    folder: Path
    crops: Path
    processes: int
    steps: int
    overrides: tuple[str, ...]
    start_seconds: float = 5.0
    starts: int = 0
    saved: int = 0
    before: tuple[int, int] = (0, 0)

    def published(self) -> tuple[int, int]:
        """Identity and size of metrics.jsonl: a process that goes on writes it anew, without what it computes again."""
        try:
            status = (self.folder / "metrics.jsonl").stat()
        except OSError:
            return (0, 0)
        return (status.st_ino, status.st_size)

    def start(self, environment: dict[str, str] | None = None) -> Started:
        self.starts += 1
        self.saved, self.before = (saved_steps(self.folder) or [0])[-1], self.published()
        command = train_command(self.folder, self.crops, *self.overrides, processes=self.processes, steps=self.steps)
        return start(command, self.folder.parent / f"{self.folder.name}.{self.starts:03d}.txt", environment)


@dataclass
class Record:
    """What came of the kills of one phase."""

    kills: int = 0
    survived: int = 0
    lost: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


Moment = Callable[[Chain, Started, random.Random], bool]
"""Waits until the moment to kill; False if the run ended before."""


def in_step(chain: Chain, run: Started, chance: random.Random) -> bool:
    goal = chain.saved + chance.randint(1, 12)
    return trained_to(goal, chain, run) and pause(chance, 0.04)


def in_checkpoint_write(chain: Chain, run: Started, chance: random.Random) -> bool:
    goal = chain.saved + chance.randint(1, 8)
    return (
        trained_to(goal, chain, run)
        and wait_until(lambda: any(name.startswith(".step") for name in names_in_checkpoints(chain.folder)), run)
        and pause(chance, 0.01)
    )


def after_checkpoint_rename(chain: Chain, run: Started, chance: random.Random) -> bool:
    if not trained_to(chain.saved + chance.randint(1, 8), chain, run):
        return False
    before = set(saved_steps(chain.folder))
    return wait_until(lambda: set(saved_steps(chain.folder)) - before, run) and pause(chance, 0.004)


def in_evaluation(chain: Chain, run: Started, chance: random.Random) -> bool:
    """The step of an evaluation is published by the loop before it begins, and by the evaluation when it ends."""
    untouched = metrics(chain.folder.parent / f"reference{chain.processes}")
    steps = {int(line["step"]) for line in untouched if any(key.startswith("verify/") for key in line)}
    due = min((step for step in steps if step > chain.saved + 1), default=chain.steps)
    return trained_to(due, chain, run) and pause(chance, 0.06)


def in_start(chain: Chain, run: Started, chance: random.Random) -> bool:
    return pause(chance, chain.start_seconds * 1.1)


def in_report(chain: Chain, run: Started, chance: random.Random) -> bool:
    return wait_until(lambda: last_step(chain.folder) >= chain.steps, run) and pause(chance, 3.0)


def at_event(kind: str) -> Moment:
    """The injected audit hook kills the process itself, right before an event of this kind."""

    def wait(chain: Chain, run: Started, chance: random.Random) -> bool:
        run.process.wait()
        return run.process.returncode == -signal.SIGKILL or "SIGKILL" in run.text() or chain.processes > 1

    return wait


MOMENTS: dict[str, Moment] = {
    "in a step": in_step,
    "while a checkpoint is written": in_checkpoint_write,
    "right after a checkpoint got its name": after_checkpoint_rename,
    "before a rename (checkpoint, links, pruning)": at_event("rename"),
    "before a removal (pruning, leftovers)": at_event("remove"),
    "before a file is opened for writing": at_event("open"),
    "before a folder or link is made": at_event("mkdir"),
    "in an evaluation": in_evaluation,
    "during start-up and resume": in_start,
    "while the report is written": in_report,
}
"""In the order in which they are told."""

EVENTS = {
    "before a rename (checkpoint, links, pruning)": ("rename", 12),
    "before a removal (pruning, leftovers)": ("remove", 12),
    "before a file is opened for writing": ("open", 8),
    "before a folder or link is made": ("mkdir", 8),
}
"""Kind, and the highest number of an event to be killed at."""


def trained_to(step: int, chain: Chain, run: Started) -> bool:
    """Wait until this process, not one before it, has published a step."""
    return wait_until(lambda: chain.published() != chain.before and last_step(chain.folder) >= step, run)


def pause(chance: random.Random, most_seconds: float) -> bool:
    time.sleep(chance.uniform(0, most_seconds))
    return True


@dataclass(frozen=True)
class Kill:
    """One start of a chain's command, and what was done to it.

    Attributes:
        done: False: the run ended before the moment came.
        victim: who was to be killed.
        before: the last step published by the killed process, 0 if it had published none.
        output: what it printed.
        status: exit status of what was started.
    """

    done: bool
    victim: str
    before: int
    output: str
    status: int


def kill_once(chain: Chain, phase: str, chance: random.Random) -> Kill:
    """Start the chain's command and kill it in the phase.

    Raises:
        AssertionError: processes are left over.
        TimeoutError: the moment did not come, or the other rank did not end.
    """
    environment = None
    if phase in EVENTS:
        kind, most = EVENTS[phase]
        environment = injected(
            FRTRAIN_FAULT_FOLDER=str(chain.folder),
            FRTRAIN_FAULT_KILL=f"{kind}:{chance.randint(1, most)}",
            FRTRAIN_FAULT_RANK=str(chance.randrange(chain.processes)),
        )
    run = chain.start(environment)
    reached = MOMENTS[phase](chain, run, chance)
    victim = chance.choice(["rank 0", "rank 1", "all"]) if chain.processes > 1 and phase not in EVENTS else "all"
    if reached:
        rank = run.rank(int(victim[-1])) if victim != "all" else None
        if rank is None:
            run.kill()
        else:
            send(rank, signal.SIGKILL)
    status = run.wait()
    before = last_step(chain.folder) if chain.published() != chain.before else 0
    if left := run.orphans():
        for pid in left:
            send(pid, signal.SIGKILL)
        raise AssertionError(f"{len(left)} processes left over after the kill of {victim}")
    return Kill(reached, victim, before, run.text(), status)


def punish(chain: Chain, plan: list[str], chance: random.Random, records: dict[str, Record]) -> None:
    """Kill the chain in each phase of the plan, in turn; then let it finish."""
    pending: list[tuple[str, int]] = []
    for phase in plan:
        record = records[phase]
        try:
            kill = kill_once(chain, phase, chance)
        except (AssertionError, TimeoutError) as error:
            record.problems.append(f"{chain.folder.name}: {str(error).splitlines()[0]}")
            kill = Kill(True, "all", last_step(chain.folder), "", 1)
        settle(records, pending, kill.output)
        if not kill.done and kill.status:
            fail(records, pending, kill.output)
        if kill.done:
            record.kills += 1
            pending.append((phase, kill.before))
        what = f"killed after step {kill.before}" if kill.done else f"not reached, exit status {kill.status}"
        print(f"  {chain.folder.name}: {phase}, {kill.victim}: {what}", flush=True)
    run = chain.start()
    status = run.wait()
    settle(records, pending, run.text())
    if status:
        fail(records, pending, run.text())
        print(f"{chain.folder.name} did not finish, exit status {status}:\n{run.text()[-3000:]}", flush=True)
    if left := run.orphans():
        raise SystemExit(f"{len(left)} processes left over after {chain.folder.name} had ended")


def settle(records: dict[str, Record], pending: list[tuple[str, int]], output: str) -> None:
    """What the kills before a start have cost, as that start tells; one killed before it told is settled later."""
    if "training on" in output or "going on from" in output:
        resumed = resumed_step(output)
        for phase, before in pending:
            records[phase].survived += 1
            records[phase].lost.append(max(0, before - resumed))
        pending.clear()


def fail(records: dict[str, Record], pending: list[tuple[str, int]], output: str) -> None:
    """The start after these kills has failed by itself."""
    for phase, _ in pending:
        records[phase].problems.append(output.partition("error:")[2].strip().partition("\n")[0][:200] or "no message")
    pending.clear()


def plan_of(kills: int, processes: int, chance: random.Random) -> list[str]:
    """Phases in random order, each about as often; the report comes last, since training is over by then."""
    names = [name for name in MOMENTS if name != "while the report is written"]
    plan = [names[number % len(names)] for number in range(kills - 1)]
    chance.shuffle(plan)
    return [*plan, "while the report is written"] if kills else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1, help="of the moments (default: 1)")
    parser.add_argument("--steps", type=int, default=240, help="of each run (default: 240)")
    parser.add_argument("--two-processes", type=float, default=0.3, help="share of the kills (default: 0.3)")
    parser.add_argument("--folder", type=Path, help="keep everything here (default: a temporary folder)")
    parser.add_argument("overrides", nargs="*", help="passed on to every run, e.g. trainer.workers=1")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults_kill.") as temporary:
        return torment(options, options.folder or Path(temporary))


def torment(options: argparse.Namespace, work: Path) -> int:
    began = time.monotonic()
    crops = draw_crops(work / "crops")
    chance = random.Random(options.seed)
    records = {name: Record() for name in MOMENTS}
    two = round(options.kills * options.two_processes)
    shares = {1: options.kills - two, 2: two}
    results: list[str] = []
    for processes, kills in shares.items():
        if not kills:
            continue
        reference = Chain(work / f"reference{processes}", crops, processes, options.steps, tuple(options.overrides))
        run = reference.start()
        started = time.monotonic()
        wait_until(lambda: last_step(reference.folder) >= 1, run)  # noqa: B023 (called at once)
        seconds = time.monotonic() - started
        if run.wait():
            raise SystemExit(f"the run that nobody touches failed:\n{run.text()}")
        chain = Chain(work / f"killed{processes}", crops, processes, options.steps, tuple(options.overrides), seconds)
        punish(chain, plan_of(kills, processes, chance), chance, records)
        found = differences(reference.folder, chain.folder) if saved_steps(chain.folder) else ["no checkpoint"]
        name = "one process" if processes == 1 else f"{processes} processes"
        results += [f"{name}: {text}" for text in found]
        print(
            f"{name}, {kills} kills planned: {'; '.join(found) or 'the end is as if nobody had touched it'}", flush=True
        )
    minutes = (time.monotonic() - began) / 60
    print(
        f"\n{date.today()}, {platform.machine()}, {minutes:.1f} minutes, seed {options.seed}, {options.steps} steps, "
        f"checkpoint every 5 steps"
    )
    rows = []
    for name, record in records.items():
        if record.kills:
            mean = sum(record.lost) / len(record.lost) if record.lost else 0.0
            result = "; ".join(dict.fromkeys(record.problems)) or "ok"
            rows.append([name, record.kills, record.survived, f"{mean:.1f}", max(record.lost, default=0), result])
    print_table(["phase", "kills", "survived", "lost steps, mean", "max", "result"], rows)
    bad = [problem for record in records.values() for problem in record.problems]
    bad += [name for name, record in records.items() if record.survived < record.kills]
    print("\n".join(results) if results else "every end equals that of the untouched run")
    return 1 if bad or results else 0


if __name__ == "__main__":
    sys.exit(main())
