from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frtrain.classifier.dense import DenseClassifier, Matrix
from frtrain.losses import LOSSES, Head
from frtrain.losses.base import Samples

CONFIGS = Path(__file__).parents[2] / "configs"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`loss`: every registered loss; `loss_config`: every file of configs/loss."""
    if "loss" in metafunc.fixturenames:
        metafunc.parametrize("loss", LOSSES.names())
    if "loss_config" in metafunc.fixturenames:
        metafunc.parametrize("loss_config", sorted(path.stem for path in (CONFIGS / "loss").glob("*.yaml")))


@pytest.fixture(scope="session")
def make_head(loss_spec: Callable[[str], dict[str, Any]]) -> Callable[..., Head[Any]]:
    """make_head("arcface", margin=0.3): the loss of a configuration, with changes, set up for seven classes."""

    def make(config: str, **changes: Any) -> Head[Any]:
        head = LOSSES.build({**loss_spec(config), **changes})
        head.set_up(7)
        return head

    return make


@pytest.fixture(scope="session")
def dense() -> Callable[[Head[Any], Tensor], DenseClassifier]:
    """A dense classifier with the given centres `[C, d]`."""

    def build(head: Head[Any], centres: Tensor) -> DenseClassifier:
        classifier = DenseClassifier(head, len(centres) // head.centres_per_class, centres.shape[1], init_std=0.01)
        classifier.centres = nn.Parameter(centres.clone())
        return classifier

    return build


@pytest.fixture
def golden() -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings `[4, 8]`, centres `[6, 8]` in float64 and labels `[4]`, from integer formulas.

    Row 0 is easy but for one near class, row 2 has a negative target cosine, row 3 has theta + 0.5 > pi.
    """
    integers = [[((5 * j * j + 2 * k + 3 * j * k + k * k) % 13) - 6 for k in range(8)] for j in range(6)]
    noise = [[((7 * i + 3 * k * k + 5 * i * k) % 11) - 5 for k in range(8)] for i in range(4)]
    centres = torch.tensor(integers, dtype=torch.float64)
    labels = torch.tensor([0, 2, 5, 3])
    own = torch.tensor([1.0, 0.35, 0.05, -1.0], dtype=torch.float64)[:, None]
    other = torch.tensor([0.5, 0.8, 1.0, 0.15], dtype=torch.float64)[:, None]
    embedding = (own * centres[labels] + other * torch.tensor(noise, dtype=torch.float64)) / 5
    return embedding, centres / 5, labels


@pytest.fixture
def faces() -> tuple[Tensor, Tensor, Tensor]:
    """Random embeddings `[6, 5]`, centres `[7, 5]` in float64 and labels `[6]`."""
    generator = torch.Generator().manual_seed(20)
    embedding = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    centres = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    return embedding, centres, torch.randint(0, 7, (6,), generator=generator)


@pytest.fixture(scope="session")
def make_samples() -> Callable[..., Samples]:
    """make_samples(own [B], norm=1.0, labels=zeros, name=surveyed [B]): what a head's `row` is given."""

    def make(own: Tensor, norm: float | Tensor = 1.0, labels: Tensor | None = None, **surveyed: Tensor) -> Samples:
        norms = norm if isinstance(norm, Tensor) else torch.full_like(own.detach(), norm)
        return Samples(own, norms, torch.zeros(len(own), dtype=torch.int64) if labels is None else labels, surveyed)

    return make


@pytest.fixture(scope="session")
def surveyed_row() -> Callable[[Head[Any], Tensor, Tensor], Any]:
    """surveyed_row(head, similarity [B, c], own [B]): the head's row, its survey made; class 0 is everybody's own."""

    def row(head: Head[Any], similarity: Tensor, own: Tensor) -> Any:
        labels = torch.zeros(len(own), dtype=torch.int64)
        samples = Samples(own, torch.ones_like(own.detach()), labels)
        return head.row(replace(samples, surveyed=Matrix(similarity, labels).survey(head, samples)))

    return row
