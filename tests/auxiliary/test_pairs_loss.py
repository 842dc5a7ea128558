import sys
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from frtrain.auxiliary import AUXILIARIES
from frtrain.auxiliary.pairs import Miner, PairLoss
from frtrain.commands.composition import group_defaults
from frtrain.errors import ConfigError

LABELS = torch.tensor([0, 0, 1, 1, 2, 0, 2])


def pairs(**changes):
    return AUXILIARIES.build({**group_defaults("auxiliary", "pairs"), **changes})


def embeddings(count=7, seed=5, dtype=torch.float64):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def test_triplet_loss_is_that_of_the_formula():
    embedding = embeddings()
    unit = F.normalize(embedding)
    distance = torch.cdist(unit, unit)
    terms = [
        distance[a, p] - distance[a, n] + 0.3
        for a in range(7)
        for p in range(7)
        for n in range(7)
        if a != p and LABELS[a] == LABELS[p] and LABELS[a] != LABELS[n]
    ]
    violated = [term for term in terms if term > 0]
    found = pairs(parameters={"margin": 0.3}, weight=2.0)(embedding, LABELS)
    torch.testing.assert_close(found, 2 * sum(violated) / len(violated))


@pytest.mark.parametrize("miner", [None, *get_args(Miner)])
@pytest.mark.parametrize("loss", get_args(PairLoss))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_loss_and_miner_gives_finite_gradients(loss, miner, dtype):
    auxiliary = pairs(loss=loss, miner=miner)
    assert not list(auxiliary.parameters())
    assert not list(auxiliary.buffers())
    special = embeddings(dtype=dtype).detach()
    special[1] = special[0]  # the same direction
    special[2] = 0
    for embedding, labels in (
        (embeddings(dtype=dtype), LABELS),
        (special.requires_grad_(), LABELS),
        (embeddings(dtype=dtype), torch.arange(7)),
        (embeddings(dtype=dtype), torch.zeros(7, dtype=torch.int64)),
    ):
        found = auxiliary(embedding, labels)
        found.backward()
        assert found.dim() == 0
        assert found.dtype == dtype
        assert found.isfinite()
        assert embedding.grad.isfinite().all()
        assert embedding.grad.abs().max() < 1e3


@pytest.mark.parametrize("loss", get_args(PairLoss))
def test_face_without_identity_changes_nothing(loss):
    embedding, labels = embeddings(9), torch.cat([torch.tensor([-1, -1]), LABELS])
    found = pairs(loss=loss)(embedding, labels)
    torch.testing.assert_close(found, pairs(loss=loss)(embedding[2:], LABELS))
    found.backward()
    assert not embedding.grad[:2].any()


def test_batch_without_any_identity_is_zero():
    embedding = embeddings()
    found = pairs()(embedding, torch.full_like(LABELS, -1))
    found.backward()
    assert found == 0
    assert not embedding.grad.any()


def test_missing_package_is_told_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning.losses", None)
    with pytest.raises(ConfigError, match=r'pip install "frtrain\[pairs\]"'):
        pairs()


def test_loss_outside_the_list_is_refused():
    with pytest.raises(ConfigError, match=r"auxiliary\.loss='ArcFaceLoss': must be 'TripletMarginLoss'"):
        pairs(loss="ArcFaceLoss")
    with pytest.raises(ConfigError, match=r"auxiliary\.miner='os\.system'"):
        pairs(miner="os.system")


@pytest.mark.parametrize("parameters", [{"margn": 0.1}, {"margin": "x"}, {"distance": "CosineSimilarity"}])
def test_wrong_parameters_are_refused(parameters):
    with pytest.raises(ConfigError, match=r"auxiliary\.parameters="):
        pairs(parameters=parameters)


@pytest.mark.parametrize(
    ("loss", "parameters"),
    [
        ("MultiSimilarityLoss", {"alpha": 0}),
        ("NTXentLoss", {"temperature": 0.0}),
        ("TripletMarginLoss", {"reducer": 1}),
    ],
)
def test_parameters_that_cannot_work_are_refused_before_training(loss, parameters):
    spec = {"name": "pairs", "loss": loss, "parameters": parameters, "miner": None, "weight": 1.0}
    with pytest.raises(ConfigError, match=r"auxiliary\.parameters"):
        AUXILIARIES.build(spec)
