from __future__ import annotations

from typing import Any

import pytest

from frtrain.losscurves.description import Description, descriptions
from frtrain.losses import LOSSES
from frtrain.registry import Entry


def described(docstring: str) -> Description:
    def factory() -> Any: ...

    factory.__doc__ = docstring
    return Description.of(Entry("some", (), factory))


def test_every_loss_can_be_described():
    assert [item.name for item in descriptions()] == LOSSES.names()


def test_a_description_is_the_docstring():
    arcface = Description.of(LOSSES.get("arcface"))
    assert arcface.paper == "ArcFace (Deng, Guo, Xue, Zafeiriou, CVPR 2019, arXiv 1801.07698)."
    assert arcface.formula.startswith("T(theta_y) = cos(theta_y + m) ")
    assert "Known trouble: " in arcface.body
    assert "Args:" not in arcface.body
    assert not arcface.reconstructed


def test_reconstructions_are_told():
    assert {item.name for item in descriptions() if item.reconstructed} == {"amm_softmax", "euclidean_margin"}


def test_the_first_paragraph_may_have_several_lines_and_the_first_block_is_the_formula():
    found = described(
        "A name\n    of a paper.\n\n        T = 1\n          = 2\n\n    Text.\n        more: 3\n\n    Args:\n        s: scale.\n    "
    )
    assert found.paper == "A name of a paper."
    assert found.formula == "T = 1\n  = 2"
    assert found.body == "    T = 1\n      = 2\n\nText.\n    more: 3"


@pytest.mark.parametrize("docstring", ["", "A paper without a formula.\n\n    Text.\n    "])
def test_a_docstring_of_another_form_is_an_error_that_names_the_loss(docstring: str):
    with pytest.raises(ValueError, match="'some'"):
        described(docstring)
