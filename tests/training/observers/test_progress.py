"""What the line of a run tells."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from frtrain.training.observers.progress import ProgressLine


@pytest.mark.parametrize(("share", "told"), [(0.02, False), (0.05, False), (0.31, True)])
def test_waiting_for_data_is_told_where_it_matters(share: float, told: bool, caplog: pytest.LogCaptureFixture):
    line = ProgressLine(Console(file=io.StringIO()), "plain", 0, 10)
    values = {
        "train/loss": 1.0,
        "train/accuracy": 0.5,
        "speed/images_per_second": 100.0,
        "speed/data_wait_share": share,
    }
    with caplog.at_level(logging.INFO, logger="frtrain"):
        line.scalars(5, 0.5, values)
    assert "100 images/s" in caplog.text
    assert ("data wait 31%" in caplog.text) == told
