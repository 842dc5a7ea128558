from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from frtrain.losscurves.curves import PLANE, Curves, Scene, curves_of
from frtrain.losscurves.picture import picture, png
from frtrain.losses import LOSSES

SCENE = Scene(classes=100, angles=(30.0, 60.0), norms=None, steps=0)


@pytest.fixture(scope="session")
def curves(loss_spec: Callable[[str], dict[str, Any]]) -> Callable[..., list[Curves]]:
    def make(loss: str, scene: Scene = SCENE, **changes: Any) -> list[Curves]:
        return curves_of(loss, LOSSES.build({**loss_spec(loss), **changes}), scene)

    return make


def border(content: np.ndarray, column: int) -> float:
    """theta_2 above which the loss is content, by interpolation along a column of theta_1."""
    values = content[:, column]
    (place,) = np.flatnonzero((values[:-1] < 0) & (values[1:] > 0))
    return float(PLANE[place] + values[place] / (values[place] - values[place + 1]) * (PLANE[1] - PLANE[0]))


def test_the_boundary_of_arcface_is_parallel_to_the_diagonal(curves: Callable[..., list[Curves]]):
    (arcface,) = curves("arcface", margin=0.5)
    for column in (1, 10, 40, 80):
        assert border(arcface.content, column) == pytest.approx(PLANE[column] + np.degrees(0.5), abs=0.01)


@pytest.mark.parametrize("loss", ["cosface", "sv_softmax"])  # that of sv_softmax is a jump
def test_the_boundary_of_a_cosine_margin_is_that_of_the_formula(loss: str, curves: Callable[..., list[Curves]]):
    (found,) = curves(loss, margin=0.35)
    for column in (30, 60, 80):
        expected = np.degrees(np.arccos(np.cos(np.radians(PLANE[column])) - 0.35))
        assert border(found.content, column) == pytest.approx(expected, abs=0.02)


def test_a_sum_rests_where_no_gradient_has_half_its_size(curves: Callable[..., list[Curves]]):
    (sface,) = curves("sface")
    assert sface.is_sum
    assert border(sface.content, 20) == pytest.approx(np.degrees(1.2), abs=0.1)
    assert (sface.content[-1] > 0).sum() == int(np.degrees(0.87)) + 1  # theta_1 from 0 to 49 degrees


def test_a_loss_has_a_curve_for_each_length_that_it_reacts_to(curves: Callable[..., list[Curves]]):
    assert [item.norm for item in curves("arcface")] == [None]
    assert [item.norm for item in curves("magface")] == [10, 50, 110]
    assert [item.norm for item in curves("softmax")] == [10, 50, 110]
    assert [item.norm for item in curves("l2_softmax")] == [None]
    own = Scene(classes=100, angles=(30.0,), norms=(20.0, 30.0), steps=0)
    assert [item.norm for item in curves("magface", own)] == [20, 30]


def test_a_page_holds_as_many_losses_as_there_are(curves: Callable[..., list[Curves]]):
    page = [item for loss in ("arcface", "magface", "sface", "softmax", "elasticface") for item in curves(loss)]
    figure = picture(page, SCENE, "title with $ and _", "", dots_per_inch=40)
    assert png(figure).startswith(b"\x89PNG")
