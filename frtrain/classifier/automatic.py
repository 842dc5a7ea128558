"""The choice of an engine by the number of classes and processes."""

from __future__ import annotations

import logging
from typing import Any

from frtrain.classifier.base import CLASSIFIERS, Classifier, InitStd
from frtrain.classifier.chunked import Chunk, ChunkedClassifier, ShardedClassifier
from frtrain.classifier.dense import DenseClassifier
from frtrain.classifier.similarity import Matmul
from frtrain.losses.base import Head
from frtrain.processes import ALONE, Processes
from frtrain.schema import NonNegative

log = logging.getLogger(__name__)

DENSE_UP_TO = 5000
"""Centres up to which one matrix of all similarities is as fast as blocks of them (docs/performance.md)."""


@CLASSIFIERS.register("auto")
def automatic(
    head: Head[Any],
    classes: int,
    embedding_size: int,
    init_std: InitStd,
    chunk: Chunk,
    keep_mib: NonNegative,
    matmul: Matmul,
    processes: Processes = ALONE,
) -> Classifier:
    """Dense for few classes, chunked for many, sharded for several processes; the log says which and why.

    All give the same loss and gradients. A sample of the classes (Partial FC) changes them, so it is never chosen here.

    Args:
        head, classes, embedding_size, init_std, chunk, keep_mib, matmul, processes: see `BlockwiseClassifier`.
    """
    count = classes * head.centres_per_class
    if processes.count > 1 and not head.dense_only:
        log.info("classifier sharded: %d processes, each with the centres of its share of the classes", processes.count)
        return ShardedClassifier(head, classes, embedding_size, init_std, chunk, keep_mib, matmul, processes)
    if head.dense_only or (count <= DENSE_UP_TO and matmul == "float32"):
        why = "the loss needs all classes at once" if head.dense_only else f"{count:,} centres are few"
        log.info("classifier dense: %s", why)
        return DenseClassifier(head, classes, embedding_size, init_std, processes)
    if count > DENSE_UP_TO:
        why = f"a matrix of {count:,} centres for every sample is not needed at once"
    else:
        why = f"matmul={matmul} is for blocks of classes"
    log.info("classifier chunked: %s", why)
    return ChunkedClassifier(head, classes, embedding_size, init_std, chunk, keep_mib, matmul, processes)
