from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from frtrain.data.formats.verification_pack import write_pack
from frtrain.errors import ConfigError, DataError, ImageError
from frtrain.evaluation.pairs import read_lfw_pairs
from frtrain.evaluation.references import PixelEmbedder
from frtrain.evaluation.suites import SUITES, Suite

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "suite"


def suite(name: str, **changes: Any) -> Suite:
    spec = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    return SUITES.build({**spec, "resamples": 0, **changes})


@pytest.fixture
def pack(faces: Path, view2: Path, tmp_path: Path) -> Path:
    """The pairs of `view2` as a verification pack."""
    pairs = read_lfw_pairs(view2)
    names = [name for pair in zip(pairs.left, pairs.right, strict=True) for name in pair]
    write_pack(tmp_path / "faces.bin", [(faces / f"{name}.png").read_bytes() for name in names], pairs.genuine)
    return tmp_path / "faces.bin"


def test_pack_has_the_scores_of_the_crops_it_was_made_of(faces: Path, view2: Path, pack: Path) -> None:
    report = suite("bin", path=str(pack)).run(PixelEmbedder().embed, 112, 8)
    crops = suite("lfw_view2", crops=str(faces), pairs=str(view2)).run(PixelEmbedder().embed, 112, 8)
    np.testing.assert_allclose(report.scores, crops.scores, atol=1e-6)
    assert report.pairs.genuine.tolist() == crops.pairs.genuine.tolist()
    assert report.verification.auc == crops.verification.auc
    assert report.title == "Verification pack faces.bin"


def test_folds_are_ten_consecutive_parts(pack: Path) -> None:
    fold = suite("bin", path=str(pack)).run(PixelEmbedder().embed, 112, 8).pairs.fold
    assert sorted(set(fold.tolist())) == list(range(10))
    assert (np.diff(fold) >= 0).all()


def test_each_different_image_is_embedded_once(pack: Path) -> None:
    counts: list[int] = []
    ready = suite("bin", path=str(pack))
    ready.run(PixelEmbedder().embed, 112, 8, counts.append)
    assert sum(counts) == ready.images() == 24


def test_image_of_the_report_is_that_of_its_name(faces: Path, pack: Path) -> None:
    report = suite("bin", path=str(pack)).run(PixelEmbedder().embed, 112, 8)
    assert report.pairs.left[:2] == ("pair 1/left", "pair 2/left")
    assert report.image("pair 1/left").shape == (112, 112, 3)


def test_unset_path_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"suite\.path: .* e\.g\. suite\.path="):
        suite("bin").check()


def test_pack_of_one_kind_is_refused(shared: Path) -> None:
    with pytest.raises(DataError, match="all 10 pairs are genuine"):
        suite("bin", path=str(shared / "formats" / "small_lfw.bin")).check()


def test_crops_of_another_size_and_damaged_ones_are_named(pack: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pair 1/left: is 112x112 pixels, but the model expects .* 96x96"):
        suite("bin", path=str(pack)).run(PixelEmbedder().embed, 96, 8)
    write_pack(tmp_path / "bad.bin", [b"\xff\xd8a", b"\xff\xd8b", b"\xff\xd8c", b"\xff\xd8d"], np.array([True, False]))
    with pytest.raises(ImageError, match="pair 1/left: is "):
        suite("bin", path=str(tmp_path / "bad.bin")).run(PixelEmbedder().embed, 112, 8)
