"""Signals, lost and stalled processes, a clock that jumps, numbers that are none: what a run does about them.

    python scripts/faults_signals.py                 # all, about five minutes on two cores
    python scripts/faults_signals.py --only SIGUSR1  # those whose name contains a word

Where a run can go on, it is told to by the same command, and its end is compared with that of an untouched run, byte for byte
(see faults_kill.py). Exit status 1 if anything is not as it should be.
"""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable

from fault_comparison import (
    differences,
    last_step,
    metrics,
    saved_steps,
)
from fault_harness import INJECTIONS, has_traceback, headline, injected, send, short, wait_until
from fault_scenarios import GOES_ON, Bench, Result, Scenarios, try_all

STEPS = 40


def spoiling(kind: str, step: int, rank: int) -> Callable[[list[str]], list[str]]:
    """The command, with a NaN in one step of one rank (`fault_injections/train_with_nan.py`)."""

    def altered(command: list[str]) -> list[str]:
        place = command.index("frtrain")
        script = [str(INJECTIONS / "train_with_nan.py"), kind, str(step), str(rank)]
        return [*command[: place - 1], *script, *command[place + 1 :]]

    return altered


def stopped(bench: Bench, number: signal.Signals, victim: str) -> Result:
    """A stop signal: the step is finished, a checkpoint written, the way to go on told."""
    processes = 1 if victim == "the process" else 2
    folder = bench.work / f"{number.name}.{bench.count}"
    run = bench.start(folder, processes=processes)
    wait_until(lambda: last_step(folder) >= 7, run)
    pid = run.rank(1) if victim == "rank 1 of 2" else run.process.pid
    before = last_step(folder)
    send(pid or 0, number)
    status = run.wait()
    saved = (saved_steps(folder) or [0])[-1]
    expected = 130 if number == signal.SIGINT else 0
    if processes > 1 and (victim == "torchrun" or number == signal.SIGINT):
        expected = 1  # torchrun's own, whatever its processes return
    orderly = "Go on with" in run.text() and not run.orphans() and saved >= before
    end = bench.end_of(folder, processes)
    good = orderly and status == expected and end == GOES_ON
    happened = f"checkpoint {saved} after step {before}; {end}" if orderly else f"{short(headline(run), folder)}; {end}"
    return Result(f"{number.name} to {victim}", str(status), happened, good)


def torchrun_killed(bench: Bench) -> Result:
    """The ranks are orphans then: they must end by themselves, with a checkpoint."""
    folder = bench.work / "torchrun_killed"
    run = bench.start(folder, "trainer.max_steps=100000", processes=2)
    wait_until(lambda: last_step(folder) >= 7, run)
    run.process.kill()
    status = run.wait()
    began = time.monotonic()
    left = run.orphans(90)
    seconds, lines = time.monotonic() - began, len(run.text().splitlines())
    for pid in left:
        send(pid, signal.SIGKILL)
    told = "torchrun" in run.text() and "Go on with" in run.text() and lines < 200
    what = f"{len(left)} ranks train on" if left else f"both ranks ended after {seconds:.0f} s"
    what += f", checkpoint {(saved_steps(folder) or [0])[-1]}, {lines} lines on the screen"
    return Result("SIGKILL to torchrun", str(status), what, not left and told and bool(saved_steps(folder)))


def worker_killed(bench: Bench) -> Result:
    folder = bench.work / "worker_killed"
    run = bench.start(folder, "trainer.workers=1")
    wait_until(lambda: last_step(folder) >= 7 and run.children(run.process.pid), run)
    send(run.children(run.process.pid)[-1], signal.SIGKILL)
    status = run.wait()
    end = bench.end_of(folder)
    good = status == 1 and not has_traceback(run.text()) and not run.orphans() and end == GOES_ON
    return Result("SIGKILL to a loader's worker", str(status), f"{short(headline(run), folder)}; {end}", good)


def stalled(bench: Bench) -> Result:
    """A rank that neither works nor ends: the heartbeat must end the run."""
    folder, minutes = bench.work / "stalled", 0.1
    run = bench.start(folder, f"trainer.hang_after_minutes={minutes}", processes=2, torchrun=("--monitor-interval=1",))
    if not wait_until(lambda: last_step(folder) >= 7, run):
        run.wait()
        return Result("rank 1 stalls (SIGSTOP)", str(run.process.returncode), short(headline(run), folder), False)
    began = time.monotonic()
    send(run.rank(1) or 0, signal.SIGSTOP)
    try:
        status = run.wait(120)
    except TimeoutError:
        return Result("rank 1 stalls (SIGSTOP)", "none", "the others wait without end", False)
    seconds = time.monotonic() - began
    left = run.orphans()
    end = bench.end_of(folder, 2)
    good = status != 0 and not left and end == GOES_ON
    words = f"after {seconds:.0f} s (hang_after_minutes={minutes}): {short(headline(run), folder)}; {end}"
    return Result("rank 1 stalls (SIGSTOP)", str(status), words, good)


def clock_jumps(bench: Bench) -> Result:
    """The wall clock jumps forward by a day and back by two while training."""
    folder = bench.work / "clock"
    environment = injected(FRTRAIN_FAULT_CLOCK="5:86400,6:-172800")
    run = bench.start(folder, environment=environment)
    status = run.wait()
    found = differences(bench.reference(1), folder) if status == 0 else [headline(run)]
    rates = [line["speed/images_per_second"] for line in metrics(folder) if "speed/images_per_second" in line]
    good = not found and min(rates) > 0 and not has_traceback(run.text())
    return Result("wall clock +1 day, then -2 days", str(status), found[0] if found else "same end", good)


def spoiled(bench: Bench, kind: str, rank: int, processes: int) -> Result:
    """A number that is none, in step 12."""
    folder = bench.work / f"nan_{kind}_{rank}_of_{processes}"
    run = bench.start(folder, processes=processes, altered=spoiling(kind, 12, rank))
    status = run.wait()
    text = run.text()
    where = f"rank {rank} of {processes}" if processes > 1 else "one process"
    named = re.findall(r"step 12 skipped: (.*? is not finite)", text)
    if kind == "weight":
        good = status == 1 and "weight" in headline(run) and max(saved_steps(folder)) == 10 and not run.orphans()
        happened = f"{short(headline(run), folder)}; last checkpoint {max(saved_steps(folder))}"
    else:
        skipped = [line.get("train/skipped_steps") for line in metrics(folder) if "train/skipped_steps" in line]
        good = status == 0 and bool(named) and skipped[-1] == 1.0 and skipped[10] == 0.0
        happened = (
            f"{named[0] if named else headline(run)}; {skipped[-1] if skipped else 0:.0f} step skipped, trains on"
        )
    return Result(f"NaN in {kind}, {where}", str(status), happened, good and not has_traceback(text))


def second_run(bench: Bench) -> Result:
    """Two runs in the same folder at once."""
    folder = bench.work / "shared_folder"
    first = bench.start(folder)
    wait_until(lambda: last_step(folder) >= 3, first)
    send(first.process.pid, signal.SIGSTOP)  # it must be there still when the second has started
    second = bench.start(folder)
    status = second.wait()
    send(first.process.pid, signal.SIGCONT)
    first_status = first.wait()
    found = differences(bench.reference(1), folder)
    good = status == 1 and first_status == 0 and not found and "another run is writing here" in second.text()
    happened = f"{short(headline(second), folder)}; the first {found[0] if found else 'is not disturbed'}"
    return Result("a second run in the same folder", str(status), happened, good)


def restarted(bench: Bench) -> Result:
    """torchrun starts all ranks again after one was killed; the run goes on by itself."""
    folder = bench.work / "restarted"
    run = bench.start(folder, processes=2, torchrun=("--max-restarts=3",))
    for goal in (7, 18):
        if not wait_until(lambda: last_step(folder) >= goal, run):  # noqa: B023 (called at once)
            break
        send(run.rank(1) or 0, signal.SIGKILL)
        wait_until(lambda: run.rank(1) is None, run)
    status = run.wait()
    found = differences(bench.reference(2), folder) if status == 0 else [headline(run)]
    good = status == 0 and not found and not run.orphans()
    words = short(found[0], folder) if found else GOES_ON
    return Result("torchrun --max-restarts=3, rank 1 killed twice", str(status), words, good)


def scenarios(bench: Bench) -> Scenarios:
    """All faults by name, in the order in which they are tried."""
    for victim in ("the process", "rank 1 of 2"):
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            yield f"{number.name} to {victim}", lambda n=number, v=victim: stopped(bench, n, v)  # type: ignore[misc]
    yield "SIGTERM to torchrun", lambda: stopped(bench, signal.SIGTERM, "torchrun")
    yield "SIGINT to torchrun", lambda: stopped(bench, signal.SIGINT, "torchrun")
    yield "torchrun killed", lambda: torchrun_killed(bench)
    yield "worker killed", lambda: worker_killed(bench)
    yield "stalled rank", lambda: stalled(bench)
    yield "clock", lambda: clock_jumps(bench)
    for kind, rank, processes in (
        ("input", 0, 1),
        ("weight", 0, 1),
        ("gradient", 0, 1),
        ("input", 1, 2),
        ("weight", 1, 2),
        ("gradient", 1, 2),
    ):
        yield f"NaN {kind} {processes}", lambda k=kind, r=rank, p=processes: spoiled(bench, k, r, p)  # type: ignore[misc]
    yield "second run", lambda: second_run(bench)
    yield "restarted", lambda: restarted(bench)


def main() -> int:
    circumstances = f"{STEPS} steps, a checkpoint every 5"
    return try_all(__doc__, lambda work: Bench(work, STEPS), scenarios, "exit status", circumstances)


if __name__ == "__main__":
    sys.exit(main())
