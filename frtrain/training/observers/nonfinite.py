"""`nonfinite/step-XXXXXXXX.json`: the images of a step whose loss or gradients were not finite."""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch

from frtrain.classifier.base import Facts
from frtrain.classifier.selection import Shard
from frtrain.data.batches import Batch
from frtrain.data.order import SampleOrder
from frtrain.files import write_atomically
from frtrain.training.guard import STEPS_LATE, Skip
from frtrain.training.observers.base import Observer, StepFacts
from frtrain.training.run import Run
from frtrain.training.stopwatch import Stopwatch

log = logging.getLogger(__name__)

MOST_REPORTS = 20
"""In a run, those of earlier calls of it counted: the first few tell what there is to know."""

KEPT_BYTES = 256 * 2**20
"""Of a process's images. Of batches before those the report has no pixel values, so that accumulation costs no memory."""

NAMED_IMAGES = 3
"""In the log; the file has all."""


@dataclass(frozen=True)
class Seen:
    """A batch that went through the network.

    Attributes:
        step: optimizer step that it belongs to, from 1.
        position: of its first image in the order of the run, over all processes.
        images: of this process, as the network was given them before normalisation; None: not kept any more.
        loss: scalar on the device.
        embedding_norm: `[B]` on the device, of all processes.
    """

    step: int
    position: int
    images: torch.Tensor | None
    loss: torch.Tensor
    embedding_norm: torch.Tensor


class NonFiniteReports(Observer):
    """Process 0 writes which images a skipped step saw, on all processes, and what is known of each.

    What every process trains on follows from the position in the data. Only the images' values come from the processes that
    loaded them, so all must have this observer.

    Args:
        order: of the images.
    """

    def __init__(self, order: SampleOrder):
        self.order = order
        self._seen: deque[Seen] = deque()

    def after_batch(self, run: Run, batch: Batch, loss: torch.Tensor, facts: Facts) -> None:
        """Keep the batch until its step is known to be sound."""
        step = run.state.step + 1
        while self._seen and self._seen[0].step < step - STEPS_LATE:
            self._seen.popleft()
        self._seen.append(Seen(step, run.state.position, batch.images, loss, facts.embedding_norm))
        # Processes report together, so all keep as many batches, whoever has a row more.
        rows = math.ceil(run.config.trainer.batch_size / run.processes.count)
        kept = max(1, KEPT_BYTES // (rows * math.prod(batch.images.shape[1:]) * batch.images.element_size()))
        if len(self._seen) > kept:
            self._seen[-1 - kept] = replace(self._seen[-1 - kept], images=None)

    def after_step(self, run: Run, facts: StepFacts, stopwatch: Stopwatch) -> None:
        """Report the steps that have turned out to be skipped; the same ones on every process."""
        if run.optimization.skips:
            with stopwatch.paused("non-finite report"):
                self._report_all(run, together=True)

    def after_run(self, run: Run) -> None:
        """Report the last steps, of which a GPU may not have told yet."""
        run.state.skipped += run.optimization.settle()
        self._report_all(run, together=True)

    def after_failure(self, run: Run) -> None:
        """Report the step that was one too many."""
        self._report_all(run, together=False)

    def _report_all(self, run: Run, together: bool) -> None:
        for skip in run.optimization.skips:
            self._report(run, skip, together)
        run.optimization.skips.clear()

    def _report(self, run: Run, skip: Skip, together: bool) -> None:
        if skip.overflow:
            return  # of a scaled loss, which is scaled less from then on: no image is to blame
        batches = [seen for seen in self._seen if seen.step == skip.step]
        images = list(
            chain.from_iterable(self._images(run, seen, number, together) for number, seen in enumerate(batches))
        )
        if run.processes.rank > 0:
            return
        folder = run.folder.path / "nonfinite"
        path = folder / f"step-{skip.step:08d}.json"
        suspects = [image["name"] for image in images if image["suspect"]]
        report = {
            "step": skip.step,
            "first_bad_tensor": skip.culprit,
            "losses": [_plain(float(seen.loss)) for seen in batches],
            "learning_rate": run.optimization.learning_rate,
            "suspects": suspects,
            "images": images,
        }
        run.folder.in_use = True  # even where the very first step ends the run
        try:
            if sum(1 for _ in folder.glob("step-*.json")) >= MOST_REPORTS:
                return
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(report, indent=1))
        except OSError as error:
            log.warning("%s: cannot be written (%s), training goes on", path, error.strerror)
            return
        named = (
            f", {len(suspects)} of them not finite by themselves: {', '.join(suspects[:NAMED_IMAGES])}"
            if suspects
            else ""
        )
        log.warning("the %d images of step %d: %s%s", len(images), skip.step, path, named)

    def _images(self, run: Run, seen: Seen, number: int, together: bool) -> list[dict[str, Any]]:
        """What is known of each image of a batch of all processes, in their order."""
        batch_size, processes, source = run.config.trainer.batch_size, run.processes, run.source
        shares = [Shard.of(batch_size, rank, processes.count) for rank in range(processes.count)]
        known: dict[int, list[float]] = {}
        if seen.images is not None:
            statistics, first = _statistics(seen.images), run.rows.start or 0
            if together and processes.count > 1:
                statistics, first = processes.gather(statistics, [len(share) for share in shares]), 0
            known = dict(enumerate(statistics.tolist(), start=first))
        if processes.rank > 0:
            return []
        (keys,) = self.order.batches(seen.position, batch_size, 1, slice(None))
        norms = seen.embedding_norm.detach().float().cpu().tolist()
        images = []
        for row, (index, epoch) in enumerate(zip(keys.samples.tolist(), keys.epochs.tolist(), strict=True)):
            label = int(source.labels[index])
            pixels = known.get(row)
            images.append(
                {
                    "name": source.describe(index),
                    "suspect": not math.isfinite(norms[row])
                    or (pixels is not None and not all(map(math.isfinite, pixels))),
                    "identity": source.classes[label],
                    "label": label,
                    "index": index,
                    "epoch": epoch,
                    "rank": next(rank for rank, share in enumerate(shares) if share.first <= row < share.last),
                    "accumulated_batch": number,
                    "row": row,
                    "embedding_norm": _plain(norms[row]),
                    "pixels": None
                    if pixels is None
                    else dict(zip(("min", "max", "mean"), map(_plain, pixels), strict=True)),
                }
            )
        return images


def _statistics(images: torch.Tensor) -> torch.Tensor:
    """`[b, 3]` on the CPU: smallest, largest and mean value of each image; NaN where an image holds one."""
    values = images.detach().cpu().float().flatten(1)
    return torch.stack([values.amin(1), values.amax(1), values.mean(1)], dim=1)


def _plain(value: float) -> float | str:
    """JSON has no word for what is not finite."""
    return value if math.isfinite(value) else str(value)
