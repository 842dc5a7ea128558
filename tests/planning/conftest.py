"""Planned runs, composed as the command composes them."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache
from typing import Any

import pytest
import yaml

from frtrain.commands import plan
from frtrain.commands.composition import compose_plain
from frtrain.planning.job import Job
from frtrain.schema import parse

SMALL = (
    "backbone.widths=[16]",
    "backbone.blocks=[1]",
    "backbone.strides=[2]",
    "backbone.embedding_size=16",
    "backbone.dropout=0",
    "trainer.batch_size=16",
    "trainer.precision=fp32",
    "gpu=a100-80g",
    "identities=1000",
)
GROUPS = ("classifier", "optimizer")


@lru_cache
def composed(chosen: tuple[str, ...]) -> dict[str, Any]:
    return compose_plain("plan", [*SMALL, *chosen])


@pytest.fixture(scope="session")
def job() -> Callable[..., Job]:
    """A job with a small backbone: `job("processes=2", ...)`. Hydra, which takes its time, sees the choices of groups alone."""

    def make(*overrides: str) -> Job:
        keys = [override.partition("=") for override in overrides]
        values = deepcopy(composed(tuple(f"{key}={value}" for key, _, value in keys if key in GROUPS)))
        for key, _, value in keys:
            *sections, name = key.split(".")
            node = values
            for section in sections:
                node = node[section]
            if key not in GROUPS:
                assert name in node
                node[name] = yaml.safe_load(value)
        config = parse(plan.Config, values)
        plan.check(config)
        return plan.job_of(config)

    return make
