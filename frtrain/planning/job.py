"""What is planned: a configuration, how many identities, how many processes, on what."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from frtrain.classifier.selection import Shard
from frtrain.config import TrainConfig
from frtrain.planning.gpus import Target
from frtrain.training.batch_norm import choose_sync_batch_norm
from frtrain.training.hardware import choose_channels_last, choose_precision, choose_workers
from frtrain.training.precision import autocast_dtype


@dataclass(frozen=True)
class Job:
    """A training run that is planned.

    Attributes:
        config: of the run.
        identities: classes that are trained on.
        processes: of all machines together, one for each GPU.
        nodes: machines.
        target: what each process computes on.
    """

    config: TrainConfig
    identities: int
    processes: int
    nodes: int
    target: Target

    @property
    def batch(self) -> int:
        """Images of a batch, of all processes."""
        return self.config.trainer.batch_size

    @property
    def rows(self) -> tuple[int, ...]:
        """Of each process; the first has the most."""
        return tuple(len(Shard.of(self.batch, rank, self.processes)) for rank in range(self.processes))

    @cached_property
    def precision(self) -> torch.dtype | None:
        """Of autocast, as training would choose it there; None: that of the weights."""
        choice = choose_precision(self.config.trainer.precision, self.target.device, self.target.machine)
        return autocast_dtype(choice)

    @property
    def channels_last(self) -> bool:
        """Memory layout, as training would choose it there."""
        setting = self.config.trainer.channels_last
        return choose_channels_last(setting, self.target.device, self.target.machine).value

    @property
    def sync_batch_norm(self) -> bool:
        """Whether batch norm is of the whole batch, as training would choose it there."""
        setting = self.config.trainer.sync_batch_norm
        return choose_sync_batch_norm(setting, self.target.device, self.processes).value

    @property
    def workers(self) -> int:
        """Loader processes of each process; `auto` supposes the cores of this machine."""
        return choose_workers(self.config.trainer.workers, self.target.device, self.target.machine).value

    @property
    def sharded_backbone(self) -> bool:
        """Whether FSDP divides the backbone."""
        return self.config.trainer.parallel == "fsdp" and self.processes > 1
