"""Fixtures that several test folders share."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # networks in tests are too small for more: threads would only spin
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


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


@pytest.fixture
def crops_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make `<tmp>/crops/<identity>/<n>.png` of learnable stand-ins."""

    def make(identities: int = 8, images: int = 6, name: str = "crops") -> Path:
        root = tmp_path / name
        for identity in range(identities):
            folder = root / f"person_{identity:03d}"
            folder.mkdir(parents=True)
            for sample in range(images):
                Image.fromarray(crop(identity, sample)).save(folder / f"{sample}.png", compress_level=1)
        return root

    return make
