"""Everything a training run consists of."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from frtrain.classifier.base import Classifier
from frtrain.config import TrainConfig
from frtrain.data.preprocessing import Preprocessing
from frtrain.data.source import Source
from frtrain.processes import Processes
from frtrain.training.checkpoint import Checkpoint, load_into, load_optimizer, optimizer_tensors
from frtrain.training.logbook import Logbook
from frtrain.training.optimization import Optimization
from frtrain.training.run_folder import RunFolder
from frtrain.training.shards import gathered, own_part, shards_of
from frtrain.training.state import TrainingState


@dataclass
class Run:
    """A run: its parts, where it stands, and where it writes.

    Attributes:
        config: as composed.
        folder: where everything is written, by process 0.
        processes: who trains together.
        rows: of each batch, those of this process.
        device: of backbone and classifier.
        precision: dtype of the backbone's autocast; None: float32.
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
    """

    config: TrainConfig
    folder: RunFolder
    processes: Processes
    rows: slice
    device: torch.device
    precision: torch.dtype | None
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

    @property
    def finished(self) -> bool:
        """Whether the last step was taken."""
        return self.state.step >= self.total_steps

    @property
    def epoch(self) -> float:
        """Passes over the images so far."""
        return self.state.position / len(self.source)

    def autocast(self) -> AbstractContextManager[None]:
        """The precision of the backbone; the classifier computes in float32 whatever this is."""
        return torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision is not None)

    def accumulating(self) -> AbstractContextManager[None]:
        """A forward pass in it leaves gradients where they are until one completes a step, then all are averaged."""
        if isinstance(self.network, DistributedDataParallel) and not self.optimization.next_is_due:
            return self.network.no_sync()
        return nullcontext()

    def network_input(self, images: torch.Tensor) -> torch.Tensor:
        """`uint8 [B, 3, H, W]` of a loader -> normalised float32 on the device."""
        moved = images.to(self.device, non_blocking=True)
        return self.preprocessing.normalise(moved).contiguous(memory_format=self.memory_format)

    def seed_dropout(self) -> None:
        """Make the batch's dropout a function of (seed, position), so that there is no generator to save.

        The position is that of the first image of this process, so each process drops something else.
        """
        position = self.state.position + (self.rows.start or 0)
        words = np.random.SeedSequence([self.config.seed, 3, position]).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0]) >> 1)

    @torch.no_grad()
    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings of `uint8 [B, 3, H, W]` with the network in evaluation mode, `float32 [B, d]`."""
        was_training = self.backbone.training
        self.backbone.eval()
        with self.autocast():
            embedding: torch.Tensor = self.backbone(self.network_input(images))
        self.backbone.train(was_training)
        return embedding.float()

    def to_checkpoint(self) -> Checkpoint | None:
        """Everything that a resumed run needs. All processes must call it; only process 0 is given it."""
        parts = {
            "backbone": self.backbone.state_dict(),
            "classifier": self.classifier.state_dict(),
            "optimizer": optimizer_tensors(self.optimization.optimizer, self.optimization.named_parameters),
        }
        tensors = gathered(parts, shards_of(self.classifier), self.processes)
        if tensors is None:
            return None
        return Checkpoint(
            tensors=tensors,
            state=self.state.as_dict(),
            config=self.config.model_dump(),
            classes=list(self.source.classes),
            fingerprint=self.source.fingerprint,
            preprocessing=self.preprocessing.as_dict(),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take a checkpoint's place in the run; each process takes its part.

        Raises:
            CheckpointError: a part does not fit.
        """
        tensors, path = own_part(checkpoint.tensors, shards_of(self.classifier)), checkpoint.path
        load_into(self.backbone, tensors["backbone"], "backbone", path)
        load_into(self.classifier, tensors["classifier"], "classifier", path)
        load_optimizer(self.optimization.optimizer, self.optimization.named_parameters, tensors["optimizer"], path)
        self.state = TrainingState(**checkpoint.state)
        self.optimization.remember_buffers()
