"""Published verification protocols, by name: which pairs, which crops, how scored."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from frtrain.data.images import read_image
from frtrain.errors import ConfigError, DataError
from frtrain.evaluation.crops import FoundPairs, MissingPolicy, check_size, keep_found
from frtrain.evaluation.embed import Embed, Progress, embed_images
from frtrain.evaluation.metrics import Verification
from frtrain.evaluation.pairs import PairList, is_view_2, read_lfw_pairs
from frtrain.evaluation.verification import pair_scores, verify
from frtrain.registry import Registry
from frtrain.schema import NonNegativeInt

FalseAcceptRate = Annotated[float, Interval(gt=0, le=1)]


@dataclass(frozen=True, eq=False)
class Report:
    """One evaluation of one model: the numbers, and every score they come from.

    Attributes:
        suite: registry name of the protocol.
        title: the protocol in words.
        verification: the numbers.
        pairs: the pairs that were scored.
        scores: `float64 [P]`, cosine similarity of each pair.
        image: the crop of an image name, `uint8 [H, W, 3]`.
        images: number of different images in `pairs`.
        missing: image names that the list asks for and the folder lacks (policy `skip`).
        pairs_in_list: pairs of the whole list; more than `len(pairs)` only where images are missing.
        seconds: wall time of the evaluation.
        settings: how it was done, for the reader of the report.
    """

    suite: str
    title: str
    verification: Verification
    pairs: PairList
    scores: NDArray[np.float64]
    image: Callable[[str], NDArray[np.uint8]]
    images: int
    missing: tuple[str, ...]
    pairs_in_list: int
    seconds: float
    settings: dict[str, str] = field(default_factory=dict)


class Suite(Protocol):
    """A protocol, ready to be run on any model."""

    name: str

    def check(self) -> None:
        """Look at the files before anything expensive happens.

        Raises:
            ConfigError, DataError: something is not set, missing or malformed.
        """
        ...

    def images(self) -> int:
        """How many images a run embeds."""
        ...

    def run(self, embed: Embed, size: int, batch_size: int, progress: Progress | None = None) -> Report:
        """Evaluate a model.

        Args:
            embed: the network.
            size: height and width in pixels of the crops it expects.
            batch_size: images at once.
            progress: called with the number of images that each batch completed.
        """
        ...


SUITES: Registry[Suite] = Registry("suite")


class LfwSuite:
    """Labeled Faces in the Wild (Huang et al. 2007) from LFW's own pair files and a folder of aligned crops.

    Args:
        crops: folder of `<Person>/<Person>_0001.<ext>`.
        pairs: LFW's pair list.
        flip: add the embedding of the mirror image.
        missing: `error` refuses an incomplete folder, `skip` leaves the pairs out and says so.
        far: false accept rates to report the true accept rate at.
        resamples: bootstrap resamples for the confidence intervals; 0 for none.
        seed: of the bootstrap.
    """

    name: str
    title: str
    pair_file: str
    view: int

    def __init__(
        self,
        crops: str | None,
        pairs: str | None,
        flip: bool,
        missing: MissingPolicy,
        far: list[FalseAcceptRate],
        resamples: NonNegativeInt,
        seed: NonNegativeInt,
    ):
        self.crops = crops
        self.pairs = pairs
        self.flip = flip
        self.missing = missing
        self.far = far
        self.resamples = resamples
        self.seed = seed
        self._found: FoundPairs | None = None

    def check(self) -> None:
        """Read the pair list and look for every image it names.

        Raises:
            ConfigError: `crops` or `pairs` is not set.
            DataError: the list is malformed or of the other view, or images are missing.
        """
        self._files()

    def images(self) -> int:
        """Images that the pairs name, each counted once."""
        return len(self._files().paths)

    def run(self, embed: Embed, size: int, batch_size: int, progress: Progress | None = None) -> Report:
        """See `Suite.run`.

        Raises:
            ConfigError, DataError: as `check`; a crop is not `size` by `size`; an embedding is not finite.
            ImageError: a crop cannot be decoded.
        """
        began = time.perf_counter()
        files = self._files()
        names = files.pairs.names()
        paths = [files.paths[name] for name in names]

        def read(index: int) -> NDArray[np.uint8]:
            return _read_crop(paths[index], size)

        embeddings = embed_images(
            embed, read, len(names), batch_size, self.flip, progress, lambda index: str(paths[index])
        )
        rows = files.pairs.indexed()
        return Report(
            suite=self.name,
            title=self.title,
            verification=verify(embeddings, rows, self.far, self.resamples, self.seed),
            pairs=files.pairs,
            scores=pair_scores(embeddings, rows),
            image=lambda name: _read_crop(files.paths[name], size),
            images=len(names),
            missing=files.missing,
            pairs_in_list=files.pairs_in_list,
            seconds=time.perf_counter() - began,
            settings={
                "pair list": str(self.pairs),
                "crops": str(self.crops),
                "score": "cosine similarity" + (" of embeddings summed with the mirror image's" if self.flip else ""),
            },
        )

    def _files(self) -> FoundPairs:
        if self._found is None:
            if self.pairs is None:
                raise ConfigError(
                    f"suite.pairs: path of LFW's {self.pair_file}, e.g. suite.pairs=data/lfw/{self.pair_file}"
                )
            if self.crops is None:
                raise ConfigError(
                    "suite.crops: folder of aligned crops <Person>/<Person>_0001.jpg, e.g. suite.crops=data/lfw/crops; "
                    "made by python -m frtrain align"
                )
            path = Path(self.pairs).expanduser()
            if is_view_2(path) != (self.view == 2):
                raise DataError(
                    f"suite.pairs={self.pairs}: is a list of View {3 - self.view}; "
                    f"use suite=lfw_view{3 - self.view}, or LFW's {self.pair_file}"
                )
            self._found = keep_found(read_lfw_pairs(path), Path(self.crops).expanduser(), self.missing)
        return self._found


@SUITES.register("lfw_view1")
class LfwView1(LfwSuite):
    """View 1, for choosing a model: 1,000 pairs of `pairsDevTest.txt`, no person of `pairsDevTrain.txt` among them."""

    name = "lfw_view1"
    title = "LFW View 1 (development)"
    pair_file = "pairsDevTest.txt"
    view = 1


@SUITES.register("lfw_view2")
class LfwView2(LfwSuite):
    """View 2, for reporting: 6,000 pairs of `pairs.txt` in ten folds."""

    name = "lfw_view2"
    title = "LFW View 2"
    pair_file = "pairs.txt"
    view = 2


def _read_crop(path: Path, size: int) -> NDArray[np.uint8]:
    image = read_image(path)
    check_size(image, str(path), size)
    return image
