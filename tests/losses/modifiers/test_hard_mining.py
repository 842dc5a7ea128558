import math

import pytest
import torch

from frtrain.losses.base import Samples
from frtrain.modifiers import HardMining


@pytest.mark.parametrize("keep", [0.01, 0.25, 0.5, 0.9, 1.0])
def test_mined_loss_is_the_mean_over_the_hardest(loss, keep, make_head, crowd, outcome, weighted, assert_same):
    recorder = weighted(make_head(loss))
    outcome(recorder, crowd)
    known = [i for i, label in enumerate(crowd[2].tolist()) if label >= 0]
    kept = max(1, math.ceil(keep * len(known)))
    hardest = sorted(known, key=lambda i: -recorder.recorded[i])[:kept]
    weights = torch.zeros(12, dtype=torch.float64)
    weights[hardest] = len(known) / kept
    assert_same(outcome(HardMining(make_head(loss), keep), crowd), outcome(weighted(make_head(loss), weights), crowd))


def mined(losses, labels, keep, make_head):
    samples = Samples(torch.zeros(len(losses)), torch.ones(len(losses)), torch.tensor(labels))
    return HardMining(make_head("cosface"), keep).sample_losses(torch.tensor(losses), samples).tolist()


def test_face_without_identity_is_never_kept(make_head):
    assert mined([9.0, 1.0, 2.0], [-1, 0, 0], 0.5, make_head) == [0, 0, 4]


def test_negative_losses_are_ranked_too(make_head):
    assert mined([-3.0, -1.0, -2.0, 9.0], [0, 0, 0, -1], 0.3, make_head) == [0, -3, 0, 0]


def test_of_equal_losses_the_earlier_sample_is_kept(make_head):
    assert mined([1.0, 1.0, 1.0, 1.0], [0, 0, 0, 0], 0.5, make_head) == [2, 2, 0, 0]


def test_at_least_one_sample_is_kept(make_head):
    assert mined([1.0, 5.0, 2.0], [0, 0, 0], 1e-7, make_head) == [0, 15, 0]


@pytest.mark.parametrize(("keep", "kept"), [(0.55, 11), (0.1, 2), (0.5, 10), (0.51, 11), (0.3, 6)])
def test_number_kept_is_not_rounded_up_by_a_rounding_error(keep, kept, make_head):
    found = mined([float(i + 1) for i in range(20)], [0] * 20, keep, make_head)
    assert sum(value > 0 for value in found) == kept


def test_no_sample_with_identity_gives_zero(make_head):
    assert mined([1.0, 2.0], [-1, -1], 0.5, make_head) == [0, 0]
