from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Crops of 12 people with 2 images each, `<root>/crops/Person_A/Person_A_0001.png`; the two differ by noise."""
    random = np.random.default_rng(7)
    for letter in "ABCDEFGHIJKL":
        folder = tmp_path / "crops" / f"Person_{letter}"
        folder.mkdir(parents=True)
        blocks = random.integers(40, 216, (7, 7, 3))
        for number in (1, 2):
            pixels = np.kron(blocks, np.ones((16, 16, 1))) + random.normal(0, 12, (112, 112, 3))
            image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            image.save(folder / f"Person_{letter}_{number:04d}.png")
    return tmp_path / "crops"


@pytest.fixture
def view1(tmp_path: Path) -> Path:
    """A View 1 list of 12 genuine and 12 impostor pairs of `faces`."""
    letters = "ABCDEFGHIJKL"
    genuine = [f"Person_{a}\t1\t2" for a in letters]
    impostor = [f"Person_{a}\t1\tPerson_{b}\t2" for a, b in zip(letters, letters[1:] + "A", strict=True)]
    path = tmp_path / "pairsDevTest.txt"
    path.write_text("\n".join(["12", *genuine, *impostor]) + "\n")
    return path


@pytest.fixture
def view2(tmp_path: Path) -> Path:
    """A View 2 list of 2 folds with 6 genuine and 6 impostor pairs of `faces` each."""
    lines = ["2\t6"]
    for letters in ("ABCDEF", "GHIJKL"):
        lines += [f"Person_{a}\t1\t2" for a in letters]
        lines += [f"Person_{a}\t2\tPerson_{b}\t1" for a, b in zip(letters, letters[1:] + letters[0], strict=True)]
    path = tmp_path / "pairs.txt"
    path.write_text("\n".join(lines) + "\n")
    return path
