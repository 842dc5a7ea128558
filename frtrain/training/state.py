"""Where a run stands: small numbers that travel in every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from frtrain.errors import CheckpointError


@dataclass
class TrainingState:
    """Progress of a run.

    Attributes:
        step: optimizer steps done, skipped ones included.
        position: samples consumed; with the seed it determines all data that follow.
        skipped: steps whose loss or gradient was not finite.
        best_metric: best validation metric so far.
        best_step: the step it was reached at.
        validations_without_improvement: so many in a row, for an early stop.
        improved_metric: the value that a validation has to exceed to count as an improvement; None: `best_metric`.
    """

    step: int = 0
    position: int = 0
    skipped: int = 0
    best_metric: float | None = None
    best_step: int | None = None
    validations_without_improvement: int = 0
    improved_metric: float | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any], path: Path) -> TrainingState:
        """Of the checkpoint at `path`; what it does not have yet begins as in a new run.

        Raises:
            CheckpointError: it has something that this version does not know.
        """
        unknown = values.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise CheckpointError(
                f"{path}: has the state {', '.join(sorted(unknown))}, which this version of frtrain does not know: it was "
                "written by a newer one. Go on with that one"
            )
        return cls(**values)

    def advance(self, applied: bool) -> None:
        """Count one optimizer step."""
        self.step += 1
        self.skipped += not applied

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def crossed(step: int, interval_steps: float) -> bool:
    """Whether a multiple of the interval lies in `(step - 1, step]`; intervals need not be whole steps."""
    return int(step / interval_steps + 1e-9) > int((step - 1) / interval_steps + 1e-9)
