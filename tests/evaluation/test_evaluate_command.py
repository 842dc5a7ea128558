from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from frtrain.backbones import BACKBONES
from frtrain.commands.composition import group_defaults
from frtrain.commands.evaluate import Config, check, default_folder, run
from frtrain.data.preprocessing import Preprocessing
from frtrain.errors import ConfigError
from frtrain.schema import parse
from frtrain.training.checkpoint import Checkpoint, write_checkpoint

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def config(**changes: Any) -> Config:
    values = yaml.safe_load((CONFIGS / "evaluate.yaml").read_text())
    values.pop("defaults")
    suite = yaml.safe_load((CONFIGS / "suite" / "lfw_view1.yaml").read_text())
    return parse(Config, {**values, "suite": {**suite, "resamples": 0, **changes.pop("suite", {})}, **changes})


def test_reference_is_evaluated_and_its_report_written(faces, view1, tmp_path, capsys):
    run(config(model="pixels", suite={"crops": str(faces), "pairs": str(view1)}, output=str(tmp_path / "out")))
    assert json.loads((tmp_path / "out" / "report.json").read_text())["verification"]["accuracy"]["mean"] == 1
    printed = capsys.readouterr().out
    assert "100.00 ± 0.00 %" in printed
    assert str(tmp_path / "out" / "report.html") in printed


def test_a_trained_model_is_loaded_from_its_run_and_its_report_goes_there(faces, view1, tmp_path):
    torch.manual_seed(0)
    spec = {
        **group_defaults("backbone", "iresnet_tiny"),
        "widths": [16, 16, 16],
        "blocks": [1, 1, 1],
        "embedding_size": 32,
    }
    run_folder = tmp_path / "run"
    checkpoint = Checkpoint(
        tensors={"backbone": BACKBONES.build(spec).state_dict()},
        state={"step": 1},
        config={"backbone": spec, "loss": {"name": "arcface"}},
        classes=["a", "b"],
        fingerprint="",
        preprocessing=Preprocessing().as_dict(),
    )
    write_checkpoint(run_folder / "checkpoints" / "step-00000001", checkpoint)
    run(config(model=str(run_folder), device="cpu", suite={"crops": str(faces), "pairs": str(view1)}))
    report = json.loads((run_folder / "evaluations" / "lfw_view1" / "report.json").read_text())
    assert "iresnet_tiny trained with arcface, step 1" in report["model"]


def test_model_is_asked_for():
    with pytest.raises(ConfigError, match="model: which model"):
        check(config())


def test_wrong_suite_key_is_found_before_anything_is_loaded():
    with pytest.raises(ConfigError, match=r"suite\.crop: unknown key; did you mean 'crops'"):
        check(config(model="pixels", suite={"crop": "x"}))


def test_unknown_device_is_refused(faces, view1, tmp_path):
    with pytest.raises(ConfigError, match="device=gpu: unknown device"):
        run(config(model="runs/any", device="gpu", suite={"crops": str(faces), "pairs": str(view1)}))


@pytest.mark.parametrize(
    ("model", "folder"),
    [
        ("runs/a", "runs/a/evaluations/lfw_view1"),
        ("runs/a/checkpoints/step-00000100", "runs/a/evaluations/lfw_view1-step-00000100"),
        ("pixels", "runs/pixels/evaluations/lfw_view1"),
    ],
)
def test_report_goes_to_the_run_it_belongs_to(model, folder):
    assert default_folder(model, "lfw_view1") == Path(folder)
