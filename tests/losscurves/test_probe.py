from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from frtrain.classifier.dense import DenseClassifier
from frtrain.losscurves.probe import CROWD_ANGLE, Probe
from frtrain.losses import LOSSES, Head
from frtrain.losses.base import Samples

LossSpec = Callable[[str], dict[str, Any]]
CLASSES, DIMENSIONS, NORM = 6, 10, 20.0


@pytest.fixture(scope="session")
def probe(loss_spec: LossSpec) -> Callable[..., Probe]:
    def make(loss: str, classes: int = CLASSES, steps: int = 0, **changes: Any) -> Probe:
        return Probe(LOSSES.build({**loss_spec(loss), **changes}), classes, steps)

    return make


def scene(head: Head[Any], own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """An embedding and centres at these angles (radians) to it, the others at right angles."""
    basis = torch.eye(DIMENSIONS, dtype=torch.float64)
    centres = [own.cos() * basis[0] + own.sin() * basis[1], other.cos() * basis[0] + other.sin() * basis[2]]
    centres += [basis[3 + number] for number in range(CLASSES - 2)]
    length = NORM if head.geometry == "euclidean" else 1.0
    return NORM * basis[0], length * torch.stack(centres).repeat_interleave(head.centres_per_class, dim=0)


@pytest.mark.parametrize("loss", LOSSES.names())
@pytest.mark.parametrize(("own", "other"), [(20.0, 75.0), (55.0, 65.0), (100.0, 40.0)])
def test_pull_and_push_are_the_gradients_of_the_dense_engine(
    loss: str, own: float, other: float, loss_spec: LossSpec, probe: Callable[..., Probe]
):
    found = probe(loss)
    if found.random or any(True for _ in found.head.buffers()):
        pytest.skip("looks at the whole batch or draws numbers")
    head = LOSSES.build(loss_spec(loss))
    classifier = DenseClassifier(head, CLASSES, DIMENSIONS, init_std=1.0).double()
    angles = [torch.tensor(math.radians(degrees), dtype=torch.float64, requires_grad=True) for degrees in (own, other)]
    embedding, centres = scene(head, *angles)
    inputs = (embedding[None], torch.zeros(1, dtype=torch.int64))
    loss_value, _ = torch.func.functional_call(classifier, {"centres": centres}, inputs)
    pull, push = torch.autograd.grad(loss_value, angles)
    reading = found.at(own, other, NORM)
    assert reading.pull == pytest.approx(pull.item(), rel=1e-6, abs=1e-6)
    assert reading.push == pytest.approx(-push.item(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES.names())
@pytest.mark.parametrize("classes", [2, 3, 100_000])
def test_every_loss_can_be_read_everywhere(loss: str, classes: int, probe: Callable[..., Probe]):
    reading = probe(loss, classes).at(np.linspace(0, 180, 13), 60, 10)
    assert all(np.isfinite(values).all() for values in vars(reading).values())


def test_logits_are_those_of_the_formula(probe: Callable[..., Probe]):
    reading = probe("sv_softmax", scale=10.0, margin=0.3, t=1.5).at([30, 80], [50, 50], 1)
    own, other = np.cos(np.radians([30, 80])), np.cos(np.radians([50, 50]))
    assert reading.target == pytest.approx(10 * (own - 0.3))
    assert reading.plain == pytest.approx(10 * own)
    assert reading.other == pytest.approx(10 * np.where(other > own - 0.3, 1.5 * other + 0.5, other))


def test_many_classes_count_as_many(probe: Callable[..., Probe]):
    cosine = probe("normface", classes=1002, learn_scale=False, scale=10.0).at(60, 90, 1)
    share = math.exp(5) / (math.exp(5) + 1001)
    assert cosine.pull == pytest.approx(10 * (1 - share) * math.sin(math.radians(60)))
    total = probe("p2sgrad", classes=1002).at(60, 50, 1)
    assert total.push == pytest.approx(math.cos(math.radians(50)) * math.sin(math.radians(50)))


def test_state_settles_on_the_crowd_and_starts_afresh_without_steps(probe: Callable[..., Probe]):
    assert probe("curricularface").state["t"] == 0
    assert probe("curricularface", steps=2000).state["t"] == pytest.approx(
        math.cos(math.radians(CROWD_ANGLE)), abs=0.02
    )


def test_scenes_do_not_change_what_a_head_knows_of_its_batch(probe: Callable[..., Probe]):
    head = probe("adaface", steps=100)
    alone = head.at(40, 60, 10.0)
    crowd = head.at([40, 170, 3], [60, 1, 170], 10.0)
    assert crowd.target[0] == alone.target[0]


class Noisy(Head[tuple[Tensor]]):
    """Draws a margin from torch's own generator."""

    geometry = "cosine"

    def row(self, samples: Samples) -> tuple[Tensor]:
        return (0.3 + 0.1 * torch.randn(len(samples.similarity), dtype=samples.similarity.dtype),)

    def target(self, similarity: Tensor, row: tuple[Tensor]) -> Tensor:
        return similarity - row[0]


def test_random_numbers_are_averaged_and_their_spread_is_told():
    probe = Probe(Noisy(10.0), 5, 0)
    assert probe.random
    reading = probe.at(np.full(50, 60.0), 90, 1)
    assert reading.target.mean() == pytest.approx(10 * (0.5 - 0.3), abs=0.1)
    assert reading.target_spread.mean() == pytest.approx(1, abs=0.1)
    assert (reading.other_spread == 0).all()
    again = Probe(Noisy(10.0), 5, 0).at(np.full(50, 60.0), 90, 1)
    assert np.array_equal(again.target, reading.target)


def test_a_margin_of_each_step_is_random_and_a_schedule_is_not(probe: Callable[..., Probe]):
    assert probe("elasticface").random
    assert not probe("sphereface").random
    assert not probe("arcface").random
