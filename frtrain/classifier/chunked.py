"""Engines that visit classes in blocks: all of them (chunked), those of one process (sharded), or a sample."""

from __future__ import annotations

import logging
import math
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn

from frtrain.classifier.allocation import GradientMemory
from frtrain.classifier.base import CLASSIFIERS, Classifier, Comparison, InitStd
from frtrain.classifier.blockwise import Blockwise, Step
from frtrain.classifier.centres import draw_seed, first_centres
from frtrain.classifier.selection import Selection, Shard, block_size, sample_classes
from frtrain.classifier.similarity import Matmul
from frtrain.losses.base import Head
from frtrain.losses.noise import hashed
from frtrain.processes import ALONE, Processes
from frtrain.schema import NonNegative, PositiveInt

log = logging.getLogger(__name__)

Chunk = Literal["auto"] | PositiveInt
Rate = Annotated[float, Interval(gt=0, le=1)]


class BlockwiseClassifier(Classifier):
    """What the three engines share.

    Args:
        head: the loss.
        classes: number of identities C.
        embedding_size: d.
        init_std: standard deviation of the first centres, see `DenseClassifier`.
        chunk: classes of a block; `auto` suits the device.
        keep_mib: similarities kept between forward and backward, in MiB; blocks beyond that are made again. With 0 never
            more than one block of similarities exists.
        matmul: precision of the matrix products, see `frtrain.classifier.similarity.Matmul`.
        processes: who trains together.

    Raises:
        ValueError: fewer than two classes, or a loss that needs all classes at once.
    """

    def __init__(
        self,
        head: Head[Any],
        classes: int,
        embedding_size: int,
        init_std: InitStd,
        chunk: Chunk,
        keep_mib: NonNegative,
        matmul: Matmul,
        processes: Processes = ALONE,
    ):
        super().__init__(head, classes, processes)
        if head.dense_only:
            raise ValueError("this loss needs all similarities at once: use classifier=dense")
        self.chunk = chunk
        self.keep_mib = keep_mib
        self.matmul = matmul
        self.shard = shard = self.shard_of(classes, processes)
        self._memory = GradientMemory()
        per_class = head.centres_per_class
        rows = first_centres(shard.first * per_class, shard.last * per_class, embedding_size, init_std, draw_seed())
        self.centres = nn.Parameter(rows)
        self.bias = nn.Parameter(torch.zeros(len(rows))) if head.bias else None

    @staticmethod
    def shard_of(classes: int, processes: Processes) -> Shard:
        """The classes whose centres this process holds; by default all."""
        return Shard(0, classes, classes)

    @property
    def centre_dtype(self) -> torch.dtype:
        """Of the class centres."""
        return self.centres.dtype

    def compare(self, prepared: Tensor, labels: Tensor) -> Comparison:
        """The batch before this process's classes, block by block."""
        local = self.shard.local(labels)
        selection = self.select(local)
        step = Step(
            head=self.head,
            selection=selection,
            column=selection.positions(local),
            local_labels=local,
            size=block_size(self.chunk, len(labels), self.head.centres_per_class, prepared.device),
            keep=int(self.keep_mib * 2**20) // prepared.element_size(),
            matmul=self.matmul,
            processes=self.processes if len(self.shard) < self.shard.total else ALONE,
            memory=self._memory,
            compiled=self.compiled,
        )
        return Blockwise(step, prepared, self.centres, self.bias)

    def select(self, local_labels: Tensor) -> Selection:
        """The classes of this step."""
        return Selection(len(self.shard))


@CLASSIFIERS.register("chunked")
class ChunkedClassifier(BlockwiseClassifier):
    """All classes, block by block, in one process: dense results without matrices of all classes.

    With several processes each computes the whole, which is right but wasteful: `sharded` divides the work.
    """


@CLASSIFIERS.register("sharded")
class ShardedClassifier(BlockwiseClassifier):
    """Class-parallel: each process holds the centres of its classes and compares the whole batch with them.

    What travels per step is the embeddings, a few numbers per sample, and the gradient of the embeddings; never a centre
    or a similarity. Loss and gradients are those of one process that holds everything.
    """

    @staticmethod
    def shard_of(classes: int, processes: Processes) -> Shard:
        """The part of this process."""
        return Shard.of(classes, processes.rank, processes.count)


@CLASSIFIERS.register("sampled")
class SampledClassifier(ShardedClassifier):
    """Partial FC (An et al., CVPR 2022, arXiv 2203.15565): the batch's own classes and a random part of the others.

    All classes of a process that are somebody's label take part in a step, and at least a share `rate` of its others, drawn
    anew each step: min(B, c) + rate (c - min(B, c)) of its c classes, since how many labels it will hold of a batch of B is
    not known without waiting for the device. Centres that are not drawn get a zero gradient. Cross-entropies are those of the
    sample, as published. Sums over classes (SFace, UniFace, ...) and surveys weigh each drawn class by the number of classes
    that it stands for, so that their expectation is the sum over all.

    Args:
        rate: r, the share of the classes that are nobody's label; 1 is `sharded`.
    """

    draws: Tensor

    def __init__(
        self,
        head: Head[Any],
        classes: int,
        embedding_size: int,
        init_std: InitStd,
        rate: Rate,
        chunk: Chunk,
        keep_mib: NonNegative,
        matmul: Matmul,
        processes: Processes = ALONE,
    ):
        super().__init__(head, classes, embedding_size, init_std, chunk, keep_mib, matmul, processes)
        self.rate = rate
        log.info(
            "classifier sampled: of %s classes here, those of the batch and %s of the others in a step",
            f"{len(self.shard):,}",
            f"{rate:.3g}",
        )
        self.seed = draw_seed() >> 1
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))

    def select(self, local_labels: Tensor) -> Selection:
        """All labels of the shard and a random part of its other classes; the same until `advance`."""
        classes = len(self.shard)
        reserved = min(classes, len(local_labels))
        count = reserved + math.ceil(self.rate * (classes - reserved))
        if count == classes:
            return Selection(classes)
        numbers = torch.arange(self.shard.first, self.shard.last, device=local_labels.device)
        return sample_classes(hashed(hashed(self.draws + self.seed) + numbers), local_labels, count)

    def advance(self, applied: Tensor | None = None) -> None:
        """Commit the head's state and let the next step draw other classes, unless this one was skipped."""
        super().advance(applied)
        if self.training:
            self.draws.add_(1 if applied is None else applied)
