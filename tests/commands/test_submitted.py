"""Jobs for Slurm: what is submitted, and what a task makes of Slurm's variables. No cluster is needed."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from frtrain.commands import submitted
from frtrain.commands.application import run_verb
from frtrain.errors import ConfigError
from frtrain.signals import StoppedError

TASK = {
    "SLURM_JOB_ID": "4711",
    "SLURM_NTASKS": "7",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_TASKS_PER_NODE": "4,3",
    "SLURM_JOB_NODELIST": "gpu[003-004],login1",
}


def test_a_task_of_slurm_finds_the_others_as_one_of_torchrun_does():
    assert submitted.torch_environment(TASK) == {
        "RANK": "5",
        "WORLD_SIZE": "7",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "3",
        "MASTER_ADDR": "gpu003",
        "MASTER_PORT": "24711",
    }


def test_the_only_task_of_a_job_trains_alone():
    assert submitted.torch_environment({**TASK, "SLURM_NTASKS": "1"}) == {}


def test_a_task_without_its_number_is_an_error_that_names_the_variable():
    with pytest.raises(ConfigError, match="SLURM_PROCID"):
        submitted.torch_environment({key: value for key, value in TASK.items() if key != "SLURM_PROCID"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("gpu[003-007,9],x", "gpu003"), ("r[2,4]n[01-04]", "r2n01"), ("a-b[7]", "a-b7")],
)
def test_the_first_host_of_a_list_of_nodes(nodes: str, first: str):
    assert submitted.first_host(nodes) == first


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands of Slurm that keep the job script and say that the job has failed."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, body in {
        "sbatch": f'cp "$1" {tmp_path}/job.sh; echo Submitted batch job 1',
        "srun": "exit 1",
        "sacct": "echo 'JobID|State|NodeList'; for job in 1_0 1_1; do echo \"$job|FAILED|n1\"; done",
    }.items():
        (commands / name).write_text(f"#!/bin/sh\n{body}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 0)  # else they are looked for again and again
    monkeypatch.setattr("submitit.core.core.InfoWatcher.is_done", lambda self, job_id, mode="standard": True)
    return tmp_path


def test_a_sweep_is_submitted_as_an_array_whose_jobs_have_a_task_for_each_gpu(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.argv", [])
    arguments = ["-m", "hydra/launcher=slurm", "loss=arcface,cosface", "data=folder", "data.root=/crops"]
    launcher = {"nodes": 2, "gpus_per_node": 4, "cpus_per_task": 12, "partition": "gpu", "timeout_min": 90}
    settings = [f"hydra.launcher.{key}={value}" for key, value in launcher.items()]
    with pytest.raises(SystemExit):  # the jobs are said to have failed
        run_verb([*arguments, *settings, f"hydra.sweep.dir={cluster}/sweep"])
    script = (cluster / "job.sh").read_text()
    flags = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, re.MULTILINE))
    wanted = {
        "array": "0-1%2",
        "nodes": "2",
        "ntasks-per-node": "4",
        "gpus-per-node": "4",
        "cpus-per-task": "12",
        "partition": "gpu",
        "time": "90",
        "signal": "USR1@120",
        "requeue": "",
        "job-name": "frtrain",
    }
    assert {key: flags.get(key) for key in wanted} == wanted
    lines = script.splitlines()
    assert "export SUBMITIT_PREEMPT_SIGNAL=USR1" in lines
    assert "export SRUN_CPUS_PER_TASK=12" in lines
    assert re.search(rf"^srun .* -m submitit\.core\._submit {cluster}/sweep/slurm/%j$", script, re.MULTILINE)


def test_a_job_that_is_queued_again_writes_to_the_same_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for key, value in {"SUBMITIT_EXECUTOR": "slurm", "SLURM_ARRAY_JOB_ID": "47", "SLURM_ARRAY_TASK_ID": "3"}.items():
        monkeypatch.setenv(key, value)
    values = {"runs": "/r", "name": "arcface", "run_dir": None, "resume": "auto"}
    assert submitted.with_folder_of_the_job(values)["run_dir"] == "/r/arcface/job-47_3"
    for chosen in ({"run_dir": "/mine"}, {"resume": "/r/other"}, {"resume": "never"}):
        assert submitted.with_folder_of_the_job({**values, **chosen}) == {**values, **chosen}


def test_the_warning_before_the_end_of_a_job_is_handed_on_and_other_stops_are_not():
    told: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: told.append(number))
    try:
        submitted.queue_again(StoppedError(signal.SIGTERM, "after step 3"))
        assert told == []
        with pytest.raises(SystemExit):
            submitted.queue_again(StoppedError(signal.SIGUSR1, "after step 3", 0))
        assert told == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_launcher_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(submitted, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"hydra/launcher=slurm: needs .* pip install 'frtrain\[slurm\]'"):
        submitted.check_launcher(["hydra/launcher=slurm"], sweep=True)


def test_a_launcher_without_a_sweep_would_be_ignored_and_is_an_error():
    with pytest.raises(ConfigError, match="add -m"):
        submitted.check_launcher(["hydra/launcher=slurm"], sweep=False)
