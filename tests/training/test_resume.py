from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from frtrain.commands import train as command
from frtrain.commands.composition import saved_overrides
from frtrain.errors import CheckpointError, FrtrainError
from frtrain.training import checkpoint_index
from frtrain.training.checkpoint import Checkpoint, read_checkpoint
from frtrain.training.run_folder import RunFolder, checkpoint_of
from frtrain.training.state import TrainingState

SmallRun = Callable[..., tuple[int, RunFolder]]


def last(folder: RunFolder) -> Checkpoint:
    return read_checkpoint(checkpoint_of(folder.path))


def assert_same_weights(one: Checkpoint, other: Checkpoint) -> None:
    for part, tensors in one.tensors.items():
        assert tensors.keys() == other.tensors[part].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other.tensors[part][name]), f"{part}: {name}"
    assert one.state["position"] == other.state["position"]


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, signal.Signals], None]:
    """Raise a signal in this process when the given step is done."""

    def arm(step: int, number: signal.Signals = signal.SIGTERM) -> None:
        advance = TrainingState.advance

        def advance_and_stop(self: TrainingState, applied: bool) -> None:
            advance(self, applied)
            if self.step == step:
                signal.raise_signal(number)

        monkeypatch.setattr(TrainingState, "advance", advance_and_stop)

    return arm


@pytest.mark.parametrize("stop_step", [1, 3, 5])
@pytest.mark.parametrize(
    "overrides",
    [
        ("trainer.accumulate=2", "backbone.dropout=0.4"),
        ("optimizer=adamw", "loss=sv_softmax", "trainer.workers=1"),
        ("trainer.precision=bf16", "trainer.channels_last=true", "scheduler=cosine", "validation.fraction=0.3"),
    ],
    ids=["accumulating", "adamw-worker", "bf16-validation"],
)
def test_a_stopped_and_resumed_run_has_the_weights_of_an_uninterrupted_one(
    small_run: SmallRun, stop_after: Callable[..., None], stop_step: int, overrides: tuple[str, ...]
):
    _, whole = small_run("whole", *overrides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingState, "advance", TrainingState.advance)
        stop_after(stop_step)
        _, stopped = small_run("stopped", *overrides)
    assert last(stopped).state["step"] == stop_step
    stop_after(10**9)
    status, resumed = small_run("stopped", *overrides)
    assert status == 0
    assert last(resumed).state["step"] == 6
    assert_same_weights(last(whole), last(resumed))


def test_two_runs_with_the_same_seed_are_the_same_and_with_another_are_not(small_run: SmallRun):
    one, same, other = (last(small_run(name, f"seed={seed}")[1]) for name, seed in [("a", 3), ("b", 3), ("c", 4)])
    assert_same_weights(one, same)
    assert not torch.equal(one.tensors["classifier"]["centres"], other.tensors["classifier"]["centres"])


def test_the_number_of_workers_changes_nothing(small_run: SmallRun):
    none, two = (last(small_run(f"w{workers}", f"trainer.workers={workers}")[1]) for workers in (0, 2))
    assert_same_weights(none, two)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGUSR1, 0)])
def test_a_stop_signal_finishes_the_step_checkpoints_and_says_how_to_go_on(
    small_run: SmallRun,
    stop_after: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    status: int,
):
    stop_after(2, number)
    exit_status, folder = small_run("run")
    assert exit_status == status
    assert folder.steps() == [2]
    assert f"python -m frtrain resume={folder.path}" in capsys.readouterr().out


def test_metrics_have_one_line_per_step_after_a_resume(small_run: SmallRun, stop_after: Callable[..., None]):
    stop_after(4)
    _, folder = small_run("run")
    folder.metrics.write_text(folder.metrics.read_text() + '{"step": 5, "epoch"')  # a line cut by a crash
    stop_after(10**9)
    small_run("run")
    steps = [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_run_on_other_data_cannot_be_resumed_and_the_difference_is_named(
    small_run: SmallRun, stop_after: Callable[..., None], tmp_path: Path
):
    stop_after(2)
    small_run("run")
    stranger = tmp_path / "crops" / "stranger" / "1.png"
    stranger.parent.mkdir()
    Image.new("RGB", (112, 112)).save(stranger)
    with pytest.raises(CheckpointError, match=r"other data \(8 identities then, 9 now; new: stranger"):
        small_run("run")


def test_a_run_of_another_architecture_cannot_be_resumed(small_run: SmallRun, stop_after: Callable[..., None]):
    stop_after(2)
    small_run("run")
    with pytest.raises(CheckpointError, match=r"another configuration \(backbone\.widths: .*16\] then, .*24\] now"):
        small_run("run", "backbone.widths=[16,16,24]")


def test_damaged_checkpoints_are_set_aside_and_the_run_goes_on_from_the_one_before(
    small_run: SmallRun, small_config: Callable[..., object]
):
    _, folder = small_run("run", "checkpoint.every_steps=1", "checkpoint.keep=9")
    whole = last(folder)
    weights = folder.checkpoint(6) / "backbone.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    (folder.checkpoint(5) / "checkpoint.json").unlink()
    index = folder.checkpoint(4) / "checkpoint.json"
    index.write_text(index.read_text().replace('"step": 4', '"step": 3'))
    with pytest.raises(CheckpointError, match=r"backbone\.safetensors: is damaged"):
        command.run(small_config(f"resume={folder.checkpoint(6)}"))
    command.run(small_config(f"resume={folder.path}"))
    assert_same_weights(whole, last(folder))
    told = folder.log.read_text()
    damaged = folder.checkpoints / "damaged"
    for step, reason in ((6, "backbone.safetensors: is damaged"), (5, "no checkpoint.json"), (4, "json: is damaged")):
        assert f"moved to {damaged / f'step-{step:08d}'}, going on from step-00000003 instead" in told
        assert reason in told
    assert len(list(damaged.iterdir())) == 3
    assert (folder.checkpoints / "last").resolve() == folder.checkpoint(6)


def test_a_run_without_a_whole_checkpoint_is_not_begun_anew(small_run: SmallRun):
    _, folder = small_run("run", "checkpoint.every_steps=3")
    for step in (3, 6):
        (folder.checkpoint(step) / "classes.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"none of the checkpoints can be used .*step-00000006/.*step-00000003/"):
        small_run("run")
    assert folder.steps() == [3, 6]


def test_a_checkpoint_of_a_later_format_is_not_taken_for_damaged(small_run: SmallRun, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint_index, "FORMAT", 3)
    _, folder = small_run("run")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"has format 3, this frtrain .* reads format 1 and 2"):
        small_run("run")
    assert folder.steps() == [6]


def test_resume_never_refuses_a_folder_in_use(small_run: SmallRun):
    small_run("run")
    with pytest.raises(CheckpointError, match="holds checkpoints of an earlier run and resume=never"):
        small_run("run", "resume=never")


def test_a_finished_run_is_not_trained_again(small_run: SmallRun):
    _, folder = small_run("run")
    before = last(folder)
    status, _ = small_run("run")
    assert status == 0
    assert_same_weights(before, last(folder))


@pytest.mark.parametrize("override", ["loss=cosface", "seed=9", "trainer.batch_size=4", "augment=none"])
def test_another_configuration_is_refused_and_the_difference_is_named(
    small_run: SmallRun, stop_after: Callable[..., None], override: str
):
    stop_after(2)
    small_run("run", "loss=arcface")
    key = override.partition("=")[0]
    with pytest.raises(CheckpointError, match=rf"another configuration \({key}.* then, .* now"):
        small_run("run", override)


def test_a_changed_learning_rate_is_accepted_and_told(small_run: SmallRun, stop_after: Callable[..., None]):
    stop_after(2)
    small_run("run")
    _, folder = small_run("run", "optimizer.lr=0.05")
    assert last(folder).state["step"] == 6
    assert "optimizer.lr: 0.1 then, 0.05 now" in folder.log.read_text()


def test_another_classifier_that_computes_the_same_is_accepted_and_told(
    small_run: SmallRun, stop_after: Callable[..., None]
):
    stop_after(2)
    small_run("run", "classifier=dense")
    _, folder = small_run("run", "classifier=chunked", "classifier.chunk=3")
    assert last(folder).state["step"] == 6
    assert "classifier.name: dense then, chunked now" in folder.log.read_text()


@pytest.mark.parametrize(("then", "now"), [("dense", "sampled"), ("sampled", "auto")])
def test_a_classifier_that_samples_is_another_run(
    small_run: SmallRun, stop_after: Callable[..., None], then: str, now: str
):
    stop_after(2)
    small_run("run", f"classifier={then}")
    with pytest.raises(CheckpointError, match=rf"another configuration \(classifier\.name: {then} then, {now} now"):
        small_run("run", f"classifier={now}")


def test_differences_are_accepted_and_told_where_the_user_insists(small_run: SmallRun, tmp_path: Path):
    small_run("run", "loss=curricularface", "trainer.max_steps=2")
    (tmp_path / "crops" / "person_000" / "0.png").unlink()  # other images of the same identities
    overrides = ("loss=cosface", "optimizer=adamw", "seed=5", "trainer.batch_size=4")
    with pytest.raises(CheckpointError, match=r"resume_anyway=true goes on as far as the weights fit"):
        small_run("run", *overrides)
    _, folder = small_run("run", *overrides, "resume_anyway=true")
    assert last(folder).state["step"] == 6
    told = folder.log.read_text()
    for text in (
        "loss.name: curricularface then, cosface now",
        "going on with other data (resume_anyway=true): 8 identities then, 8 now",
        "another kind of optimizer: it begins without the state of the one before",
        "classifier.head.t is [] in the checkpoint and absent here: left as it is",
    ):
        assert text in told
    with pytest.raises(CheckpointError, match=r"the backbone does not fit"):
        small_run("run", *overrides, "resume_anyway=true", "backbone.widths=[16,16,24]")


def test_going_on_from_an_older_checkpoint_sets_the_newer_ones_aside(
    small_run: SmallRun, small_config: Callable[..., object]
):
    _, folder = small_run("run", "checkpoint.every_steps=2", "checkpoint.keep=9")
    assert folder.steps() == [2, 4, 6]
    folder.point("best", 4)
    config = small_config("checkpoint.every_steps=3", "checkpoint.keep=1", f"resume={folder.checkpoint(2)}")
    command.run(config)
    assert folder.steps() == [6]
    assert not (folder.checkpoints / "best").is_symlink()
    superseded = folder.checkpoints / "superseded"
    assert sorted(path.name for path in superseded.iterdir()) == ["step-00000004", "step-00000006"]
    assert_same_weights(last(folder), read_checkpoint(superseded / "step-00000006"))


def test_links_that_a_kill_has_left_behind_name_what_the_run_goes_on_from(tmp_path: Path):
    folder = RunFolder(tmp_path)
    for step in (1, 2):
        folder.checkpoint(step).mkdir(parents=True)
        (folder.checkpoint(step) / "checkpoint.json").touch()
        folder.point("last", 1)
        folder.point("best", 1)
    folder.point_again(2, best_step=2)
    assert [(folder.checkpoints / link).resolve().name for link in ("last", "best")] == 2 * ["step-00000002"]
    folder.point_again(1, best_step=None)
    assert (folder.checkpoints / "last").resolve().name == "step-00000001"
    assert not (folder.checkpoints / "best").is_symlink()


def test_overrides_of_an_earlier_version_are_read_by_their_present_names(tmp_path: Path):
    (tmp_path / "overrides.yaml").write_text("- scheduler.warmup_epochs=2\n- seed=3\n")
    assert saved_overrides(tmp_path / "overrides.yaml") == ["scheduler.warmup=2", "seed=3"]


def test_a_folder_in_use_by_another_run_is_refused(small_run: SmallRun, tmp_path: Path):
    (tmp_path / "run").mkdir()
    other = RunFolder.create("runs", "x", str(tmp_path / "run"))
    with pytest.raises(FrtrainError, match="another run is writing here"):
        small_run("run")
    other.unlock()
    assert small_run("run")[0] == 0


def test_normface_goes_on_with_the_momentum_of_its_learned_scale(small_run: SmallRun, stop_after: Callable[..., None]):
    _, whole = small_run("whole", "loss=normface")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingState, "advance", TrainingState.advance)
        stop_after(3)
        small_run("stopped", "loss=normface")
    stop_after(10**9)
    _, resumed = small_run("stopped", "loss=normface")
    assert_same_weights(last(whole), last(resumed))
