from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from frtrain.classifier.base import Classifier, Facts
from frtrain.classifier.dense import Matrix
from frtrain.config import ModifiersConfig
from frtrain.losses.base import Head, Samples
from frtrain.modifiers import Modifier

OFF = {
    "margin_warmup_steps": 0, "interclass_filter": None, "label_smoothing": 0.0, "focal_gamma": 0.0, "hard_mining": 1.0,
}  # fmt: skip


@dataclass
class Outcome:
    """What a step gives: the loss, and its gradients to the embedding and the centres."""

    loss: Tensor
    embedding: Tensor
    centres: Tensor
    facts: Facts


class Weighted(Modifier):
    """Records the loss of each sample, before and after the head's own `sample_losses`, and weighs it by constants."""

    def __init__(self, inner: Head[Any], weights: Tensor | None = None):
        super().__init__(inner)
        self.weights = weights
        self.bare = self.recorded = torch.empty(0)

    def sample_losses(self, losses: Tensor, samples: Samples) -> Tensor:
        self.bare = losses.detach()
        losses = self.inner.sample_losses(losses, samples)
        self.recorded = losses.detach()
        return losses if self.weights is None else losses * self.weights


class Given(Classifier):
    """Compares a batch by given similarities `[B, C]`."""

    def __init__(self, head: Head[Any], similarity: Tensor):
        super().__init__(head, similarity.shape[1])
        self.given = similarity

    centre_dtype = torch.float64

    def compare(self, prepared: Tensor, labels: Tensor) -> Matrix:
        return Matrix(self.given, labels)


@pytest.fixture(scope="session")
def modifiers() -> Callable[..., ModifiersConfig]:
    """modifiers(focal_gamma=2.0): that one on, the others off."""
    return lambda **on: ModifiersConfig(**{**OFF, **on})


@pytest.fixture(scope="session")
def dense_of(dense: Callable[..., Classifier]) -> Callable[[Head[Any], Tensor], Classifier]:
    """A dense classifier with centres `[C, d]`, beside each of which a head with sub-centres gets others."""

    def build(head: Head[Any], centres: Tensor) -> Classifier:
        aside = (
            torch.linspace(0, 1, head.centres_per_class, dtype=centres.dtype)[:, None]
            * centres.roll(1, dims=1)[:, None]
        )
        return dense(head, (centres[:, None] + aside).flatten(0, 1)).to(centres.dtype)

    return build


@pytest.fixture(scope="session")
def outcome(dense_of: Callable[..., Classifier]) -> Callable[..., Outcome]:
    """outcome(head, (embedding, centres, labels)): a step of the dense engine."""

    def of(head: Head[Any], batch: tuple[Tensor, Tensor, Tensor]) -> Outcome:
        embedding, centres, labels = batch
        classifier = dense_of(head, centres)
        embedding = embedding.detach().clone().requires_grad_()
        loss, facts = classifier(embedding, labels)
        loss.backward()
        return Outcome(loss.detach(), embedding.grad, classifier.get_parameter("centres").grad, facts)

    return of


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Outcome, Outcome], None]:
    """Loss and gradients of two steps agree."""

    def check(one: Outcome, other: Outcome) -> None:
        torch.testing.assert_close(one.loss, other.loss)
        torch.testing.assert_close(one.embedding, other.embedding)
        torch.testing.assert_close(one.centres, other.centres)

    return check


@pytest.fixture(scope="session")
def weighted() -> type[Weighted]:
    """A modifier that records the losses of samples and weighs them."""
    return Weighted


@pytest.fixture(scope="session")
def given() -> type[Given]:
    """A classifier with given similarities."""
    return Given


@pytest.fixture
def crowd() -> tuple[Tensor, Tensor, Tensor]:
    """Twelve embeddings near their centres or not, seven classes; two of them have no identity."""
    generator = torch.Generator().manual_seed(11)
    centres = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 7, (12,), generator=generator)
    noise = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    embedding = centres[labels] + noise * torch.linspace(0.1, 2, 12, dtype=torch.float64)[:, None]
    labels[3] = labels[8] = -1
    return embedding, centres, labels
