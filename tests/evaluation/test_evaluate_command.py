from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from frtrain.commands.evaluate import Config, check, default_folder, run
from frtrain.errors import ConfigError
from frtrain.evaluation.references import PixelEmbedder
from frtrain.schema import parse

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


def test_trained_model_is_loaded_from_its_path_on_the_chosen_device(faces, view1, tmp_path, monkeypatch):
    asked = []

    def load_embedder(path: Path, device: torch.device) -> PixelEmbedder:
        asked.append((path, device))
        return PixelEmbedder()

    stub = ModuleType("frtrain.deploy.embedder")
    stub.load_embedder = load_embedder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "frtrain.deploy.embedder", stub)
    model = tmp_path / "run"
    model.mkdir()
    run(config(model=str(model), device="cpu", suite={"crops": str(faces), "pairs": str(view1)}))
    assert asked == [(model, torch.device("cpu"))]
    assert (model / "evaluations" / "lfw_view1" / "report.html").is_file()


def test_model_is_asked_for():
    with pytest.raises(ConfigError, match="model: which model"):
        check(config())


def test_wrong_suite_key_is_found_before_anything_is_loaded():
    with pytest.raises(ConfigError, match=r"suite\.crop: unknown key; did you mean 'crops'"):
        check(config(model="pixels", suite={"crop": "x"}))


def test_unknown_device_is_refused(faces, view1, tmp_path):
    with pytest.raises(ConfigError, match="device=gpu: must be auto, cpu"):
        run(config(model=str(tmp_path), device="gpu", suite={"crops": str(faces), "pairs": str(view1)}))


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


def test_report_of_an_exported_file_goes_beside_it(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"")
    assert default_folder(str(tmp_path / "net.onnx"), "lfw_view2") == tmp_path / "evaluations" / "lfw_view2-net"
