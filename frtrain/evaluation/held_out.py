"""The report on identities of the training data that were held out of training."""

from __future__ import annotations

import time

from frtrain.data.source import Source
from frtrain.evaluation.embed import Embed
from frtrain.evaluation.pairs import PairList, pairs_from_labels
from frtrain.evaluation.suites import Report
from frtrain.evaluation.verification import verify_source

BATCH_SIZE = 256
RESAMPLES = 1000


def held_out_report(embed: Embed, held_out: Source, pairs: int, seed: int) -> Report:
    """Verify the pairs that validation uses (same seed, same pairs), with intervals, names and crops for a report.

    Args:
        embed: the network in evaluation mode.
        held_out: identities that were not trained on.
        pairs: genuine and impostor pairs together.
        seed: of the pairs.

    Raises:
        ConfigError, DataError: as `pairs_from_labels` and `verify_source`.
    """
    began = time.perf_counter()
    index_pairs = pairs_from_labels(held_out.labels, pairs, seed)
    verification, scores = verify_source(embed, held_out, index_pairs, BATCH_SIZE, flip=True, resamples=RESAMPLES)
    names = [f"{held_out.classes[label]}/{index}" for index, label in enumerate(held_out.labels)]
    position = {name: index for index, name in enumerate(names)}
    named = PairList(
        left=tuple(names[index] for index in index_pairs.left),
        right=tuple(names[index] for index in index_pairs.right),
        genuine=index_pairs.genuine,
        fold=index_pairs.fold,
    )
    return Report(
        suite="held_out",
        title="Held-out identities of the training data",
        verification=verification,
        pairs=named,
        scores=scores,
        image=lambda name: held_out.image(position[name]),
        images=len(set(named.left) | set(named.right)),
        missing=(),
        pairs_in_list=len(named),
        seconds=time.perf_counter() - began,
        settings={"identities": f"{len(held_out.classes):,}", "flip": "sum of both embeddings"},
    )
