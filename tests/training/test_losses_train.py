"""Every registered loss trains, on a matrix and in blocks, through the same door as the command line."""

import json

import pytest

from frtrain.losses import LOSSES


@pytest.mark.parametrize("engine", ["dense", "chunked"])
@pytest.mark.parametrize("loss", LOSSES.names())
def test_loss_trains_a_few_steps(loss, engine, small_run):
    status, folder = small_run("run", f"loss={loss}", f"classifier={engine}", "trainer.max_steps=2")
    assert status == 0
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[-1]["train/skipped_steps"] == 0
