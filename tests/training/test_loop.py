"""What the training loop does with its observers when a run ends by an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from frtrain.errors import TrainingError
from frtrain.training import build
from frtrain.training.observers.base import Observer


class Spoiler(Observer):
    """Ends the run after its first step, and then cannot clean up either."""

    def after_step(self, *arguments: Any) -> None:
        raise TrainingError("the disk of the images is gone")

    def after_failure(self, run: Any) -> None:
        raise OSError("nor can the cache be written")


class Witness(Observer):
    """Whether it was told of the end."""

    told = False

    def after_failure(self, run: Any) -> None:
        self.told = True


def test_an_observer_that_cannot_clean_up_hides_neither_the_error_nor_the_end_from_others(
    small_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    witness = Witness()
    monkeypatch.setattr(build, "_observers", lambda *_: [Spoiler(), witness])
    with pytest.raises(TrainingError, match="disk of the images"):
        small_run("run")
    assert witness.told
    assert "nor can the cache be written" in capsys.readouterr().out
