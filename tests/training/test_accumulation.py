"""Gradients that are accumulated over several batches before a step."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from plain_backbone import PLAIN_ENTRY

from frtrain.backbones import BACKBONES
from frtrain.classifier.dense import DenseClassifier
from frtrain.losses import LOSSES
from frtrain.training.checkpoint import Checkpoint, read_checkpoint
from frtrain.training.optimization import Optimization
from frtrain.training.run_folder import RunFolder, checkpoint_of

SmallRun = Callable[..., tuple[int, RunFolder]]


def last(folder: RunFolder) -> Checkpoint:
    return read_checkpoint(checkpoint_of(folder.path))


def test_two_accumulated_batches_are_one_of_twice_the_size(small_run: SmallRun, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(BACKBONES._entries, "plain", PLAIN_ENTRY)
    common = ("backbone.name=plain", "backbone.dropout=0.4", "trainer.precision=fp64", "trainer.max_steps=3")
    _, halves = small_run("halves", *common, "trainer.batch_size=6", "trainer.accumulate=2")
    _, whole = small_run("whole", *common, "trainer.batch_size=12")
    accumulated, at_once = last(halves).tensors, last(whole).tensors
    for part, tensors in at_once.items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(accumulated[part][name], tensor, rtol=1e-12, atol=1e-14, msg=f"{part}: {name}")


def test_a_stop_between_accumulated_batches_finishes_the_step_and_costs_nothing(
    small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
):
    overrides = ("trainer.accumulate=2", "backbone.dropout=0.4", "trainer.max_steps=3")
    _, whole = small_run("whole", *overrides)
    backward, losses = Optimization.backward, []

    def backward_and_stop(self: Optimization, *loss: Any) -> None:
        backward(self, *loss)
        losses.append(loss)
        if len(losses) == 3:  # the first of the second step
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Optimization, "backward", backward_and_stop)
    _, stopped = small_run("stopped", *overrides)
    assert stopped.steps() == [2]
    small_run("stopped", *overrides)
    assert len(losses) == 6
    for part, tensors in last(whole).tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, last(stopped).tensors[part][name]), f"{part}: {name}"


def classifier_of(loss_spec: Callable[[str], dict[str, Any]], loss: str) -> DenseClassifier:
    torch.manual_seed(0)
    return DenseClassifier(LOSSES.build(loss_spec(loss)), 5, 4, init_std=0.1)


def batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(number)), torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.mark.parametrize("loss", ["curricularface", "adaface", "adacos"])
def test_the_state_of_a_loss_takes_in_the_last_of_the_accumulated_batches_alone(
    loss_spec: Callable[[str], dict[str, Any]], loss: str
):
    both, second = classifier_of(loss_spec, loss), classifier_of(loss_spec, loss)
    before = {name: value.clone() for name, value in both.head.named_buffers()}
    both(*batch(1))
    both(*batch(2))
    both.advance()
    second(*batch(2))
    second.advance()
    state, of_second = dict(both.head.named_buffers()), dict(second.head.named_buffers())
    assert all(torch.equal(value, of_second[name]) for name, value in state.items())
    assert any(not torch.equal(value, before[name]) for name, value in state.items())


def test_elasticface_draws_the_same_margins_for_all_accumulated_batches(loss_spec: Callable[[str], dict[str, Any]]):
    classifier = classifier_of(loss_spec, "elasticface")
    first, second = (classifier(*batch(number))[1].diagnostics["margin"] for number in (1, 2))
    assert torch.equal(first, second)
    classifier.advance()
    assert not torch.equal(classifier(*batch(3))[1].diagnostics["margin"], first)
