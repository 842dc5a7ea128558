"""Verification of a source's identities: those held out of training, or any folder of crops of one's own."""

from __future__ import annotations

import time

from frtrain.data import SOURCES, Source
from frtrain.errors import ConfigError, DataError
from frtrain.evaluation.embed import Embed, Progress
from frtrain.evaluation.pairs import IndexPairs, PairList, pairs_from_labels
from frtrain.evaluation.suites import SUITES, Report
from frtrain.evaluation.verification import verify_source
from frtrain.schema import NonNegativeInt, PositiveInt

RESAMPLES = 1000


def identities_report(
    embed: Embed,
    source: Source,
    pairs: IndexPairs,
    suite: str,
    title: str,
    batch_size: int = 256,
    flip: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Verify pairs of a source's images, with intervals, names and crops for a report.

    Args:
        embed: the network in evaluation mode.
        source: the images.
        pairs: positions in `source`, of `pairs_from_labels`.
        suite, title: name of the protocol, short and in words.
        batch_size, flip, progress: as for `embed_images`.
        resamples, seed: of the bootstrap.

    Raises:
        DataError: as `verify_source`.
    """
    began = time.perf_counter()
    verification, scores = verify_source(embed, source, pairs, batch_size, flip, progress, resamples, seed)
    names = [f"{source.classes[label]}/{index}" for index, label in enumerate(source.labels)]
    position = {name: index for index, name in enumerate(names)}
    named = PairList(
        left=tuple(names[index] for index in pairs.left),
        right=tuple(names[index] for index in pairs.right),
        genuine=pairs.genuine,
        fold=pairs.fold,
    )
    return Report(
        suite=suite,
        title=title,
        verification=verification,
        pairs=named,
        scores=scores,
        image=lambda name: source.image(position[name]),
        images=len({*named.left, *named.right}),
        missing=(),
        pairs_in_list=len(named),
        seconds=time.perf_counter() - began,
        settings={
            "data": source.fingerprint,
            "identities": f"{len(source.classes):,}",
            "score": "cosine similarity" + (" of embeddings summed with the mirror image's" if flip else ""),
        },
    )


@SUITES.register("folder")
class FolderSuite:
    """Pairs drawn from a folder of crops, `<root>/<identity>/<image>`: half genuine, half impostor, the same every time.

    Args:
        root: the folder.
        pairs: genuine and impostor pairs together; fewer where the images do not allow so many.
        flip: add the embedding of the mirror image.
        resamples: bootstrap resamples for the confidence intervals; 0 for none.
        seed: of the pairs and the bootstrap.
    """

    name = "folder"

    def __init__(
        self, root: str | None, pairs: PositiveInt, flip: bool, resamples: NonNegativeInt, seed: NonNegativeInt
    ):
        self.root, self.pairs, self.flip, self.resamples, self.seed = root, pairs, flip, resamples, seed
        self._drawn: tuple[Source, IndexPairs] | None = None

    def check(self) -> None:
        """Walk the folder and draw the pairs.

        Raises:
            ConfigError: `root` is not set.
            DataError: the folder cannot be used, or has too few images for pairs.
        """
        self._source_and_pairs()

    def images(self) -> int:
        """Images that the pairs name, each counted once."""
        _, pairs = self._source_and_pairs()
        return len({*pairs.left.tolist(), *pairs.right.tolist()})

    def run(self, embed: Embed, size: int, batch_size: int, progress: Progress | None = None) -> Report:
        """See `Suite.run`.

        Raises:
            ConfigError, DataError: as `check`; an embedding is not finite.
            ImageError: a crop cannot be decoded or has another size.
        """
        source, pairs = self._source_and_pairs()
        title = f"Identities of {self.root}"
        return identities_report(
            embed, source, pairs, self.name, title, batch_size, self.flip, self.resamples, self.seed, progress
        )

    def _source_and_pairs(self) -> tuple[Source, IndexPairs]:
        if self._drawn is None:
            if self.root is None:
                raise ConfigError("suite.root: folder of aligned crops <identity>/<image>, e.g. suite.root=data/crops")
            spec = {"name": "folder", "root": self.root, "layout": "auto", "links": "follow"}
            try:
                source = SOURCES.build(spec)
            except DataError as error:
                raise DataError(str(error).replace("data.root", "suite.root")) from None
            self._drawn = source, pairs_from_labels(source.labels, self.pairs, self.seed)
        return self._drawn
