"""Jobs that a launcher of submitit has handed to Slurm: their tasks train as one, and go on when they are queued again.

What happens on the cluster is no torchrun's business there: Slurm starts the tasks, on all nodes, and ends them together.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from frtrain.errors import ConfigError
from frtrain.signals import StoppedError

LAUNCHER = "hydra/launcher"
BY_SUBMITIT = ("slurm", "submitit_slurm", "submitit_local")
PORTS = range(20_000, 60_000)
"""Above those of services, below those that the system gives to outgoing connections by itself."""


def check_launcher(overrides: Sequence[str], sweep: bool) -> None:
    """See that a launcher that is asked for is there, and will be used.

    Raises:
        ConfigError: its package is missing, or `-m` is: without it Hydra runs the job here.
    """
    chosen = [value for key, _, value in (text.partition("=") for text in overrides) if key == LAUNCHER]
    if not chosen or chosen[-1] not in (*BY_SUBMITIT, "joblib", "basic"):
        return
    if chosen[-1] in BY_SUBMITIT and find_spec("hydra_plugins.hydra_submitit_launcher") is None:
        raise ConfigError(
            f"{LAUNCHER}={chosen[-1]}: needs the package hydra-submitit-launcher: pip install 'frtrain[slurm]', or pip install "
            "hydra-submitit-launcher"
        )
    if not sweep and chosen[-1] != "basic":
        raise ConfigError(f"{LAUNCHER}={chosen[-1]}: a launcher is used with -m only, for a single run, too; add -m")


def is_submitted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is a task of a job that submitit has started."""
    return "SUBMITIT_EXECUTOR" in environment and "SUBMITIT_FOLDER" in environment


def torch_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What torchrun would set for this task, from what srun has set; empty where it is the only one.

    Args:
        environment: `SLURM_PROCID`, `SLURM_NTASKS`, `SLURM_LOCALID`, `SLURM_NODEID`, `SLURM_TASKS_PER_NODE`, `SLURM_JOB_NODELIST`
            and `SLURM_JOB_ID`; of the step, where there is such a variable.

    Returns:
        `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE`, `MASTER_ADDR` (the first node) and `MASTER_PORT` (from the job's
        number, so that all tasks choose the same and two jobs on one node differ).

    Raises:
        ConfigError: a variable is missing or not understood.
    """
    try:
        count = int(environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS", "1"))
        if count == 1:
            return {}
        nodes = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
        per_node = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment["SLURM_TASKS_PER_NODE"]
        return {
            "RANK": environment["SLURM_PROCID"],
            "WORLD_SIZE": str(count),
            "LOCAL_RANK": environment["SLURM_LOCALID"],
            "LOCAL_WORLD_SIZE": str(_tasks_of_nodes(per_node)[int(environment["SLURM_NODEID"])]),
            "MASTER_ADDR": first_host(nodes),
            "MASTER_PORT": str(PORTS[int(environment["SLURM_JOB_ID"]) % len(PORTS)]),
        }
    except (KeyError, ValueError, IndexError) as error:
        raise ConfigError(
            f"this task of Slurm cannot tell which of several it is: {error!r} (variables SLURM_*)"
        ) from None


def first_host(nodes: str) -> str:
    """The first of Slurm's list of nodes: `gpu[003-007,12],login1` -> `gpu003`.

    Raises:
        ValueError: there is none.
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    if first is None:
        raise ValueError(f"no node in the list {nodes!r}")
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0])


def _tasks_of_nodes(text: str) -> list[int]:
    """`4(x2),3` -> [4, 4, 3]."""
    tasks: list[int] = []
    for number, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        tasks += [int(number)] * int(times or 1)
    return tasks


def join_tasks() -> None:
    """Give this process what the tasks of its job find each other by.

    Raises:
        ConfigError: see `torch_environment`.
    """
    if os.environ["SUBMITIT_EXECUTOR"] == "slurm":
        os.environ.update(torch_environment(os.environ))
        return
    from submitit.helpers import TorchDistributedEnvironment  # knows submitit_local, for trying things out

    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)


def with_folder_of_the_job(values: dict[str, Any]) -> dict[str, Any]:
    """The configuration with a run folder that is the same when the job is queued again, so that it goes on by itself.

    One that the user has chosen, or a run to go on with, is left as it is.
    """
    if values.get("run_dir") is not None or values.get("resume") != "auto":
        return values
    from submitit import JobEnvironment

    folder = Path(str(values["runs"])).expanduser() / str(values["name"]) / f"job-{JobEnvironment().job_id}"
    return {**values, "run_dir": str(folder)}


def queue_again(stopped: StoppedError) -> None:
    """After a stop by Slurm's warning: hand the signal on to submitit, which queues the job again and ends this process.

    Any other stop was somebody's wish, and stays one.
    """
    if stopped.signal_number == signal.SIGUSR1 and callable(signal.getsignal(signal.SIGUSR1)):
        signal.raise_signal(signal.SIGUSR1)  # the first task's handler does not return, those of the others do nothing
        raise SystemExit(0)
