"""Fixtures that several test folders share."""

from __future__ import annotations

import multiprocessing
import os

os.environ["OMP_NUM_THREADS"] = "1"  # networks in tests are too small for more: threads would only spin
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

CONFIGS = Path(__file__).parents[1] / "configs"

# Imported once, not in every process of every test that has several.
multiprocessing.set_forkserver_preload(["frtrain.commands.train", "torch.distributed.fsdp"])


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real faces; tests that need it skip where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("FRTRAIN_SHARED", default)) / "data"
    if not folder.is_dir():
        pytest.skip("no real faces here (set FRTRAIN_SHARED)")
    return folder


def crop(identity: int, sample: int) -> np.ndarray:
    """A cheap learnable stand-in for a face: an identity's colour blobs under a sample's noise, `uint8 [112, 112, 3]`."""
    blobs = np.random.default_rng([identity, 0]).integers(40, 216, (4, 4, 3))
    noise = np.random.default_rng([identity, sample, 1]).normal(0, 12, (112, 112, 3))
    return np.clip(np.kron(blobs, np.ones((28, 28, 1))) + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def make_crops() -> Callable[[Path, int, int], Path]:
    """Make `<root>/<identity>/<n>.png` of learnable stand-ins."""

    def make(root: Path, identities: int = 8, images: int = 6) -> Path:
        for identity in range(identities):
            folder = root / f"person_{identity:03d}"
            folder.mkdir(parents=True)
            for sample in range(images):
                Image.fromarray(crop(identity, sample)).save(folder / f"{sample}.png", compress_level=1)
        return root

    return make


@pytest.fixture
def crops_folder(tmp_path: Path, make_crops: Callable[[Path, int, int], Path]) -> Callable[..., Path]:
    """Make `<tmp>/crops/<identity>/<n>.png` of learnable stand-ins."""

    def make(identities: int = 8, images: int = 6, name: str = "crops") -> Path:
        return make_crops(tmp_path / name, identities, images)

    return make


@lru_cache
def composed(config: str) -> dict[str, Any]:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        node = compose(overrides=[f"+loss={config}"]).loss
    values = OmegaConf.to_container(node, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


@pytest.fixture(scope="session")
def loss_spec() -> Callable[[str], dict[str, Any]]:
    """The node that `loss=NAME` composes to."""
    return lambda config: dict(composed(config))
