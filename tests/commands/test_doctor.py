"""The doctor's exit status and advice, on this machine and on broken ones."""

from __future__ import annotations

import importlib
import json
from importlib import metadata
from types import ModuleType
from typing import Any

import pytest

from frtrain.commands import doctor
from frtrain.commands.composition import compose_plain
from frtrain.schema import parse
from frtrain.training.hardware import choose_device, choose_precision


def report(capsys: pytest.CaptureFixture[str], **changes: object) -> tuple[int, dict[str, Any]]:
    status = doctor.run(parse(doctor.Config, {"device": "auto", "json": True, **changes}))
    return status, json.loads(capsys.readouterr().out)


def finding(findings: list[dict[str, str]], topic: str, verdict: str | None = None) -> dict[str, str]:
    return next(item for item in findings if item["topic"] == topic and verdict in (None, item["verdict"]))


def installed(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str | None]) -> None:
    real = metadata.version

    def version(name: str) -> str:
        found = versions[name] if name in versions else real(name)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)


def test_defaults_of_the_verb_fit_its_schema() -> None:
    config = parse(doctor.Config, compose_plain("doctor", []))
    assert (config.device, config.as_json) == ("auto", False)


def test_a_working_machine_exits_with_zero(capsys: pytest.CaptureFixture[str]) -> None:
    status, facts = report(capsys)
    assert status == 0
    assert facts["training_possible"]


def test_choices_are_those_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = report(capsys)[1]["frtrain_will_choose"]
    device = choose_device("auto")
    assert finding(chosen, "device")["value"] == str(device.value)
    precision = "fp32" if choose_precision("auto", device.value).value is None else "bf16"
    assert finding(chosen, "precision")["value"] == precision
    assert all(finding(chosen, topic)["advice"] for topic in ("channels_last", "workers", "threads"))


def test_table_says_that_training_is_possible(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run(parse(doctor.Config, {"device": "cpu", "json": False})) == 0
    assert "training is possible" in capsys.readouterr().out


def test_unknown_device_is_a_problem_with_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    status, facts = report(capsys, device="gpu")
    assert status == 1
    assert "device=gpu: unknown device" in finding(facts["frtrain_will_choose"], "device")["advice"]


def test_torchvision_of_another_torch_is_a_problem_with_its_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def import_module(name: str) -> ModuleType:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist\nmore")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    status, facts = report(capsys)
    broken = finding(facts["software"], "import torchvision", "problem")
    assert status == 1
    assert broken["value"] == "operator torchvision::nms does not exist"
    assert "same index" in broken["advice"]


def test_missing_package_is_a_problem(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, {"safetensors": None})
    status, facts = report(capsys)
    assert status == 1
    assert finding(facts["software"], "safetensors")["verdict"] == "problem"


@pytest.mark.parametrize(
    ("versions", "topic", "advice"),
    [
        ({"opencv-python": "4.11.0"}, "opencv-python", "overwrite each other's cv2"),
        ({"facenet-pytorch": "2.6.0"}, "facenet-pytorch", "facenet-pytorch==2.5.3"),
    ],
)
def test_package_clash_is_a_warning(
    versions: dict[str, str | None],
    topic: str,
    advice: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed(monkeypatch, versions)
    status, facts = report(capsys)
    assert status == 0
    assert advice in finding(facts["software"], topic, "warning")["advice"]
