from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from frtrain.commands.composition import group_defaults
from frtrain.planning.job import Job
from frtrain.planning.prediction import predict
from frtrain.planning.suggestion import Suggestion, largest_batch, suggest, with_batch

Make = Callable[..., Job]


def with_room(job: Job, nbytes: float) -> Job:
    return replace(job, target=replace(job.target, memory_bytes=round(nbytes)))


def suggestion_for(job: Job) -> Suggestion:
    return suggest(job, partial(group_defaults, "classifier"))


def test_what_fits_needs_no_change_and_has_room_for_a_larger_batch(job: Make):
    planned = with_room(job(), 2 * predict(job()).total)
    suggestion = suggestion_for(planned)
    assert suggestion.changes == ()
    assert suggestion.fits
    assert suggestion.largest_batch is not None
    assert suggestion.largest_batch > planned.batch


def test_the_largest_batch_fits_and_a_little_more_does_not(job: Make):
    planned = with_room(job(), predict(job("trainer.batch_size=128")).total)
    largest = largest_batch(planned)
    assert largest in (120, 128)
    assert not predict(with_batch(planned, 136)).fits


def test_centres_are_divided_at_the_number_of_identities_where_they_no_longer_fit(
    job: Make, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("frtrain.planning.suggestion.MOST_ROWS", 8)  # the largest batch is not asked for here
    overrides = ("processes=4", "classifier=chunked")
    room = predict(job(*overrides, "identities=2000000")).total  # where its centres decide
    below, above = (
        suggestion_for(with_room(job(*overrides, f"identities={count}"), room)) for count in (1_990_000, 2_100_000)
    )
    assert below.changes == ()
    assert [change.override for change in above.changes] == ["classifier=sharded"]
    assert above.fits


def test_a_batch_is_made_smaller_where_nothing_else_is_enough(job: Make):
    planned = job("trainer.batch_size=128", "trainer.activation_checkpointing=true", "trainer.precision=bf16")
    smaller = predict(with_batch(planned, 64)).total
    suggestion = suggestion_for(with_room(planned, smaller))
    assert suggestion.fits
    assert suggestion.changes[-1].override.startswith("trainer.batch_size=")
    assert suggestion.changes[-1].job.batch == suggestion.largest_batch


def test_what_nothing_helps_is_told(job: Make):
    suggestion = suggestion_for(with_room(job("trainer.activation_checkpointing=true"), 2**20))
    assert not suggestion.fits
    assert suggestion.largest_batch is None
