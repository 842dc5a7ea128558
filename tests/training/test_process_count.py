"""What is told when a run goes on in another number of processes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from frtrain.config import TrainConfig
from frtrain.training import process_count


@pytest.mark.parametrize(
    ("overrides", "then", "now", "told"),
    [
        ((), 1, 2, []),
        (("classifier=sampled",), 2, 2, []),
        (("classifier=sampled",), 2, 3, ["goes on in 3 processes instead of 2: with classifier=sampled each draws"]),
        (("trainer.sync_batch_norm=false",), 2, 1, ["goes on in 1 processes instead of 2: batch norm takes"]),
    ],
)
def test_what_depends_on_the_number_of_processes_is_told_when_it_changes(
    small_config: Callable[..., TrainConfig],
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...],
    then: int,
    now: int,
    told: list[str],
):
    messages: list[str] = []
    monkeypatch.setattr(process_count.log, "warning", lambda text, *values: messages.append(text % values))
    process_count.warn_of_another_count(small_config("trainer.device=cpu", *overrides), then, now)
    assert len(messages) == len(told)
    for message, part in zip(messages, told, strict=True):
        assert part in message
