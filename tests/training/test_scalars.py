"""What the loop publishes, and when the head is asked for more."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from frtrain.classifier.dense import Matrix
from frtrain.data.batches import Batch
from frtrain.training.observers.base import StepFacts
from frtrain.training.run_folder import RunFolder

SmallRun = Callable[..., tuple[int, RunFolder]]


def lines(folder: RunFolder) -> list[dict[str, float]]:
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the head was asked about the wrong classes, step by step."""
    asked: list[bool] = []
    reduce = Matrix.reduce

    def noting(self: Matrix, head: object, row: object, watch: bool) -> object:
        asked.append(watch)
        return reduce(self, head, row, watch)

    monkeypatch.setattr(Matrix, "reduce", noting)
    return asked


def test_the_head_tells_of_wrong_classes_only_in_steps_that_are_published(small_run: SmallRun, watched: list[bool]):
    _, folder = small_run("run", "loss=sv_softmax", "classifier=dense", "log.every_steps=4")
    assert watched == [True, False, False, True, False, True]  # the first, every fourth and the last
    assert [line["step"] for line in lines(folder)] == [4, 6]
    assert all("train/support_vectors" in line for line in lines(folder))


def test_what_is_not_there_in_every_step_is_averaged_over_those_in_which_it_is(small_run: SmallRun):
    _, every = small_run("every", "loss=sv_softmax", "log.every_steps=1")
    _, fourth = small_run("fourth", "loss=sv_softmax", "log.every_steps=4")
    by_step = {line["step"]: line for line in lines(every)}
    first_four = next(line for line in lines(fourth) if line["step"] == 4)
    seen = [by_step[step]["train/support_vectors"] for step in (1, 4)]
    assert first_four["train/support_vectors"] == pytest.approx(sum(seen) / 2)
    losses = [by_step[step]["train/loss"] for step in (1, 2, 3, 4)]
    assert first_four["train/loss"] == pytest.approx(sum(losses) / 4)


@pytest.mark.parametrize(("loss", "there"), [("arcface", True), ("softmax", False)])
def test_the_angle_to_the_own_centre_is_told_of_cosine_heads(small_run: SmallRun, loss: str, there: bool):
    _, folder = small_run("run", f"loss={loss}")
    assert ("train/target_angle" in lines(folder)[0]) == there
    assert "train/scale" in lines(folder)[0]


def test_the_angle_is_in_degrees():
    class Known:
        target_similarity = torch.tensor([0.5, 0.0, -1.0001])

    facts = StepFacts(Batch(*4 * [torch.zeros(3)]), torch.zeros(()), Known(), True)  # type: ignore[arg-type]
    assert facts.target_angle_degrees.tolist() == pytest.approx([60, 90, 180])
