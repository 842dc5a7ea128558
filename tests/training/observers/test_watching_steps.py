"""Steps that are not finite, an early stop, a profile: what a run leaves of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from frtrain.commands import train as command
from frtrain.errors import ConfigError, TrainingError
from frtrain.training.checkpoint import read_checkpoint
from frtrain.training.observers.validation import Validation
from frtrain.training.run import Run
from frtrain.training.run_folder import RunFolder, checkpoint_of

SmallRun = Callable[..., tuple[int, RunFolder]]


@pytest.fixture
def before_training(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Run, Any], None]], None]:
    """Call a function with run and loader when the loop is about to begin."""

    def call(function: Callable[[Run, Any], None]) -> None:
        loop = command.train

        def disturbed(run: Run, loader: Any, *rest: Any) -> None:
            function(run, loader)
            loop(run, loader, *rest)

        monkeypatch.setattr(command, "train", disturbed)

    return call


def reports(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((folder / "nonfinite").glob("*.json"))]


def test_a_broken_image_is_named_with_its_step(small_run: SmallRun, before_training: Any):
    def break_one(run: Run, loader: Any) -> None:
        augmented = loader.augmented

        def with_a_hole(batch: Any, device: Any) -> Any:
            images = augmented(batch, device).images.float()
            if run.state.step == 2:
                images[5, 0, 7, 7] = torch.nan
            return type(batch)(images, batch.labels, batch.indices, batch.epochs)

        loader.augmented = with_a_hole

    before_training(break_one)
    status, folder = small_run("run", "trainer.batch_size=8")
    assert status == 0
    (report,) = reports(folder.path)
    assert report["step"] == 3
    assert report["first_bad_tensor"] == "the loss"
    assert report["losses"] == ["nan"]
    assert len(report["images"]) == 8
    broken = report["images"][5]
    assert (broken["pixels"]["max"], broken["rank"], broken["row"], broken["epoch"]) == ("nan", 0, 5, 0)
    assert broken["name"] in report["suspects"]
    assert f"/{broken['identity']}/" in broken["name"]
    assert report["images"][0]["pixels"]["max"] > 100
    log = folder.log.read_text()
    assert f"the 8 images of step 3: {folder.path}/nonfinite/step-00000003.json" in log
    weights = read_checkpoint(checkpoint_of(folder.path)).tensors["backbone"]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())


def test_a_bad_gradient_is_named_and_the_last_step_before_the_end_is_reported_too(
    small_run: SmallRun, before_training: Any, tmp_path: Path
):
    def break_gradients(run: Run, loader: Any) -> None:
        run.classifier.centres.register_hook(lambda gradient: gradient * torch.nan)

    before_training(break_gradients)
    with pytest.raises(TrainingError, match=r"2 steps in a row .* the gradient of classifier\.centres"):
        small_run("run", "trainer.max_skipped_in_a_row=2", "trainer.accumulate=2")
    first, second = reports(tmp_path / "run")
    assert (first["step"], second["step"]) == (1, 2)
    assert second["first_bad_tensor"] == "the gradient of classifier.centres"
    assert second["suspects"] == []
    assert [image["accumulated_batch"] for image in second["images"]] == 8 * [0] + 8 * [1]
    seen = [(image["epoch"], image["index"]) for report in (first, second) for image in report["images"]]
    assert len(set(seen)) == 32
    assert all(image["pixels"] for image in second["images"])


def test_of_many_accumulated_batches_the_last_ones_are_kept_with_their_pixels(
    small_run: SmallRun, before_training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def break_gradients(run: Run, loader: Any) -> None:
        run.classifier.centres.register_hook(lambda gradient: gradient * torch.nan)

    before_training(break_gradients)
    monkeypatch.setattr("frtrain.training.observers.nonfinite.KEPT_BYTES", 2 * 8 * 3 * 112 * 112)
    with pytest.raises(TrainingError, match=r"1 steps in a row"):
        small_run("run", "trainer.max_skipped_in_a_row=1", "trainer.accumulate=3")
    (report,) = reports(tmp_path / "run")
    assert [image["pixels"] is None for image in report["images"]] == 8 * [True] + 16 * [False]
    assert report["suspects"] == []


def test_a_weight_that_is_not_finite_ends_the_run_by_name_and_leaves_the_last_checkpoint(
    small_run: SmallRun, before_training: Any, monkeypatch: pytest.MonkeyPatch
):
    _, folder = small_run("run", "trainer.max_steps=3")

    def break_weight(run: Run, loader: Any) -> None:
        with torch.no_grad():
            next(run.backbone.parameters()).view(-1)[0] = torch.nan

    before_training(break_weight)
    with pytest.raises(TrainingError, match=r"the weight backbone\."):
        small_run("run", "trainer.max_steps=30", "trainer.max_skipped_in_a_row=2")
    assert folder.steps() == [3]
    assert len(reports(folder.path)) == 2


def test_no_more_than_twenty_reports_are_written(small_run: SmallRun, before_training: Any, tmp_path: Path):
    def break_loss(run: Run, loader: Any) -> None:
        run.classifier.centres.register_hook(lambda gradient: gradient * (torch.nan if run.state.step % 2 else 1.0))

    before_training(break_loss)
    folder = tmp_path / "run" / "nonfinite"
    folder.mkdir(parents=True)
    for step in range(18):
        (folder / f"step-9{step:07d}.json").write_text("{}")  # of an earlier call
    small_run("run")
    assert len(list(folder.glob("step-0*.json"))) == 2


def test_a_last_step_whose_verdict_comes_late_is_reported_and_counted_too(small_run: SmallRun, before_training: Any):
    def break_the_last(run: Run, loader: Any) -> None:
        run.optimization.guard.lag = 2  # as on a GPU, and as a fused optimizer allows
        run.classifier.centres.register_hook(lambda gradient: gradient * (torch.nan if run.state.step == 2 else 1.0))

    before_training(break_the_last)
    _, folder = small_run("run", "trainer.max_steps=3", "optimizer.fused=true")
    assert [report["step"] for report in reports(folder.path)] == [3]
    assert read_checkpoint(checkpoint_of(folder.path)).state["skipped"] == 1


VALIDATED = ("validation.fraction=0.3", "validation.pairs=24", "validation.every_epochs=0.5", "trainer.epochs=null")


def scripted(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Validations that find these values of the metric, one after the other."""
    judge, left = Validation._judge, list(values)
    monkeypatch.setattr(Validation, "_judge", lambda self, run, value: judge(self, run, left.pop(0)))


def test_a_run_that_no_longer_improves_ends_as_finished_and_says_why(
    small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
):
    scripted(monkeypatch, [0.5, 0.7, 0.6, 0.7, 0.9])
    overrides = (*VALIDATED, "trainer.max_steps=100", "validation.patience=2")
    status, folder = small_run("run", *overrides)
    assert status == 0
    state = read_checkpoint(checkpoint_of(folder.path)).state
    assert state["best_metric"] == 0.7
    assert state["step"] < 100
    assert folder.steps()[-1] == state["step"]
    log = folder.log.read_text()
    assert (
        f"stopped early after step {state['step']} of 100: accuracy has not improved in the last 2 validations" in log
    )
    assert f"the best is 0.7000 after step {state['best_step']}" in log
    assert folder.report.exists()
    small_run("run", *overrides)
    assert "finished" in folder.log.read_text()
    assert read_checkpoint(checkpoint_of(folder.path)).state == state


def test_patience_survives_a_resume_and_may_be_lengthened(small_run: SmallRun, monkeypatch: pytest.MonkeyPatch):
    scripted(monkeypatch, [0.7, 0.6, 0.71, 0.6, 0.6, 0.6, 0.6, 0.6])
    overrides = (*VALIDATED, "validation.min_improvement=0.05", "trainer.max_steps=100")
    _, folder = small_run("run", *overrides, "validation.patience=2")
    state = read_checkpoint(checkpoint_of(folder.path)).state
    assert (state["validations_without_improvement"], state["best_metric"], state["improved_metric"]) == (2, 0.71, 0.7)
    small_run("run", *overrides, "validation.patience=4")
    later = read_checkpoint(checkpoint_of(folder.path)).state
    assert later["validations_without_improvement"] == 4
    assert later["step"] > state["step"]


def test_patience_without_validations_is_refused(small_run: SmallRun):
    with pytest.raises(ConfigError, match=r"validation\.patience: an early stop needs validations"):
        small_run("run", "validation.patience=2")


def test_a_profile_is_left_and_training_goes_on(small_run: SmallRun):
    _, folder = small_run("run", "trainer.profile=true", "trainer.max_steps=12")
    assert read_checkpoint(checkpoint_of(folder.path)).state["step"] == 12
    table = (folder.path / "profile" / "table.txt").read_text()
    assert "aten::" in table
    assert "Self CPU" in table
    with gzip.open(folder.path / "profile" / "trace-rank0.json.gz") as file:
        assert json.load(file)["traceEvents"]
    assert "profile of 3 steps" in folder.log.read_text()


def test_a_run_too_short_for_a_profile_says_so(small_run: SmallRun):
    _, folder = small_run("run", "trainer.profile=true", "trainer.max_steps=3")
    assert "the run ended after 3 steps, a profile takes 9" in folder.log.read_text()


def test_the_norm_of_all_gradients_is_that_of_its_parts(small_run: SmallRun):
    _, folder = small_run("run", "trainer.max_steps=2")
    for line in map(json.loads, folder.metrics.read_text().splitlines()):
        parts = [line["train/gradient_norm_backbone"], line["train/gradient_norm_classifier"]]
        assert min(parts) > 0
        assert sum(norm**2 for norm in parts) ** 0.5 == pytest.approx(line["train/gradient_norm"], rel=1e-5)
