from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from frtrain.commands import VERBS
from frtrain.commands.application import run_verb
from frtrain.commands.composition import choices, compose_plain, expand_sweep, groups_of, merge_overrides
from frtrain.config import TrainConfig
from frtrain.config_files import option_values
from frtrain.errors import ConfigError
from frtrain.schema import parse
from frtrain.training.checks import check_components


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loss=arcfase"], "loss=arcfase: unknown loss; did you mean 'arcface'?"),
        (["optimiser=sgd"], "optimiser: unknown key; did you mean 'optimizer'?"),
        (["trainer.batchsize=3"], "trainer.batchsize: unknown key; did you mean 'batch_size'?"),
        (["trainer.batch_size=0"], "trainer.batch_size=0: must be greater than or equal to 2"),
        (["trainer.batch_size=many"], "trainer.batch_size='many': must be a valid integer"),
        (["loss.margin=-0.1"], "loss.margin=-0.1: must be greater than or equal to 0"),
        (["+loss.gamma=1"], "loss.gamma: unknown key"),
        (["loss.margn=0.5"], "loss.margn: unknown key; did you mean 'margin'?"),
        (["data=folder"], "data.root: a value is required"),
        (["data=folder", "data.root=x", "data.identities=y"], "data.identities: unknown key; it is subset.include"),
        (
            ["data=folder", "data.root=x", "data.min_images=2"],
            "data.min_images: unknown key; it is subset.min_images",
        ),
        (["subset.min_image=2"], "subset.min_image: unknown key; did you mean 'min_images'?"),
        (["subset.first=0"], "subset.first=0: must be greater than 0"),
        (["backbone=iresnet51"], "backbone=iresnet51: unknown backbone; did you mean 'iresnet50'?"),
        (["trainer.precision=fp8"], "trainer.precision='fp8': must be 'auto', 'fp32', 'bf16', 'fp16' or 'fp64'"),
        (["trian"], "trian: unknown verb; did you mean 'train'?"),
        (["evaluate", "model=x", "siute=lfw_view2"], "siute: unknown key; did you mean 'suite'?"),
        (["doctor", "jsn=true"], "jsn: unknown key; did you mean 'json'?"),
        (["data=null"], "data=null: a choice is made by its name"),
        (["trainer=5"], "trainer=5: a choice is made by its name"),
        (["seed=99999999999999999999999"], "seed=99999999999999999999999: must be less than"),
        (["loss.scale=inf"], "loss.scale=inf: must be a finite number"),
        (["trainer.batch_size=1"], "trainer.batch_size=1: must be greater than or equal to 2"),
        (["trainer.workers=foo"], "trainer.workers='foo': must be 'auto' or must be a valid integer"),
        (["name=../escape"], "name='../escape'"),
        (["experiment=lfw_veiw1"], "experiment=lfw_veiw1: unknown experiment; did you mean 'lfw_view1'?"),
        (["backbone=resnet18", "backbone.widths=[16]"], "backbone.widths: unknown key"),
        (["trainer.device=cuda:x"], "device=cuda:x: unknown device"),
        (["resume=runs/a", "run_dir=b"], "resume=PATH goes on in that run's own folder"),
        (["loss=[1"], "cannot understand the argument 'loss=[1'"),
        (["inspect", "data=folder", "data.root=x", "data.layout=odd"], "data.layout='odd': must be"),
        (
            ["data=folder", "data.root='~nobody.here/x'"],
            "data.root=~nobody.here/x: there is no home folder of ~nobody.here",
        ),
        (["data=folder", "data.root=~/x"], "write the path in full, or in two kinds of quotes: data.root='\"~/x\"'"),
        (["curate", "model=pixels", "data.root=x", "target="], "target: a folder is required"),
        (["convert", "source=x", "target=", "to=recordio"], "target: a folder is required"),
        (
            ["inspect", "data=folder", "data.root=x", "page=a.html", "json=a.html"],
            "json=a.html: is the same file as page",
        ),
        (["-m", "loss=arcface,cosfase"], "loss=cosfase: unknown loss; did you mean 'cosface'?"),
    ],
)
def test_a_wrong_command_line_is_told_in_words_without_a_traceback(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    try:
        status = run_verb(arguments)
    except SystemExit as end:
        status = int(end.code or 0)
    told = capsys.readouterr().err
    assert status == 2
    assert message in told
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def test_several_processes_that_cannot_meet_are_told_how_to_be_started(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    assert run_verb([]) == 1
    told = capsys.readouterr().err
    assert "the 2 processes of this run (WORLD_SIZE) cannot meet" in told
    assert "torchrun --nproc-per-node=N -m frtrain" in told


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_shows_an_example_and_its_choices(verb: str, capsys: pytest.CaptureFixture[str]):
    assert run_verb([verb, "--help"]) == 0
    told = capsys.readouterr().out
    assert f"python -m frtrain {verb}" in told
    for group in groups_of(verb):
        for option in choices(group):
            assert option in told


def _what_must_be_given(choice: str) -> list[str]:
    """Something for each key of a data set that has no default."""
    group, option = choice.split("=")
    keys = [key for key, value in option_values(group, option).items() if value == "???"] if group == "data" else []
    return [f"data.{key}={'[{name: synthetic}]' if key == 'sources' else 'x'}" for key in keys]


@pytest.mark.parametrize(
    "choice",
    [f"{group}={option}" for group in groups_of("train") for option in choices(group) if group != "suite"],
)
def test_every_choice_of_every_group_composes_and_checks(choice: str, tmp_path: Path):
    values = compose_plain("train", [choice, *_what_must_be_given(choice)])
    values["suite"] = None
    check_components(parse(TrainConfig, values))


def test_a_sweep_expands_to_all_combinations():
    jobs = expand_sweep(["loss=arcface,cosface", "seed=1,2", "name=x"])
    assert [job[0] + " " + job[1] for job in jobs] == [
        "loss=arcface seed=1",
        "loss=arcface seed=2",
        "loss=cosface seed=1",
        "loss=cosface seed=2",
    ]


def test_new_overrides_replace_saved_ones_of_the_same_key():
    assert merge_overrides(["loss=arcface", "seed=1"], ["seed=2"]) == ["loss=arcface", "seed=2"]


def test_a_missing_component_of_a_group_is_told_with_what_there_is():
    with pytest.raises(ConfigError, match=r"known: constant, cosine, multi_step"):
        compose_plain("train", ["scheduler=linear"])


def started(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "frtrain", *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


SMALL = [
    "backbone.widths=[16,16,16]",
    "backbone.blocks=[1,1,1]",
    "trainer.batch_size=8",
    "validation.fraction=0",
    "log.tensorboard=false",
    "log.pictures_every_epochs=null",
]


@pytest.mark.slow
def test_ctrl_c_in_a_real_run_checkpoints_and_resume_alone_goes_on_to_the_end(
    crops_folder: Callable[..., Path], tmp_path: Path
):
    crops = crops_folder()
    folder = tmp_path / "run"
    arguments = ["data=folder", f"data.root={crops}", f"run_dir={folder}", "trainer.max_steps=100", *SMALL]
    process = started([*arguments, "log.every_steps=1"], tmp_path)
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert f"python -m frtrain resume={folder}" in output
    assert "Traceback" not in output

    resumed = started([f"resume={folder}", "trainer.epochs=null", "log.every_steps=100"], tmp_path)
    output, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, output
    assert "finished 100 steps" in output
    assert (folder / "checkpoints" / "last").resolve().name == "step-00000100"


@pytest.mark.slow
def test_a_sweep_runs_every_job_in_a_folder_of_its_own(crops_folder: Callable[..., Path], tmp_path: Path):
    crops = crops_folder(identities=4, images=3)
    sweep = ["-m", "loss=arcface,sv_softmax", "seed=1,2", "data=folder", f"data.root={crops}", "trainer.max_steps=2"]
    process = started([*sweep, *SMALL], tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    found = sorted(path.parent.name for path in (tmp_path / "runs").glob("*/*/config.yaml"))
    assert len(found) == 4
    names = sorted(path.name for path in (tmp_path / "runs").iterdir() if path.name != "sweeps")
    assert names == ["arcface_iresnet_tiny", "sv_softmax_iresnet_tiny"]


def test_what_the_system_refuses_is_told_without_a_traceback(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="1"):
        run_verb(["inspect", "data=folder", f"data.root=/{'x' * 300}", "read=none"])
    assert "File name too long" in capsys.readouterr().err
