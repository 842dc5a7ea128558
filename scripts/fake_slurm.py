"""Just enough of Slurm's commands to try job scripts and the launcher on one machine, without a cluster.

    python scripts/fake_slurm.py /tmp/fake                     # makes /tmp/fake/bin/{sbatch,srun,sacct,scontrol,scancel}
    PATH=/tmp/fake/bin:$PATH python -m frtrain -m hydra/launcher=slurm hydra.launcher.gpus_per_node=null ...
    PATH=/tmp/fake/bin:$PATH scancel --signal=USR1 1_0         # what Slurm does some time before a job's end

Jobs start at once, all nodes are this machine, and nothing is limited: no time, no memory, no GPUs. What is real is the job
script, the variables SLURM_*, the number of tasks, the signals and being queued again. Job scripts are kept as /tmp/fake/N.sh.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

COMMANDS = ("sbatch", "srun", "sacct", "scontrol", "scancel")


def make_commands(folder: Path) -> None:
    """Write the commands, which all lead back to this file."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    for name in COMMANDS:
        path = folder / "bin" / name
        here = shlex.join([sys.executable, str(Path(__file__).resolve()), "--as", name, str(folder.resolve())])
        path.write_text(f'#!/bin/sh\nexec {here} "$@"\n')
        path.chmod(0o755)


def flags_of(script: str) -> dict[str, str]:
    """`#SBATCH --key=value` lines."""
    found = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script, re.MULTILINE)
    return {key: " ".join(shlex.split(value)) for key, value in found}


def sbatch(folder: Path, arguments: list[str]) -> int:
    """Keep the script, start its jobs in the background, say their number."""
    while arguments[0].startswith("-"):
        arguments.pop(0)
    script = Path(arguments[0]).read_text()
    number = 1 + max((int(path.stem) for path in folder.glob("*.sh")), default=0)
    (folder / f"{number}.sh").write_text(script)
    first, _, last = flags_of(script).get("array", "").partition("%")[0].partition("-")
    for task in range(int(first or 0), int(last or first or 0) + 1):
        name = f"{number}_{task}" if first else str(number)
        subprocess.Popen(
            [sys.executable, __file__, "--as", "job", str(folder), name, *arguments[1:]],
            stdin=subprocess.DEVNULL,
            stdout=(folder / f"{name}.out").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    print(f"Submitted batch job {number}")
    return 0


def job(folder: Path, arguments: list[str]) -> int:
    """Run a job's script, again as long as it is queued again."""
    name = arguments[0]
    number, _, task = name.partition("_")
    path = folder / f"{number}.sh"
    flags = flags_of(path.read_text())
    nodes, per_node = int(flags.get("nodes", 1)), int(flags.get("ntasks-per-node", 1))
    variables = {
        "SLURM_JOB_ID": str(int(number) * 1000 + int(task or 0)) if task else number,
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_NTASKS": str(nodes * per_node),
        "SLURM_TASKS_PER_NODE": f"{per_node}(x{nodes})" if nodes > 1 else str(per_node),
        "SLURM_JOB_NODELIST": ",".join(["localhost"] * nodes),
        "FAKE_SLURM_JOB": name,
    }
    if task:
        variables |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": task}
    while True:
        (folder / f"{name}.state").write_text("RUNNING")
        shell = subprocess.Popen(["bash", str(path), *arguments[1:]], env={**os.environ, **variables})
        (folder / f"{name}.batch").write_text(str(shell.pid))
        status = shell.wait()
        if not (folder / f"{name}.requeue").exists():
            break
        (folder / f"{name}.requeue").unlink()
        print(f"job {name} is queued again", flush=True)
    (folder / f"{name}.state").write_text("FAILED" if status else "COMPLETED")
    return status


def srun(folder: Path, arguments: list[str]) -> int:
    """Start the tasks of a step; signals are handed on to them; the highest exit status."""
    output: str | None = None
    while arguments and arguments[0].startswith("-"):
        option, equals, value = arguments.pop(0).partition("=")
        if option in ("--output", "--error"):
            value = value if equals else arguments.pop(0)
            output = value if option == "--output" else output
    count, nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_JOB_NUM_NODES"])
    arguments[0] = shutil.which(arguments[0]) or arguments[0]
    job_name = os.environ["FAKE_SLURM_JOB"]
    (folder / f"{job_name}.pid").write_text(str(os.getpid()))
    tasks: list[subprocess.Popen[bytes]] = []

    def hand_on(number: int, frame: object) -> None:
        for task in tasks:
            task.send_signal(number)

    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, hand_on)
    for rank in range(count):
        per_node = count // nodes
        variables = {
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(rank % per_node),
            "SLURM_NODEID": str(rank // per_node),
        }
        name = (output or os.devnull).replace("%j", job_name).replace("%A_%a", job_name).replace("%t", str(rank))
        with Path(name).open("ab") as stream:
            to = stream if output else None
            tasks.append(subprocess.Popen(arguments, env={**os.environ, **variables}, stdout=to, stderr=to))
    return max(abs(task.wait()) for task in tasks)


def sacct(folder: Path, arguments: list[str]) -> int:
    print("JobID|State|NodeList")
    for path in sorted(folder.glob("*.state")):
        print(f"{path.stem}|{path.read_text()}|localhost")
    return 0


def scontrol(folder: Path, arguments: list[str]) -> int:
    if arguments[0] == "requeue":
        (folder / f"{arguments[1]}.requeue").touch()
    elif arguments[:2] == ["show", "hostnames"]:
        with contextlib.suppress(BrokenPipeError):  # `| head -n 1` may have gone
            print("\n".join(os.environ["SLURM_JOB_NODELIST"].split(",")), flush=True)
    return 0


def scancel(folder: Path, arguments: list[str]) -> int:
    """`--signal=USR1 JOB` for the tasks, `--batch --signal=USR1 JOB` for the job script; without a signal SIGTERM."""
    number, jobs, kind = signal.SIGTERM, [], "pid"
    while arguments:
        word = arguments.pop(0)
        if word.startswith("--signal"):
            name = word.partition("=")[2] or arguments.pop(0)
            number = signal.Signals[f"SIG{name.removeprefix('SIG')}"]
        elif word == "--batch":
            kind = "batch"
        else:
            jobs.append(word)
    for name in jobs:
        deadline = time.monotonic() + 10
        while not (folder / f"{name}.{kind}").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(int((folder / f"{name}.{kind}").read_text()), number)
    return 0


ACTIONS: dict[str, Callable[[Path, list[str]], int]] = {
    "sbatch": sbatch,
    "srun": srun,
    "sacct": sacct,
    "scontrol": scontrol,
    "scancel": scancel,
    "job": job,
}


def main() -> int:
    if len(sys.argv) > 3 and sys.argv[1] == "--as":
        return ACTIONS[sys.argv[2]](Path(sys.argv[3]), sys.argv[4:])
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return 2
    make_commands(Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
