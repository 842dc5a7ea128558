from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from frtrain.commands.application import run_verb
from frtrain.errors import ConfigError
from frtrain.planning.gpus import GIB, GPUS, target_of
from frtrain.planning.job import Job
from frtrain.training.hardware import this_machine

SMALL = (
    "backbone.widths=[16]",
    "backbone.blocks=[1]",
    "backbone.strides=[2]",
    "trainer.batch_size=16",
    "suggest=false",
)


def test_a_plan_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "plan.json"
    arguments = ["identities=1000000", "processes=4", "gpu=a100-80g", "images=5000000", f"json={path}"]
    assert run_verb(["plan", *SMALL, *arguments]) == 0
    told = capsys.readouterr().out
    for wanted in ("1,000,000 identities", "class centres", "gradients of the backbone", "fits", "312,500 steps"):
        assert wanted in told
    facts = json.loads(path.read_text())
    assert facts["classifier"] == "sharded"
    assert facts["fits"] is True
    assert facts["total_bytes"] == max(moment["total_bytes"] for moment in facts["moments"]) + sum(
        facts["allowances"].values()
    )


def test_what_does_not_fit_ends_with_1(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="1"):
        run_verb(["plan", *SMALL, "identities=1000000", "gpu=t4", "gpu_memory_gib=2"])
    assert "does not fit" in capsys.readouterr().out


def test_identities_of_a_published_set_are_known(capsys: pytest.CaptureFixture[str]):
    arguments = ["data=ms1mv3", "data.root=/nowhere", "validation.fraction=0", "gpu=h100", "json=-"]
    assert run_verb(["plan", *SMALL, *arguments]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["identities"] == 93431
    assert facts["epoch"]["images"] == 5179510


def test_a_name_that_is_nearly_one_is_suggested():
    with pytest.raises(ConfigError, match="did you mean 'h100'"):
        target_of("h10")


def test_this_machine_is_its_gpu_or_its_memory_shared_by_the_processes():
    machine = this_machine()
    if machine.gpus:
        assert target_of("this").memory_bytes == machine.gpus[0].memory_bytes
    else:
        assert target_of("this", processes_here=2).memory_bytes == target_of("this").memory_bytes // 2
    assert target_of("A100_80G", memory_gib=10).memory_bytes == 10 * GIB
    assert all(gpu.memory_bytes > 9 * GIB for gpu in GPUS.values())


def test_a_gpu_without_bfloat16_computes_in_float32(job: Callable[..., Job]):
    choices = {gpu: job(f"gpu={gpu}", "trainer.precision=auto").precision for gpu in ("v100-32g", "a100-80g")}
    assert choices == {"v100-32g": None, "a100-80g": torch.bfloat16}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["gpu=a100"], "gpu=a100: unknown GPU; did you mean 'a100-40g' or 'a100-80g'?"),
        (["trainer.batch_size=8", "processes=8"], "trainer.batch_size=8: is shared by 8 processes"),
        (["identities=1"], "identities=1: must be 'auto' or must be greater than or equal to 2"),
        (["gpu_memory_gib=-1", "processes=0"], "gpu_memory_gib=-1: must be greater than 0"),
        (["processes=8", "nodes=3"], "nodes=3: 8 processes cannot be divided"),
        (["identitys=4"], "identitys: unknown key; did you mean 'identities'?"),
        (["data=folder", "data.root=/x"], "identities=auto: how many data=folder has is not known"),
        (["trainer.parallel=fsdp", "trainer.static_graph=true"], "trainer.static_graph=true"),
    ],
)
def test_what_cannot_be_planned_is_an_error_that_names_the_key(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
):
    assert run_verb(["plan", *arguments]) == 2
    assert complaint in capsys.readouterr().err
