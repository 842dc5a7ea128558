"""docs/losses.md says of each loss what its docstring and its configuration say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from frtrain.losses import LOSSES

ROOT = Path(__file__).parents[1]
HINT = "run python scripts/make_loss_pages.py"


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_loss_pages", ROOT / "scripts" / "make_loss_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def text() -> str:
    return (ROOT / "docs" / "losses.md").read_text()


def test_the_generated_text_is_up_to_date(pages: ModuleType, text: str):
    assert pages.with_generated(text, pages.generated()) == text, HINT


@pytest.mark.parametrize("loss", LOSSES.names())
def test_every_loss_has_a_picture_that_a_page_can_hold(loss: str, text: str):
    path = ROOT / "docs" / "pictures" / "losses" / f"{loss}.png"
    assert f"(pictures/losses/{loss}.png)" in text, HINT
    assert path.is_file(), HINT
    assert path.stat().st_size < 80_000
    with Image.open(path) as picture:
        assert picture.size[0] > 800


def test_comparisons_have_pictures(pages: ModuleType, text: str):
    for name, (_, losses) in pages.COMPARISONS.items():
        assert f"(pictures/losses/compare_{name}.png)" in text, HINT
        assert (ROOT / "docs" / "pictures" / "losses" / f"compare_{name}.png").stat().st_size < 100_000
        assert set(losses) <= set(LOSSES.names())


def test_what_is_written_by_hand_is_kept(pages: ModuleType):
    page = f"before {pages.BEGIN}old{pages.END} after"
    assert pages.with_generated(page, "new") == f"before {pages.BEGIN}\nnew\n{pages.END} after"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("where a < b it is `a < b`", r"where a \< b it is `a < b`"),
        ("2 * 3 is *not* 5", r"2 \* 3 is *not* 5"),
        ("- 1", r"\- 1"),
        ("arXiv 1801.07698", "[arXiv 1801.07698](https://arxiv.org/abs/1801.07698)"),
        ("doi 10.1109/ACCESS.2022.1).", "[doi 10.1109/ACCESS.2022.1](https://doi.org/10.1109/ACCESS.2022.1))."),
    ],
)
def test_prose_of_a_docstring_is_prose_in_markdown(pages: ModuleType, written: str, shown: str):
    assert pages.prose(written) == shown


def test_a_docstring_becomes_paragraphs_and_formulas(pages: ModuleType):
    body = "    T = 1\n      = 2\n\nText of\ntwo lines.\nDefaults: s 64.\nKnown trouble: none."
    assert pages.markdown(body) == [
        "```text\nT = 1\n  = 2\n```", "Text of two lines.", "**Defaults:** s 64.", "**Known trouble:** none."
    ]  # fmt: skip


def test_the_table_shows_the_target(pages: ModuleType):
    assert pages.headline("z = 1\nT(theta) = cos(theta) - m          the rest: cos") == "T(theta) = cos(theta) - m"
    assert pages.headline("fixed     s = 1") == "fixed s = 1"
