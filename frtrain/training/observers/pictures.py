"""What the network is shown, and where its angles lie, as pictures in TensorBoard."""

from __future__ import annotations

from frtrain.training.observers.base import Observer, StepFacts
from frtrain.training.run import Run
from frtrain.training.state import crossed
from frtrain.training.stopwatch import Stopwatch

SHOWN = 32


class Pictures(Observer):
    """Publishes a batch as the network sees it, and the histogram of angles to the own class centre in degrees."""

    def __init__(self, every_epochs: float):
        self.every_epochs = every_epochs

    def after_step(self, run: Run, facts: StepFacts, stopwatch: Stopwatch) -> None:
        """Publish at the first step, then by interval."""
        step = run.state.step
        if step != 1 and not crossed(step, self.every_epochs * run.steps_per_epoch):
            return
        with stopwatch.paused("pictures"):
            seen = run.preprocessing.normalise(facts.batch.images[:SHOWN])
            seen = (seen - seen.min()) / (seen.max() - seen.min())
            run.logbook.images(step, "train/batch_as_the_network_sees_it", seen)
            if run.classifier.head.geometry == "cosine":
                run.logbook.histogram(step, "train/target_angle_degrees", facts.target_angle_degrees)
