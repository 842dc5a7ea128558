"""Runs in float16 and float64, averaged weights, activation checkpointing and the compiler, through the front door."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from frtrain.commands import evaluate
from frtrain.config import TrainConfig
from frtrain.deploy.embedder import load_embedder
from frtrain.errors import CheckpointError, ConfigError
from frtrain.training import loss_scale, precision, step_parts
from frtrain.training.checkpoint import Checkpoint, read_checkpoint
from frtrain.training.hardware import Choice
from frtrain.training.run_folder import RunFolder, checkpoint_of
from frtrain.training.state import TrainingState

SmallRun = Callable[..., tuple[int, RunFolder]]

ALL = ("trainer.precision=fp16", "trainer.ema_decay=0.9", "trainer.accumulate=2", "trainer.max_steps=4")


def last(folder: RunFolder) -> Checkpoint:
    path = checkpoint_of(folder.path)
    return read_checkpoint(path, parts=tuple(file.stem for file in path.glob("*.safetensors")))


def test_a_float16_run_goes_on_with_its_loss_scale_and_its_averaged_weights(
    small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loss_scale, "INITIAL", 2.0**8)  # low enough for a run of four steps
    _, whole = small_run("whole", *ALL)
    advance = TrainingState.advance
    with monkeypatch.context() as patch:

        def advance_and_stop(self: TrainingState, applied: bool) -> None:
            advance(self, applied)
            if self.step == 2:
                signal.raise_signal(signal.SIGTERM)

        patch.setattr(TrainingState, "advance", advance_and_stop)
        small_run("stopped", *ALL)
    _, resumed = small_run("stopped", *ALL)
    ours, theirs = last(resumed), last(whole)
    assert {"scaler", "ema"} <= theirs.tensors.keys()
    assert theirs.state["skipped"] < 3
    assert int(theirs.tensors["ema"]["updates"]) == 4 - theirs.state["skipped"]
    assert int(theirs.tensors["scaler"]["clean_steps"]) > 0
    for part, tensors in theirs.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(ours.tensors[part][name], tensor), f"{part}: {name}"
    scales = [json.loads(line).get("train/grad_scale") for line in whole.metrics.read_text().splitlines()]
    assert float(theirs.tensors["scaler"]["scale"]) == scales[-1] > 1


def test_a_run_in_float64_is_float64_throughout(small_run: SmallRun):
    _, folder = small_run("run", "trainer.precision=fp64", "trainer.max_steps=2", "loss=curricularface")
    for part, tensors in last(folder).tensors.items():
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and tensor.ndim:
                assert tensor.dtype == torch.float64, f"{part}: {name}"
    embedder = load_embedder(folder.path, torch.device("cpu"))
    assert embedder.embed(torch.zeros(2, 3, 112, 112, dtype=torch.uint8)).dtype == torch.float32


def test_averaged_weights_are_validated_embedded_and_evaluated_where_they_are_asked_for(
    small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
):
    _, folder = small_run(
        "run",
        "trainer.max_steps=3",
        "trainer.ema_decay=0.999",
        "validation.fraction=0.3",
        "validation.pairs=24",
        "validation.weights=ema",
    )
    device, images = torch.device("cpu"), torch.randint(0, 256, (3, 3, 112, 112), dtype=torch.uint8)
    averaged, newest = (load_embedder(folder.path, device, weights) for weights in ("ema", "model"))
    assert torch.equal(averaged.backbone.state_dict()["fc.weight"], last(folder).tensors["ema"]["fc.weight"])
    assert not torch.allclose(averaged.embed(images), newest.embed(images), atol=1e-3)
    assert "averaged weights" in averaged.description
    assert evaluate.default_folder(str(folder.path), "lfw", "ema").name == "lfw-ema"


def test_averaged_weights_that_nobody_kept_are_refused(small_run: SmallRun, small_config: Callable[..., TrainConfig]):
    with pytest.raises(ConfigError, match=r"validation\.weights=ema: .* set trainer\.ema_decay"):
        small_run("run", "validation.weights=ema")
    _, folder = small_run("run", "trainer.max_steps=1")
    with pytest.raises(CheckpointError, match=r"weights=ema, but its run kept no average"):
        evaluate.load_model(str(folder.path), "cpu", "ema")
    with pytest.raises(ConfigError, match="model=pixels has no weights"):
        evaluate.load_model("pixels", "cpu", "ema")


def test_a_run_that_forgets_activations_has_the_weights_of_one_that_keeps_them(small_run: SmallRun):
    settings = ("trainer.accumulate=2", "trainer.max_steps=2", "backbone.dropout=0.4")
    _, kept = small_run("kept", *settings)
    _, forgotten = small_run("forgotten", *settings, "trainer.activation_checkpointing=true")
    for part, tensors in last(kept).tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(last(forgotten).tensors[part][name], tensor), f"{part}: {name}"


def test_a_device_without_float16_is_told_before_training(monkeypatch: pytest.MonkeyPatch):
    def missing(dtype: torch.dtype, device: torch.device) -> None:
        raise RuntimeError('"convolution" not implemented for Half')

    monkeypatch.setattr(precision, "_try_out", missing)
    with pytest.raises(ConfigError, match=r"trainer\.precision=fp16: torch .* not implemented for Half.*use bf16"):
        precision.check_precision(Choice(torch.float16, ""), torch.device("cpu"))


def test_a_machine_without_a_compiler_is_told_before_training(
    small_run: SmallRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def no_compiler(*_: Any, **__: Any) -> Any:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", no_compiler)
    step_parts.check_compiler.cache_clear()
    for key in ("trainer.compile", "trainer.compile_classifier"):
        with pytest.raises(
            ConfigError, match=rf"{key}=true: .*No working C\+\+ compiler found.*install a C\+\+ comp.* {key}=false"
        ):
            small_run("run", f"{key}=true")
    assert not (tmp_path / "run").exists()


def test_every_compiled_run_of_a_sweep_has_all_of_the_compilers_variants(
    small_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
):
    resets: list[bool] = []
    monkeypatch.setattr(step_parts, "check_compiler", lambda *_: None)
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(True))
    config = small_config("trainer.compile_classifier=true")
    for _ in range(2):
        step_parts.check_step(config)
    assert len(resets) == 2


def test_a_compiled_run_has_the_weights_of_an_eager_one_under_the_same_names(
    small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
):
    """Traced as for every backend; a minute of C++ would tell of torch alone."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    settings = ("trainer.max_steps=2", "trainer.ema_decay=0.9", "trainer.accumulate=2")
    _, eager = small_run("eager", *settings)
    compiling = ("trainer.compile=true", "trainer.compile_classifier=true", "trainer.activation_checkpointing=true")
    _, compiled = small_run("compiled", *settings, *compiling)
    for part in ("backbone", "classifier", "ema"):
        ours, theirs = last(compiled).tensors[part], last(eager).tensors[part]
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4)
