"""The source `synthetic`: labelled crops of rendered people, needing no files."""

from __future__ import annotations

import hashlib
import os
import platform
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from frtrain.data.index_cache import cache_folder
from frtrain.data.source import SOURCES
from frtrain.data.synthetic.cache import CropCache
from frtrain.data.synthetic.conditions import draw_conditions
from frtrain.data.synthetic.identity import draw_person
from frtrain.data.synthetic.photograph import CROP_SIZE, RENDERER_VERSION, class_name, render_crop
from frtrain.errors import DataError
from frtrain.schema import NonNegativeInt, PositiveInt


@SOURCES.register("synthetic")
class SyntheticFaces:
    """People and photographs drawn from integers; equal parameters give equal pixels in every process.

    Identities are numbered: sources whose ranges `[first_identity, first_identity + identities)` do not overlap share no
    person, which is how training and evaluation are kept apart.

    Args:
        identities: number of people.
        images_per_identity: crops of each.
        seed: of everything that is drawn.
        first_identity: number of the first person.
        cache: folder that keeps rendered crops (37 kB each); "auto" is `$XDG_CACHE_HOME/frtrain` or
            `~/.cache/frtrain`, None keeps none.
    """

    def __init__(
        self,
        identities: PositiveInt,
        images_per_identity: PositiveInt,
        seed: NonNegativeInt,
        first_identity: NonNegativeInt = 0,
        cache: str | None = "auto",
    ):
        self.identities = identities
        self.images_per_identity = images_per_identity
        self.seed = seed
        self.first_identity = first_identity
        self.classes = [class_name(first_identity + label) for label in range(identities)]
        self.labels: NDArray[np.int64] = np.repeat(np.arange(identities, dtype=np.int64), images_per_identity)
        self.fingerprint = (
            f"synthetic renderer={RENDERER_VERSION} seed={seed} first={first_identity} "
            f"identities={identities} images={images_per_identity}"
        )
        self._cache = self._open_cache(cache) if cache is not None else None

    def __len__(self) -> int:
        return self.identities * self.images_per_identity

    def image(self, index: int) -> NDArray[np.uint8]:
        """RGB crop `uint8 [112, 112, 3]`, from the cache if it is there, rendered (and kept) otherwise."""
        image = self._cache.get(index) if self._cache is not None else None
        if image is None:
            image = self._render(index)
            if self._cache is not None:
                self._cache.put(index, image)
        return image

    def describe(self, index: int) -> str:
        """How the image is made: the integers it is drawn from."""
        identity, sample = self._numbers(index)
        return f"synthetic {class_name(identity)}, photograph {sample}, seed {self.seed}"

    def prepare(self, workers: int, progress: Callable[[int], None] | None = None) -> int:
        """Render all crops that the cache lacks, so that the first epoch reads as fast as the next ones.

        Without a cache there is nowhere to keep them and nothing is done.

        Args:
            workers: processes; 0 renders in this one.
            progress: called with the number of images dealt with since the last call.

        Returns:
            The number of images that had to be rendered.
        """
        if self._cache is None or not self._cache.usable:
            return 0
        rendered = 0
        with _mapping(workers) as apply:
            for count in apply(self._prepare_identity, range(self.identities)):
                rendered += count
                if progress is not None:
                    progress(self.images_per_identity)
        return rendered

    def _prepare_identity(self, label: int) -> int:
        if self._cache is None:
            return 0
        first = label * self.images_per_identity
        missing = [i for i in range(first, first + self.images_per_identity) if self._cache.get(i) is None]
        for index in missing:
            self._cache.put(index, self._render(index))
        return len(missing)

    def _render(self, index: int) -> NDArray[np.uint8]:
        identity, sample = self._numbers(index)
        return render_crop(draw_person(self.seed, identity), draw_conditions(self.seed, identity, sample))

    def _numbers(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)} synthetic faces")
        label, sample = divmod(int(index), self.images_per_identity)
        return self.first_identity + label, sample

    def _open_cache(self, folder: str) -> CropCache | None:
        """One file per data set and per version of what computes its pixels."""
        computed_by = f"{self.fingerprint} cv2={cv2.__version__} numpy={np.__version__} {platform.machine()}"
        name = f"synthetic-{hashlib.sha256(computed_by.encode()).hexdigest()[:16]}.crops"
        parent = cache_folder() if folder == "auto" else Path(folder).expanduser()
        cache = CropCache(parent / name, len(self), (CROP_SIZE, CROP_SIZE, 3))
        return cache if cache.usable else None


_Map = Callable[[Callable[[int], int], range], Iterator[int]]


@contextmanager
def _mapping(workers: int) -> Iterator[_Map]:
    """An ordered map over `workers` processes, or over none."""
    if workers == 0:
        yield map
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker) as pool:
        try:
            yield lambda function, items: pool.map(function, items, chunksize=4)
        except BrokenProcessPool:
            raise DataError(
                "a process that draws synthetic faces was killed. Memory may have run out: use fewer data.identities"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start_worker() -> None:
    """The processes share the cores between them already, and leave Ctrl-C to the process that waits for them."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
