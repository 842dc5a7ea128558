"""Everything a training run consists of."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from frtrain.backbones import BACKBONES
from frtrain.classifier.base import Classifier
from frtrain.config import TrainConfig
from frtrain.data.preprocessing import Preprocessing
from frtrain.data.source import Source
from frtrain.processes import Processes
from frtrain.training.checkpoint import optimizer_tensors
from frtrain.training.checkpoint_index import Facts
from frtrain.training.checkpoint_reading import StoredCheckpoint
from frtrain.training.checkpoint_writing import Content
from frtrain.training.logbook import Logbook
from frtrain.training.optimization import Optimization
from frtrain.training.optimizers import place_steps
from frtrain.training.parallel import accumulating, is_divided
from frtrain.training.restoring import restore_further, restore_optimizer, restore_part
from frtrain.training.run_folder import RunFolder
from frtrain.training.shards import Piece, Stateful, collected, shards_of
from frtrain.training.state import TrainingState

log = logging.getLogger(__name__)


@dataclass
class Run:
    """A run: its parts, where it stands, and where it writes.

    Attributes:
        config: as composed.
        folder: where everything is written, by process 0.
        processes: who trains together.
        rows: of each batch, those of this process.
        device: of backbone and classifier.
        precision: dtype of the backbone's autocast; None: that of the weights.
        dtype: of weights, embeddings and loss: float32, or float64 for proofs.
        memory_format: of the backbone's weights and input.
        backbone: crop to embedding.
        network: what is trained of it: itself, or what averages its gradients over several processes.
        classifier: owns head and class centres.
        optimization: gradients to weights.
        preprocessing: part of the model.
        source: what is trained on.
        held_out: identities of the same data kept for validation, or None.
        total_steps: optimizer steps of the whole run.
        steps_per_epoch: optimizer steps of one pass over the images; not a whole number in general.
        logbook: where scalars and pictures go.
        state: progress.
        dropout_position: of the first sample of the batch of this process, what dropout layers look at.
        further: parts of a checkpoint besides backbone, classifier and optimizer, by name.
        whole: process 0's copy of the verified network while it evaluates one that FSDP has divided.
    """

    config: TrainConfig
    folder: RunFolder
    processes: Processes
    rows: slice
    device: torch.device
    precision: torch.dtype | None
    dtype: torch.dtype
    memory_format: torch.memory_format
    backbone: nn.Module
    network: nn.Module
    classifier: Classifier
    optimization: Optimization
    preprocessing: Preprocessing
    source: Source
    held_out: Source | None
    total_steps: int
    steps_per_epoch: float
    logbook: Logbook
    state: TrainingState
    dropout_position: torch.Tensor
    further: dict[str, Stateful] = field(default_factory=dict)
    whole: nn.Module | None = None

    @property
    def finished(self) -> bool:
        """Whether the last step was taken, be it an early one."""
        return self.state.step >= self.total_steps or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        """Whether so many validations as `validation.patience` has improved nothing."""
        patience = self.config.validation.patience
        return patience is not None and self.state.validations_without_improvement >= patience

    @property
    def epoch(self) -> float:
        """Passes over the images so far."""
        return self.state.position / len(self.source)

    def autocast(self) -> AbstractContextManager[None]:
        """The precision of the backbone; the classifier computes in float32 whatever this is."""
        return torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision is not None)

    def accumulating(self) -> AbstractContextManager[None]:
        """A forward pass in it leaves gradients where they are until one completes a step, then all are averaged."""
        return accumulating(self.network, self.backbone, self.optimization.next_is_due)

    def network_input(self, images: torch.Tensor) -> torch.Tensor:
        """`uint8 [B, 3, H, W]` of a loader -> normalised, in the precision of the weights, on the device."""
        moved = images.to(self.device, non_blocking=True)
        return self.preprocessing.normalise(moved).to(self.dtype).contiguous(memory_format=self.memory_format)

    def seed_dropout(self) -> None:
        """Make the dropout of each image a function of (seed, position of the image), so that there is no generator to save.

        Other layers that draw use torch's generator, which gets another seed in each batch and process.
        """
        position = self.state.position + (self.rows.start or 0)
        self.dropout_position.fill_(position)
        words = np.random.SeedSequence([self.config.seed, 3, position]).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0]) >> 1)

    @property
    def evaluated(self) -> nn.Module:
        """The network that validation and report look at: the backbone, or its averaged weights (`validation.weights`)."""
        if self.whole is not None:
            return self.whole
        average = self.optimization.average
        return average.module if average is not None and self.config.validation.weights == "ema" else self.backbone

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within this context process 0 can `embed` by itself. All processes must enter it together.

        Where FSDP has divided the weights, which makes a forward pass the work of all, it gathers them on process 0.
        """
        if is_divided(self.evaluated):
            from frtrain.training.fully_sharded import whole_copy

            self.whole = whole_copy(self.evaluated, lambda: BACKBONES.build(self.config.backbone), self.processes.rank)
        try:
            yield
        finally:
            self.whole = None

    @torch.no_grad()
    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings of `uint8 [B, 3, H, W]` by the `evaluated` network in evaluation mode, `float32 [B, d]`."""
        network = self.evaluated
        was_training = network.training
        network.eval()
        with self.autocast():
            embedding: torch.Tensor = network(self.network_input(images))
        network.train(was_training)
        return embedding.float()

    def to_checkpoint(self) -> Content:
        """Everything that a resumed run needs, as far as this process has it; it shares its memory with the run.

        Raises:
            TrainingError: too many of the last steps were skipped.
        """
        self.state.skipped += self.optimization.settle()
        return Content(
            pieces=self.pieces(),
            facts=Facts(
                state=self.state.as_dict(),
                config=self.config.model_dump(),
                fingerprint=self.source.fingerprint,
                preprocessing=self.preprocessing.as_dict(),
            ),
            classes=self.source.classes,
        )

    def pieces(self) -> dict[str, dict[str, Piece]]:
        """What this process has of all tensors, by part of a checkpoint and by name."""
        parts = {
            "backbone": self.backbone.state_dict(),
            "classifier": self.classifier.state_dict(),
            "optimizer": optimizer_tensors(self.optimization.optimizer, self.optimization.named_parameters),
            **{name: part.state_dict() for name, part in self.further.items()},
        }
        return collected(parts, shards_of(self.classifier), self.optimization.named_parameters.keys())

    def restore(self, checkpoint: StoredCheckpoint) -> None:
        """Take a checkpoint's place in the run; each process reads its part.

        Raises:
            CheckpointError: a part does not fit.
        """
        pieces, anyway = self.pieces(), self.config.resume_anyway
        restore_part(checkpoint, "backbone", pieces["backbone"])
        restore_part(checkpoint, "classifier", pieces["classifier"], "centres" if anyway else "")
        if anyway and checkpoint.config["optimizer"]["name"] != self.config.optimizer["name"]:
            log.warning("another kind of optimizer: it begins without the state of the one before")
        else:
            optimizer, parameters = self.optimization.optimizer, self.optimization.named_parameters
            restore_optimizer(checkpoint, optimizer, parameters, shards_of(self.classifier), anyway)
            place_steps(optimizer)
        restore_further(checkpoint, pieces, self.further)
        self.state = TrainingState.of(checkpoint.state, checkpoint.path)
        self.optimization.remember_buffers()
        self.optimization.guard.began = self.state.step > self.state.skipped
