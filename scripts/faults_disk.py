"""Disks that fill up, folders that vanish, files that rot: what a run says, and whether it goes on once things are mended.

    python scripts/faults_disk.py                # all, about five minutes on two cores
    python scripts/faults_disk.py --only flip    # those whose name contains a word

A full disk is a small tmpfs where one may be mounted (root), and a limit on the size of any file (`ulimit -f`) for everybody.
Each line of the table is a run that met with the fault. Where it is to go on afterwards, its end is compared with that of an
untouched run, byte for byte (see faults_kill.py). Exit status 1 if anything is not as it should be.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fault_comparison import (
    differences,
    last_checkpoint,
    last_step,
    leftovers,
    names_in_checkpoints,
    saved_steps,
)
from fault_harness import Started, has_traceback, headline, resumed_step, short, wait_until
from fault_scenarios import GOES_ON, Bench, Result, Scenarios, try_all

STEPS = 20


def killed_at(bench: Bench, folder: Path, step: int) -> None:
    """Make a run folder whose last checkpoint is that of `step`, left by a SIGKILL."""
    run = bench.start(folder)
    wait_until(lambda: step in saved_steps(folder) and last_step(folder) >= step, run)
    run.kill()
    run.wait()
    for later in saved_steps(folder):
        if later > step:
            shutil.rmtree(folder / "checkpoints" / f"step-{later:08d}")


def limited(kib: int) -> Callable[[list[str]], list[str]]:
    """The command, none of whose files may grow beyond so many KiB."""
    return lambda command: ["bash", "-c", 'ulimit -f "$0"; exec "$@"', str(kib), *command]


def told(run: Started, status: int) -> bool:
    """Whether a run failed as it should: exit status 1, an error line, no traceback, nobody left over."""
    return status == 1 and not has_traceback(run.text()) and "error:" in run.text() and not run.orphans()


def full_disk(bench: Bench, when: str) -> Result:
    """A tmpfs of 8 MiB that is filled with ballast, and cleared again."""
    means = "tmpfs of 8 MiB, filled with a file"
    mount = bench.work / f"small_disk_{when}"
    with small_disk(mount) as mounted:
        if not mounted:
            return Result(f"disk full, {when}", means, "not tried: nothing can be mounted here (needs root)", True)
        folder = mount / "run"
        run = bench.start(folder)
        if when == "while a checkpoint is written":
            wait_until(lambda: last_step(folder) >= 6, run)
            wait_until(lambda: any(name.startswith(".step") for name in names_in_checkpoints(folder)), run)
        else:
            wait_until(lambda: last_step(folder) >= 7, run)
        fill(mount / "ballast")
        status = run.wait()
        text = headline(run)
        good = told(run, status)
        (mount / "ballast").unlink()
        end = bench.end_of(folder)
        return Result(f"disk full, {when}", means, f"{short(text, folder)}; {end}", good and end == GOES_ON)


def checkpoint_limit(bench: Bench) -> Result:
    """No file may grow beyond 64 KiB: there is room to begin, and none for a checkpoint."""
    folder = bench.work / "limited_checkpoint"
    run = bench.start(folder, altered=limited(64))
    status = run.wait()
    good, end = told(run, status), bench.end_of(folder)
    happened = f"{short(headline(run), folder)}; {end}"
    return Result("no room for a checkpoint's tensors", "ulimit -f 64", happened, good and end == GOES_ON)


def log_limit(bench: Bench) -> Result:
    """No file may grow beyond 96 KiB: there is room for the checkpoints of a small network, and metrics.jsonl outgrows it."""
    folder, steps = bench.work / "limited_log", 400
    run = bench.start(folder, "backbone.embedding_size=4", altered=limited(96), steps=steps)
    status = run.wait()
    lines = [line for line in run.text().splitlines() if "metrics.jsonl" in line]
    good = status == 0 and len(lines) == 1 and saved_steps(folder)[-1] == steps and not has_traceback(run.text())
    line = re.sub(r"^[\d:]+ ", "", lines[0]) if lines else headline(run)
    happened = f"{short(line, folder)}; trained to step {saved_steps(folder)[-1]} all the same"
    return Result("no room for metrics.jsonl", "ulimit -f 96", happened, good)


def folder_removed(bench: Bench) -> Result:
    """Whoever removes the folder is told, and nothing that looks like a run but is none remains."""
    folder = bench.work / "vanished"
    run = bench.start(folder)
    wait_until(lambda: last_step(folder) >= 6, run)
    while folder.exists():  # the run may write into it meanwhile
        shutil.rmtree(folder, ignore_errors=True)
        if (folder / "checkpoints").exists():
            break
    status = run.wait()
    text = run.text()
    named = [line for line in text.splitlines() if "removed" in line or "gone" in line or "error:" in line]
    line = re.sub(r"^[\d:]+ ", "", named[0]) if named else headline(run)
    whole = status == 0 and saved_steps(folder)[-1:] == [STEPS] and not leftovers(folder)
    good = bool(named) and not has_traceback(text) and not run.orphans() and (whole or told(run, status))
    end = f"; trained to the end in a new one, checkpoints {saved_steps(folder)}" if whole else ""
    return Result("output folder removed in mid-run", "rm -r", f"{short(line, folder)}{end}", good)


def read_only(bench: Bench) -> Result:
    folder = bench.work / "read_only"
    if os.geteuid() == 0:
        with small_disk(folder, "ro") as mounted:
            if not mounted:
                return Result("read-only folder", "mount -o ro", "not tried: nothing can be mounted here", True)
            run = bench.start(folder)
            status = run.wait()
        means = "tmpfs, mounted read-only"
    else:
        folder.mkdir()
        folder.chmod(0o555)
        run = bench.start(folder)
        status = run.wait()
        folder.chmod(0o755)
        means = "chmod 555"
    return Result("read-only folder", means, short(headline(run), folder), told(run, status))


def flip(path: Path) -> None:
    """Turn a bit in the middle of a file; in JSON, one that leaves it JSON: the last bit of a digit."""
    content = bytearray(path.read_bytes())
    place = len(content) // 2
    if path.suffix == ".json":
        digits = [found.start() for found in re.finditer(rb"(?<=[ :\[\"])[1-8]", bytes(content))]
        place = digits[len(digits) // 2] if digits else place
    content[place] ^= 1
    path.write_bytes(content)


def flip_of_state(path: Path) -> None:
    """Turn the last bit of the step number that a checkpoint's index states."""
    content = path.read_bytes()
    found = re.search(rb'"(?:position|step)": *(\d+)', content)
    place = (found.end(1) - 1) if found else len(content) // 2
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


def truncate(path: Path) -> None:
    """Cut the second half off."""
    os.truncate(path, path.stat().st_size // 2)


def damaged(bench: Bench, name: str, file: str, damage: Callable[[Path], None]) -> Result:
    """Damage one file of the newest checkpoint: it must be noticed, and the one before be taken."""
    folder = bench.work / f"damaged.{bench.count}"
    shutil.copytree(bench.work / "killed", folder, symlinks=True)
    damage(last_checkpoint(folder) / file)
    run = bench.start(folder)
    status = run.wait()
    step, found = resumed_step(run.text()), differences(bench.reference(), folder) if status == 0 else []
    if status:
        happened, good = f"refused: {short(headline(run), folder)}", False
    elif step == 15:
        happened, good = f"LOADED ALL THE SAME{'; ' + found[0] if found else ''}", False
    else:
        told_so = Path(file).name in run.text()
        happened = (
            f"noticed, went on from step {step}" if told_so else f"went on from step {step} WITHOUT NAMING THE FILE"
        )
        happened += f"; ends otherwise: {found[0]}" if found else f"; {GOES_ON}"
        good = told_so and not found
    if good:
        shutil.rmtree(folder)
    return Result(f"{name}: {file}", "the newest checkpoint, step 15", happened, good)


def edited(bench: Bench, override: str, accepted: bool, *flags: str) -> Result:
    """The command given again with another value: refused or accepted, and told by its key either way."""
    folder = bench.work / f"edited.{bench.count}"
    shutil.copytree(bench.work / "killed", folder, symlinks=True)
    run = bench.start(folder, override, *flags)
    status = run.wait()
    key = override.partition("=")[0]
    lines = [line for line in run.text().splitlines() if key in line and "then" in line]
    line = re.sub(r"^[\d:]+ ", "", lines[0]) if lines else headline(run)
    good = bool(lines) and (status == 0) == accepted and not has_traceback(run.text())
    what = "accepted" if status == 0 else "refused"
    return Result(
        f"resumed with {' '.join([override, *flags])}", "command line", f"{what}: {short(line, folder)}", good
    )


@contextmanager
def small_disk(mount: Path, options: str = "size=8m") -> Iterator[bool]:
    """A tmpfs at `mount`; False where none can be mounted."""
    mount.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(mount)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(mount)], check=False)


def fill(path: Path) -> None:
    """Write until nothing fits any more."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def scenarios(bench: Bench) -> Scenarios:
    """All faults by name, in the order in which they are tried."""
    for when in ("while a checkpoint is written", "between checkpoints"):
        yield f"full disk {when}", lambda when=when: full_disk(bench, when)  # type: ignore[misc]
    yield "limit checkpoint", lambda: checkpoint_limit(bench)
    yield "limit logging", lambda: log_limit(bench)
    yield "folder removed", lambda: folder_removed(bench)
    yield "read-only folder", lambda: read_only(bench)
    killed_at(bench, bench.work / "killed", 15)
    newest = last_checkpoint(bench.work / "killed")
    files = [str(path.relative_to(newest)) for path in sorted(newest.rglob("*")) if path.is_file()]
    for name, damage in (("flip of a bit", flip), ("cut in half", truncate), ("missing", Path.unlink)):
        for file in files:
            yield f"{name} {file}", lambda name=name, file=file, damage=damage: damaged(bench, name, file, damage)  # type: ignore[misc]
    yield "flip of the step", lambda: damaged(bench, "flip of the step", "checkpoint.json", flip_of_state)
    for override, accepted in (
        ("seed=2", False),
        ("loss=cosface", False),
        ("trainer.batch_size=4", False),
        ("backbone.embedding_size=16", False),
        ("optimizer.lr=0.01", True),
    ):
        yield f"edited {override}", lambda override=override, accepted=accepted: edited(bench, override, accepted)  # type: ignore[misc]
    yield "edited loss=cosface anyway", lambda: edited(bench, "loss=cosface", True, "resume_anyway=true")


def main() -> int:
    who = "root" if os.geteuid() == 0 else "not root"
    return try_all(__doc__, lambda work: Bench(work, STEPS, "checkpoint.keep=4"), scenarios, "by", who)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # unmounts
    sys.exit(main())
