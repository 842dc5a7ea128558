"""Which engine `classifier=auto` takes."""

import logging

import pytest

from frtrain.classifier import CLASSIFIERS
from frtrain.losses import Head
from frtrain.processes import Processes


class Plain(Head):
    geometry = "cosine"

    def target(self, similarity, row):
        return similarity


class Whole(Plain):
    dense_only = True


SPEC = {"name": "auto", "init_std": 0.1, "chunk": "auto", "keep_mib": 0.0, "matmul": "float32"}


@pytest.mark.parametrize(
    ("head", "classes", "changes", "processes", "expected", "reason"),
    [
        (Plain(), 100, {}, Processes(), "DenseClassifier", "100 centres are few"),
        (Plain(), 50_000, {}, Processes(), "ChunkedClassifier", "50,000 centres"),
        (Plain(), 50_000, {"matmul": "bf16"}, Processes(), "ChunkedClassifier", "50,000 centres"),
        (Plain(), 100, {"matmul": "bf16"}, Processes(), "ChunkedClassifier", "chunked: matmul=bf16"),
        (Plain(), 100, {}, Processes(1, 2), "ShardedClassifier", "2 processes"),
        (Whole(), 50_000, {}, Processes(), "DenseClassifier", "needs all classes at once"),
        (Whole(), 100, {}, Processes(1, 2), "DenseClassifier", "needs all classes at once"),
    ],
)
def test_engine_suits_classes_and_processes_and_says_why(head, classes, changes, processes, expected, reason, caplog):
    logging.getLogger("frtrain").propagate = True
    with caplog.at_level(logging.INFO, "frtrain"):
        classifier = CLASSIFIERS.build(
            {**SPEC, **changes}, head=head, classes=classes, embedding_size=4, processes=processes
        )
    assert type(classifier).__name__ == expected
    assert reason in caplog.text
