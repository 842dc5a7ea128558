"""Runs of several processes, with real gloo: what one process computes, whatever happens to one of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo_processes import of_each_rank
from plain_backbone import PLAIN_ENTRY

from frtrain.backbones import BACKBONES
from frtrain.classifier.selection import Shard
from frtrain.commands import train as command
from frtrain.config import TrainConfig
from frtrain.data.samplers.shuffled import Shuffled
from frtrain.errors import CheckpointError, ConfigError, FrtrainError
from frtrain.processes import Processes
from frtrain.training import checkpoint_thread
from frtrain.training.checkpoint import Checkpoint, read_checkpoint
from frtrain.training.checkpoint_reading import StoredCheckpoint
from frtrain.training.run_folder import RunFolder, checkpoint_of
from frtrain.training.state import TrainingState

pytestmark = pytest.mark.slow

STEPS, STOP_STEP = 4, 2

PLAIN = (
    "backbone.name=plain",
    "backbone.dropout=0",
    "trainer.batch_size=9",
    f"trainer.max_steps={STEPS}",
    "trainer.clip_norm=1.5",
    "checkpoint.every_steps=1",
    "checkpoint.keep=9",
)
"""Without batch norm, whose statistics are those of a process, the number of processes changes nothing. 9 images do not
divide by 2, nor 8 classes by 3. The norm is below that of the gradients of the first step, so that it shows."""

RUNS = {
    "sharded": (*PLAIN, "loss=arcface", "classifier=sharded"),
    "stopped": (*PLAIN, "loss=arcface", "classifier=sharded"),
    "accumulating": (*PLAIN, "loss=softmax", "classifier=auto", "optimizer=adamw", "trainer.accumulate=2"),
    "sampled": (*PLAIN, "loss=sface", "classifier=sampled", "classifier.rate=0.5"),
    "repeated": ("loss=normface", "classifier=chunked", "validation.fraction=0.3", "validation.pairs=24"),
    "bad_gradient": (*PLAIN, "classifier=sharded", "trainer.max_skipped_in_a_row=2"),
    "float16": (*PLAIN, "classifier=sharded", "trainer.precision=fp16", "trainer.max_steps=6", "trainer.ema_decay=0.9"),
    "full_disk": (*PLAIN, "classifier=sharded"),
}


@dataclass
class Outcome:
    """What a process has after a run."""

    error: str
    state: TrainingState
    weights: dict[str, torch.Tensor]


def disturb(name: str, rank: int, run: Any) -> None:
    """What happens to one of the processes in some of the runs."""
    centres = run.classifier.centres
    if name == "stopped" and rank == 1:
        advance = run.state.advance

        def advance_and_stop(applied: bool) -> None:
            advance(applied)
            if run.state.step == STOP_STEP:
                signal.raise_signal(signal.SIGTERM)

        run.state.advance = advance_and_stop
    elif name == "bad_gradient" and rank == 1:
        centres.register_hook(lambda gradient: gradient * torch.nan)
    elif name == "float16":
        run.optimization.scaler.scale.fill_(2.0**8)
        if rank == 1:
            factors = iter([1.0, torch.inf])
            centres.register_hook(lambda gradient: gradient * next(factors, 1.0))
    elif name == "repeated" and rank == 1:
        centres.register_hook(lambda gradient: gradient * (1 + 1e-3))  # stands in for a GPU that rounds otherwise
    elif name == "full_disk" and rank == 1:

        def full(folder: Path, *rest: Any) -> None:
            raise CheckpointError("No space left on device")

        checkpoint_thread.write_own_files = full


def train_one(name: str, config: TrainConfig, rank: int) -> Outcome:
    runs: list[Any] = []
    loop = command.train

    def watched(run: Any, *rest: Any) -> None:
        runs.append(run)
        disturb(name, rank, run)
        loop(run, *rest)

    command.train = watched
    error = ""
    try:
        command.check(config)
        command.run(config)
    except FrtrainError as raised:
        error = f"{type(raised).__name__} {'everywhere' if raised.everywhere else 'here'}: {raised}"
    finally:
        command.train = loop
    (run,) = runs
    modules = {"backbone": run.backbone, "classifier": run.classifier}
    weights = {f"{part}.{key}": value for part in modules for key, value in modules[part].named_parameters()}
    return Outcome(error, TrainingState(**run.state.as_dict()), {key: value.detach() for key, value in weights.items()})


def train_all(rank: int, configs: dict[str, TrainConfig]) -> dict[str, Outcome]:
    BACKBONES._entries["plain"] = PLAIN_ENTRY
    return {name: train_one(name, config, rank) for name, config in configs.items()}


@dataclass
class Together:
    """The run folders, and the outcomes of each process, by run."""

    folder: Path
    of_two: list[dict[str, Outcome]]
    of_three: list[dict[str, Outcome]]

    def run_folder(self, name: str) -> RunFolder:
        return RunFolder(self.folder / name)


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory, make_crops: Callable[..., Path]) -> Path:
    return make_crops(tmp_path_factory.mktemp("faces") / "crops")


@pytest.fixture(scope="module")
def together(
    tmp_path_factory: pytest.TempPathFactory, crops: Path, small_config_on: Callable[..., TrainConfig]
) -> Together:
    folder = tmp_path_factory.mktemp("runs")

    def spawned(count: int, overrides: dict[str, tuple[str, ...]]) -> list[dict[str, Outcome]]:
        configs = {name: small_config_on(crops, *more, f"run_dir={folder / name}") for name, more in overrides.items()}
        return of_each_rank(train_all, count, folder, configs)

    of_two = spawned(2, RUNS)
    for name in ("resumed_by_three", "resumed_by_one"):
        shutil.copytree(folder / "stopped", folder / name, symlinks=True)
    return Together(folder, of_two, spawned(3, {"resumed_by_three": RUNS["stopped"]}))


@pytest.fixture
def alone(
    tmp_path: Path, crops: Path, small_config_on: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunFolder]:
    """Train in this process."""

    def run(folder: Path | None, *overrides: str) -> RunFolder:
        monkeypatch.setitem(BACKBONES._entries, "plain", PLAIN_ENTRY)
        folder = folder or tmp_path / "alone"
        command.run(small_config_on(crops, *overrides, f"run_dir={folder}"))
        return RunFolder(folder)

    return run


def checkpoint(folder: RunFolder, step: int | None = None) -> Checkpoint:
    return read_checkpoint(folder.checkpoint(step) if step else checkpoint_of(folder.path))


def assert_close(ours: Checkpoint, theirs: Checkpoint) -> None:
    assert ours.state["position"] == theirs.state["position"]
    for part, tensors in theirs.tensors.items():
        assert ours.tensors[part].keys() == tensors.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(
                ours.tensors[part][name], tensor, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )


def scalars(folder: RunFolder) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith(("speed", "memory"))} for line in lines]


def test_two_processes_compute_what_one_computes(together: Together, alone: Callable[..., RunFolder]):
    one = alone(None, *RUNS["sharded"], "classifier=dense")
    for ours, theirs in zip(scalars(together.run_folder("sharded")), scalars(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4)
    assert scalars(one)[0]["train/gradient_norm"] > 1.5
    assert_close(checkpoint(together.run_folder("sharded")), checkpoint(one))


def test_accumulated_gradients_of_two_processes_are_those_of_one(together: Together, alone: Callable[..., RunFolder]):
    one = alone(None, *RUNS["accumulating"])
    assert "classifier.bias/exp_avg" in checkpoint(one).tensors["optimizer"]
    assert_close(checkpoint(together.run_folder("accumulating")), checkpoint(one))


def test_a_checkpoint_of_two_processes_is_that_of_one_momentum_included(
    together: Together, alone: Callable[..., RunFolder]
):
    one = alone(None, *RUNS["stopped"], "classifier=dense")
    stopped = checkpoint(together.run_folder("stopped"))
    assert stopped.tensors["optimizer"]["classifier.centres/momentum_buffer"].shape == (8, 16)
    assert_close(stopped, checkpoint(one, STOP_STEP))


@pytest.mark.parametrize("count", ["one", "three"])
def test_a_run_of_two_processes_goes_on_with_another_number(
    together: Together, alone: Callable[..., RunFolder], count: str
):
    whole = alone(None, *RUNS["stopped"])
    resumed = together.run_folder(f"resumed_by_{count}")
    if count == "one":
        alone(resumed.path, *RUNS["stopped"], "classifier=dense")
        assert "classifier.name: sharded then, dense now" in resumed.log.read_text()
    assert resumed.steps() == [1, 2, 3, 4]
    assert_close(checkpoint(resumed), checkpoint(whole))
    assert [line["step"] for line in scalars(resumed)] == [1, 2, 3, 4]


def test_a_signal_to_one_process_stops_all_after_the_same_step(together: Together):
    for outcomes in together.of_two:
        stopped = outcomes["stopped"]
        assert stopped.state.step == STOP_STEP
        assert "by SIGTERM: after step 2 of 4, a checkpoint is written" in stopped.error
    assert together.run_folder("stopped").steps() == [1, STOP_STEP]


def test_repeated_weights_are_the_same_everywhere_even_where_gradients_are_not(together: Together):
    first, second = (outcomes["repeated"] for outcomes in together.of_two)
    assert not first.error
    assert {"classifier.centres", "classifier.head.learned_scale"} <= first.weights.keys()
    for name, weight in first.weights.items():
        assert torch.equal(weight, second.weights[name]), name


def test_the_best_validation_is_known_everywhere(together: Together):
    first, second = (outcomes["repeated"].state for outcomes in together.of_two)
    assert first.best_step is not None
    assert first == second


def test_partial_fc_trains_in_several_processes(together: Together, alone: Callable[..., RunFolder]):
    first, second = (outcomes["sampled"] for outcomes in together.of_two)
    assert not first.error
    assert torch.equal(first.weights["backbone.layers.3.weight"], second.weights["backbone.layers.3.weight"])
    written = checkpoint(together.run_folder("sampled"))
    assert int(written.tensors["classifier"]["draws"]) == STEPS
    shards = torch.cat([first.weights["classifier.centres"], second.weights["classifier.centres"]])
    assert torch.equal(written.tensors["classifier"]["centres"], shards)
    alone(together.run_folder("sampled").path, *RUNS["sampled"], f"trainer.max_steps={STEPS + 2}")
    assert int(checkpoint(together.run_folder("sampled")).tensors["classifier"]["draws"]) == STEPS + 2


def test_a_bad_gradient_in_one_shard_skips_the_step_everywhere_and_is_named(together: Together):
    for outcomes in together.of_two:
        found = outcomes["bad_gradient"]
        assert found.error.startswith("TrainingError everywhere: 2 steps in a row were not finite")
        assert "the gradient of classifier.centres on rank 1" in found.error
        assert all(bool(torch.isfinite(weight).all()) for weight in found.weights.values())
    folder = together.run_folder("bad_gradient").path
    first, second = (json.loads((folder / "nonfinite" / f"step-0000000{step}.json").read_text()) for step in (1, 2))
    assert first["first_bad_tensor"] == "the gradient of classifier.centres on rank 1"
    for report, known in ((first, 9), (second, 5)):  # the run ends after the second: each knows its own images alone
        assert [image["rank"] for image in report["images"]] == 5 * [0] + 4 * [1]
        assert sum(image["pixels"] is not None for image in report["images"]) == known
        assert len({image["name"] for image in report["images"]}) == 9
    assert "TrainingError: 2 steps in a row were not finite" in (folder / "logs" / "rank-1.log").read_text()


def test_float16_overflow_in_one_shard_halves_the_same_scale_everywhere(together: Together):
    first, second = (outcomes["float16"] for outcomes in together.of_two)
    assert not first.error
    assert first.state.skipped == second.state.skipped == 1
    for name, weight in first.weights.items():
        assert name == "classifier.centres" or torch.equal(weight, second.weights[name]), name
    path = together.run_folder("float16").checkpoint(6)
    scaler, average = (read_checkpoint(path, (part,)).tensors[part] for part in ("scaler", "ema"))
    assert (float(scaler["scale"]), int(scaler["clean_steps"]), int(average["updates"])) == (2.0**7, 4, 5)


def test_a_full_disk_of_one_process_ends_all_and_leaves_nothing_half_written(together: Together):
    first, second = (outcomes["full_disk"].error for outcomes in together.of_two)
    assert first == "EndedElsewhereError here: another process of the run failed"
    assert second == "CheckpointError here: No space left on device"
    assert list(together.run_folder("full_disk").checkpoints.iterdir()) == []


def test_each_process_writes_its_own_centres_and_its_share_of_the_rest(together: Together):
    stored = StoredCheckpoint.at(checkpoint_of(together.folder / "sharded")).verify()
    files = stored.index.files
    for rank, rows in ((1, Shard(0, 4, 8)), (2, Shard(4, 8, 8))):
        assert (files[f"classifier-{rank}-of-2.safetensors"].tensors or {})["centres"] == rows
        momentum = files[f"optimizer-{rank}-of-2.safetensors"].tensors or {}
        assert momentum["classifier.centres/momentum_buffer"] == rows


def test_a_batch_too_small_for_the_processes_is_refused(
    crops: Path, small_config_on: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Processes, "current", classmethod(lambda cls, **_: cls(0, 5)))
    with pytest.raises(ConfigError, match=r"trainer\.batch_size=8: .* use 10 or more, or fewer processes"):
        command.check(small_config_on(crops))


@pytest.fixture
def torchrun(tmp_path: Path, small_overrides: Callable[[Path], list[str]]) -> Callable[..., subprocess.Popen[str]]:
    """Start two processes as a user does."""

    def start(root: Path, *overrides: str) -> subprocess.Popen[str]:
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
        arguments = [*launch, "-m", "frtrain", *small_overrides(root), f"run_dir={tmp_path / 'run'}", *overrides]
        return subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path, env=dict(os.environ)
        )

    return start


def test_sigterm_to_torchrun_stops_with_a_checkpoint(
    torchrun: Callable[..., subprocess.Popen[str]], crops: Path, tmp_path: Path
):
    launcher = torchrun(
        crops, "trainer.epochs=null", "trainer.max_steps=100000", "trainer.workers=1", "classifier=sharded"
    )
    folder = RunFolder(tmp_path / "run")
    deadline = time.monotonic() + 60
    while not (folder.metrics.exists() and folder.metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    launcher.send_signal(signal.SIGTERM)
    output, _ = launcher.communicate(timeout=30)
    (step,) = folder.steps()
    assert f"stopped by SIGTERM: after step {step} of 100000, a checkpoint is written" in output
    assert output.count("stopped by SIGTERM") == 1
    assert f"Go on with: torchrun --nproc-per-node=2 -m frtrain resume={folder.path}" in output
    assert scalars(folder)[-1]["step"] == step


def test_an_error_in_one_process_ends_all_with_its_message_in_front(
    torchrun: Callable[..., subprocess.Popen[str]], make_crops: Callable[..., Path], tmp_path: Path
):
    crops = make_crops(tmp_path / "crops")
    seventh = int(
        Shuffled(np.zeros(48, np.int64), batch_size=8).epoch(seed=1, number=0)[6]
    )  # of the first batch of 8: in the half of the second process
    bad = crops / f"person_{seventh // 6:03d}" / f"{seventh % 6}.png"
    bad.write_bytes(bad.read_bytes()[:100])
    launcher = torchrun(crops)
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode != 0
    errors = [line for line in output.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: rank 1: {bad}: is ")
    assert output.index(errors[0]) < output.index("Traceback")  # that of torchrun itself
    assert "Connection closed" not in output
    assert not (tmp_path / "run").exists()
