"""What may become a checkpoint."""

from types import SimpleNamespace

import pytest
import torch

from frtrain.errors import TrainingError
from frtrain.training.observers.checkpointing import check_weights


def run_with(weight):
    backbone, classifier = torch.nn.Linear(2, 2), torch.nn.Linear(2, 3)
    with torch.no_grad():
        classifier.weight[1, 0] = weight
    return SimpleNamespace(backbone=backbone, classifier=classifier, state=SimpleNamespace(step=7))


def test_finite_weights_may_be_saved():
    check_weights(run_with(1.0))


@pytest.mark.parametrize("weight", [float("inf"), float("nan")])
def test_weights_that_are_not_finite_are_named_and_not_saved(weight):
    with pytest.raises(TrainingError, match=r"classifier\.weight is not finite after step 7: no checkpoint is written"):
        check_weights(run_with(weight))


def test_run_that_fails_before_its_first_step_leaves_no_folder(tmp_path):
    from frtrain.training.run_folder import RunFolder

    RunFolder.create(str(tmp_path / "runs"), "name", None).unlock()
    assert not (tmp_path / "runs" / "name").exists()
    (tmp_path / "runs" / "name").mkdir()
    RunFolder.create(str(tmp_path / "runs"), "name", None).unlock()
    assert (tmp_path / "runs" / "name").exists()  # it was there before
