"""Verification packs as they are published, `lfw.bin`, `cfp_fp.bin`, `agedb_30.bin`: InsightFace's protocol."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frtrain.data.formats.verification_pack import read_pack
from frtrain.data.images import decode_image
from frtrain.errors import ConfigError, DataError
from frtrain.evaluation.crops import check_size
from frtrain.evaluation.embed import Embed, Progress, embed_images
from frtrain.evaluation.pairs import FOLDS, IndexPairs, PairList, tenths
from frtrain.evaluation.suites import SUITES, FalseAcceptRate, Report
from frtrain.evaluation.verification import pair_scores, verify
from frtrain.schema import NonNegativeInt


@dataclass(frozen=True, eq=False)
class _Faces:
    """A pack with every image once: published packs hold an image as often as a pair has it.

    Attributes:
        images: the different encoded images, in the order in which they first come.
        names: of them: the pair and the side where they first come.
        pairs: positions in `images`.
    """

    images: list[bytes]
    names: list[str]
    pairs: IndexPairs


@SUITES.register("bin")
class PackSuite:
    """The pairs of a verification pack in ten consecutive folds, as InsightFace cuts them.

    Args:
        path: the `.bin`.
        flip: add the embedding of the mirror image.
        far: false accept rates to report the true accept rate at.
        resamples: bootstrap resamples for the confidence intervals; 0 for none.
        seed: of the bootstrap.
    """

    name = "bin"

    def __init__(
        self,
        path: str | None,
        flip: bool,
        far: list[FalseAcceptRate],
        resamples: NonNegativeInt,
        seed: NonNegativeInt,
    ):
        self.path, self.flip, self.far, self.resamples, self.seed = path, flip, far, resamples, seed
        self._faces: _Faces | None = None

    def check(self) -> None:
        """Read the pack.

        Raises:
            ConfigError: `path` is not set.
            DataError: the pack cannot be read, or all its pairs are of one kind.
        """
        self._read()

    def images(self) -> int:
        """Different images of the pack."""
        return len(self._read().images)

    def run(self, embed: Embed, size: int, batch_size: int, progress: Progress | None = None) -> Report:
        """See `frtrain.evaluation.suites.Suite.run`.

        Raises:
            ConfigError, DataError: as `check`; a crop is not `size` by `size`; an embedding is not finite.
            ImageError: an image cannot be decoded.
        """
        began = time.perf_counter()
        faces = self._read()

        def read(index: int) -> NDArray[np.uint8]:
            return _decoded(faces.images[index], f"{self.path}: {faces.names[index]}", size)

        embeddings = embed_images(
            embed, read, len(faces.images), batch_size, self.flip, progress, lambda index: faces.names[index]
        )
        position = {name: index for index, name in enumerate(faces.names)}
        pairs = PairList(
            left=tuple(faces.names[index] for index in faces.pairs.left.tolist()),
            right=tuple(faces.names[index] for index in faces.pairs.right.tolist()),
            genuine=faces.pairs.genuine,
            fold=faces.pairs.fold,
        )
        return Report(
            suite=self.name,
            title=f"Verification pack {Path(str(self.path)).name}",
            verification=verify(embeddings, faces.pairs, self.far, self.resamples, self.seed),
            pairs=pairs,
            scores=pair_scores(embeddings, faces.pairs),
            image=lambda name: read(position[name]),
            images=len(faces.images),
            missing=(),
            pairs_in_list=len(pairs),
            seconds=time.perf_counter() - began,
            settings={
                "pack": str(self.path),
                "score": "cosine similarity" + (" of embeddings summed with the mirror image's" if self.flip else ""),
            },
        )

    def _read(self) -> _Faces:
        if self._faces is None:
            if not self.path:
                raise ConfigError("suite.path: a verification pack, e.g. suite.path=data/agedb_30.bin")
            pack = read_pack(Path(self.path).expanduser())
            if not pack.genuine.any() or pack.genuine.all():
                kind = "genuine" if len(pack) and pack.genuine.all() else "impostor"
                raise DataError(
                    f"suite.path={self.path}: all {len(pack)} pairs are {kind}; verification needs both kinds"
                )
            first: dict[bytes, int] = {}
            names: list[str] = []
            rows = np.empty(len(pack.images), dtype=np.int64)
            for at, image in enumerate(pack.images):
                rows[at] = first.setdefault(image, len(first))
                if rows[at] == len(names):
                    names.append(f"pair {at // 2 + 1}/{'right' if at % 2 else 'left'}")
            pairs = IndexPairs(rows[::2], rows[1::2], pack.genuine, tenths(len(pack), FOLDS))
            self._faces = _Faces(list(first), names, pairs)
        return self._faces


def _decoded(data: bytes, where: str, size: int) -> NDArray[np.uint8]:
    image = decode_image(data, where)
    check_size(image, where, size)
    return image
