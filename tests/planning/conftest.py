"""Planned runs, composed as the command composes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from frtrain.commands import plan
from frtrain.commands.composition import compose_plain
from frtrain.planning.job import Job
from frtrain.schema import parse

SMALL = (
    "backbone.widths=[16,16]",
    "backbone.blocks=[1,1]",
    "backbone.strides=[2,2]",
    "backbone.embedding_size=16",
    "backbone.dropout=0",
    "trainer.batch_size=16",
    "trainer.precision=fp32",
    "gpu=a100-80g",
)


@pytest.fixture(scope="session")
def job() -> Callable[..., Job]:
    """A job with a small backbone: `job("processes=2", ...)`."""

    def make(*overrides: str) -> Job:
        config = parse(plan.Config, compose_plain("plan", [*SMALL, "identities=1000", *overrides]))
        plan.check(config)
        return plan.job_of(config)

    return make
