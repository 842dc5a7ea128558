from __future__ import annotations

from pathlib import Path

import pytest

from frtrain.errors import CheckpointError
from frtrain.training.state import TrainingState


def test_a_state_of_an_earlier_version_begins_what_it_lacks_anew():
    assert TrainingState.of({"step": 3, "position": 24}, Path("step-3")) == TrainingState(step=3, position=24)


def test_a_state_of_a_newer_version_is_refused_by_name():
    with pytest.raises(CheckpointError, match=r"step-3: has the state moon, which this version .* newer one"):
        TrainingState.of({"step": 3, "moon": 1}, Path("step-3"))
