from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from frtrain.classifier import CLASSIFIERS, Classifier
from frtrain.commands.composition import compose_plain
from frtrain.config import ModifiersConfig
from frtrain.losses import LOSSES
from frtrain.modifiers import modified

OFF = compose_plain("train", [])["modifiers"]
"""No modifier, as configs/train.yaml has it."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`every_loss`: the name of every registered loss."""
    if "every_loss" in metafunc.fixturenames:
        metafunc.parametrize("every_loss", LOSSES.names())


@pytest.fixture(scope="session")
def engine(loss_spec: Callable[[str], dict[str, Any]]) -> Callable[..., Classifier]:
    """engine("sface", "chunked", classes=13, chunk=5): an engine in float64 with the same centres for the same arguments.

    `modifiers={"focal_gamma": 2.0}` puts modifiers on the loss.
    """

    def build(
        loss: str, name: str, classes: int = 13, embedding_size: int = 6, modifiers: Any = None, **changes: Any
    ) -> Classifier:
        torch.manual_seed(0)
        blockwise = {} if name == "dense" else {"chunk": "auto", "keep_mib": 0.0, "matmul": "float32"}
        spec = {"name": name, "init_std": 0.3, **blockwise, **changes}
        head = modified(LOSSES.build(loss_spec(loss)), ModifiersConfig(**{**OFF, **(modifiers or {})}))
        return CLASSIFIERS.build(spec, head=head, classes=classes, embedding_size=embedding_size).double()

    return build


@pytest.fixture
def faces() -> tuple[Tensor, Tensor]:
    """Embeddings `[9, 6]` in float64 and labels `[9]` in 0..12, one of them unknown; several classes have no sample."""
    embedding = 2 * torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return embedding, torch.tensor([0, 3, 12, -1, 3, 5, 7, 12, 1])
