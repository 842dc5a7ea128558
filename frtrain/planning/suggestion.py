"""What to change where a run does not fit, and how large its batch may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from frtrain.planning.job import Job
from frtrain.planning.prediction import Prediction, predict

WORTH = 0.02
"""A change that saves less than this share of the memory is not suggested."""

MOST_ROWS = 2**14
"""Images of a process beyond which no larger batch is looked for."""

MOST_PROCESSES = 4096

MOST_DOUBLINGS = 6
"""Of the processes, beyond which no more are suggested."""

Defaults = Callable[[str], Mapping[str, Any]]
"""From the name of a classifier's engine to its settings."""


@dataclass(frozen=True)
class Change:
    """Something to change.

    Attributes:
        override: as it is typed.
        cost: what one pays for it.
        job: with it, and with all changes before it.
        prediction: of that job.
    """

    override: str
    cost: str
    job: Job
    prediction: Prediction


@dataclass(frozen=True)
class Suggestion:
    """What to do.

    Attributes:
        changes: to make together; empty where the job fits as it is.
        fits: whether the job fits with them.
        largest_batch: with them, of all processes; None: not even two images for each process fit.
    """

    changes: tuple[Change, ...]
    fits: bool
    largest_batch: int | None


def suggest(job: Job, defaults: Defaults) -> Suggestion:
    """Changes until the job fits, the cheapest first, each kept only where it helps and is needed; then the largest batch.

    Dividing the centres costs nothing. bfloat16 rounds, recomputation takes time, FSDP messages; a sample of the classes (Partial FC)
    is another training, a smaller batch, too, and more processes cost money.

    Args:
        job: what does not fit, or does.
        defaults: of an engine that may be suggested.
    """
    prediction, taken = predict(job), list[_Remedy]()
    for remedy in _remedies(job, defaults):
        if prediction.fits:
            break
        better = predict(_with(job, [*taken, remedy]))
        if better.total < prediction.total * (1 - WORTH):
            taken.append(remedy)
            prediction = better
    for remedy in reversed(taken[:-1]):  # what one took before something stronger may not be needed any more
        rest = [other for other in taken if other is not remedy]
        if prediction.fits and predict(_with(job, rest)).fits:
            taken = rest
    changes: list[Change] = []
    for count, remedy in enumerate(taken, 1):
        changed = _with(job, taken[:count])
        changes.append(Change(remedy.override, remedy.cost, changed, predict(changed)))
    if changes:
        job, prediction = changes[-1].job, changes[-1].prediction
    largest = largest_batch(job)
    if not prediction.fits and largest is not None:
        job = with_batch(job, largest)
        changes.append(Change(f"trainer.batch_size={largest}", "another training: adapt the rate", job, predict(job)))
    elif not prediction.fits and (more := _with_more_processes(job, defaults)) is not None:
        changes.append(Change(f"processes={more.job.processes}", "more GPUs", more.job, more))
        largest = largest_batch(more.job)
    return Suggestion(tuple(changes), changes[-1].prediction.fits if changes else prediction.fits, largest)


@dataclass(frozen=True)
class _Remedy:
    override: str
    cost: str
    apply: Callable[[Job], Job]


def _with(job: Job, remedies: Sequence[_Remedy]) -> Job:
    for remedy in remedies:
        job = remedy.apply(job)
    return job


def _remedies(job: Job, defaults: Defaults) -> Iterator[_Remedy]:
    """The cheapest first."""
    config, trainer = job.config, job.config.trainer
    same, engine = "nothing: the same results", config.classifier["name"]
    if job.processes > 1 and engine in ("dense", "chunked"):
        yield _Remedy("classifier=sharded", same, lambda it: with_classifier(it, "sharded", defaults))
    elif engine == "dense":
        yield _Remedy("classifier=chunked", same, lambda it: with_classifier(it, "chunked", defaults))
    if job.precision is None and trainer.precision != "fp64":
        half = "fp16" if job.target.native_bf16 is False else "bf16"
        yield _Remedy(f"trainer.precision={half}", "rounding", lambda it: with_trainer(it, precision=half))
    if not trainer.activation_checkpointing:
        yield _Remedy(
            "trainer.activation_checkpointing=true",
            "about a third more time",
            lambda it: with_trainer(it, activation_checkpointing=True),
        )
    if job.processes > 1 and trainer.parallel == "ddp":
        fsdp = {"parallel": "fsdp", "static_graph": False, "gradient_compression": "none"}
        yield _Remedy("trainer.parallel=fsdp", "weights travel twice a step", lambda it: with_trainer(it, **fsdp))
    if engine != "sampled":
        cost = "a softmax over a sample of the classes (Partial FC)"
        yield _Remedy("classifier=sampled", cost, lambda it: with_classifier(it, "sampled", defaults))


def with_trainer(job: Job, **values: object) -> Job:
    """The job with other keys of `trainer`."""
    trainer = job.config.trainer.model_copy(update=values)
    return replace(job, config=job.config.model_copy(update={"trainer": trainer}))


def with_batch(job: Job, batch: int) -> Job:
    """The job with another batch, of all processes."""
    return with_trainer(job, batch_size=batch)


def with_classifier(job: Job, name: str, defaults: Defaults) -> Job:
    """The job with another engine, with the settings of the present one where both have them."""
    settings = defaults(name)
    kept = {key: value for key, value in job.config.classifier.items() if key in settings and key != "name"}
    return replace(job, config=job.config.model_copy(update={"classifier": {**settings, **kept}}))


def largest_batch(job: Job) -> int | None:
    """The largest batch of all processes that fits, in steps of 8 images of a process (of 1 below 16), to about 3 %; None: not
    even two images of each fit.

    Memory grows nearly in proportion to the batch, so the next guess is on the line through two that were rehearsed.
    """

    def bytes_of(rows: int) -> int:
        return predict(with_batch(job, rows * job.processes)).total

    room = job.target.memory_bytes
    low, high = 2, max(3, job.rows[0])
    known = {rows: bytes_of(rows) for rows in (low, high)}
    if known[low] > room:
        return None
    while known[high] <= room:
        slope = max(1.0, (known[high] - known[low]) / (high - low))
        left = int((room - known[high]) / slope)
        if left < max(1, high // 32) or high >= MOST_ROWS:
            return _rounded(high) * job.processes
        low, high = high, min(MOST_ROWS, max(high + 1, _rounded(high + left)))
        known[high] = bytes_of(high)
    while high - low > max(1, low // 32):
        slope = (known[high] - known[low]) / (high - low)
        left = int((room - known[low]) / slope)
        if left < max(1, low // 32):
            break
        guess = min(max(low + 1, _rounded(low + left)), high - 1)
        known[guess] = bytes_of(guess)
        low, high = (guess, high) if known[guess] <= room else (low, guess)
    return _rounded(low) * job.processes


def _rounded(rows: int) -> int:
    return rows // 8 * 8 if rows >= 16 else rows


def _with_more_processes(job: Job, defaults: Defaults) -> Prediction | None:
    """The first doubling of the processes that fits; None where not even the last one does."""

    def doubled(times: int) -> Prediction:
        count = job.processes * 2**times
        more = with_batch(replace(job, processes=count), max(job.batch, 2 * count))
        if more.config.classifier["name"] in ("dense", "chunked"):
            more = with_classifier(more, "sharded", defaults)
        return predict(more)

    most = min(MOST_DOUBLINGS, (MOST_PROCESSES // job.processes).bit_length() - 1)
    if most < 1 or not doubled(most).fits:
        return None
    return next(found for times in range(1, most + 1) if (found := doubled(times)).fits)


def precision_name(job: Job) -> str:
    """As `trainer.precision` has it."""
    names: dict[torch.dtype | None, str] = {torch.bfloat16: "bf16", torch.float16: "fp16", None: "fp32"}
    return "fp64" if job.config.trainer.precision == "fp64" else names[job.precision]
