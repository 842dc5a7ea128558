"""Several sources as one."""

from __future__ import annotations

import logging
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import MinLen
from numpy.typing import NDArray
from pydantic import AfterValidator

from frtrain.config_files import completed
from frtrain.data.encoded import EncodedSource
from frtrain.data.source import SOURCES, Preparable, Source
from frtrain.errors import ConfigError, DataError, ImageError

log = logging.getLogger(__name__)

Classes = Literal["offset", "shared"]

_KEY = re.compile(r"(?<![\w./-])data\.(?=\w)")


@contextmanager
def _of_source(number: int) -> Iterator[None]:
    """Errors within name the keys of one of the sources, `data.sources.<number>.…` instead of `data.…`."""
    try:
        yield
    except ImageError:
        raise
    except (ConfigError, DataError) as error:
        text = str(error)
        key = f"data.sources.{number}"
        named = _KEY.sub(f"{key}.", text) if _KEY.search(text) else f"{key}: {text}"
        raise type(error)(named) from None


def complete_all(specs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fill each specification in with the defaults of its YAML, and check it.

    Raises:
        ConfigError: naming the key, e.g. `data.sources.1.root`.
    """
    full = []
    for number, spec in enumerate(specs):
        with _of_source(number):
            spec = completed("data", spec)
            SOURCES.check(spec)
            full.append(spec)
    return full


Specs = Annotated[list[dict[str, Any]], MinLen(1), AfterValidator(complete_all)]


@SOURCES.register("concat")
def concatenated(sources: Specs, classes: Classes) -> Concatenation:
    """Images of several sources, one source after the other.

    Args:
        sources: their specifications, `{"name": option of data, parameter: value}`; what is not given is as in the YAML.
        classes: `offset`: the identities of different sources are different people. `shared`: equal names are one
            identity.

    Raises:
        DataError: of one of the sources, or it is there twice and its people would be two each.
    """
    built: list[Source] = []
    for number, spec in enumerate(sources):
        with _of_source(number):
            source = SOURCES.build(spec)
        _refuse_repetition(source, built, classes)
        built.append(source)
    if all(isinstance(source, EncodedSource) for source in built):
        return EncodedConcatenation(built, classes)
    if any(isinstance(source, Preparable) for source in built):
        return PreparableConcatenation(built, classes)
    return Concatenation(built, classes)


class Concatenation:
    """Several sources, one after the other.

    Different people whose names clash (`classes="offset"`) are told apart by the number of their source: as soon as one
    name, or first folder of a name, occurs in two sources, all identities become `0_<name>`, `1_<name>`, ...

    Args:
        sources: at least one.
        classes: how identities of different sources relate, see `concatenated`.
    """

    def __init__(self, sources: Sequence[Source], classes: Classes):
        self.sources = list(sources)
        self.ends = list(accumulate(len(source) for source in self.sources))
        self.prefixes = [""] * len(self.sources)
        if classes == "offset":
            if _clash(self.sources):
                self.prefixes = [f"{number}_" for number in range(len(self.sources))]
            names = [f"{prefix}{name}" for prefix, source in self._prefixed() for name in source.classes]
            firsts = accumulate((len(source.classes) for source in self.sources), initial=0)
            parts = [source.labels + first for first, source in zip(firsts, self.sources, strict=False)]
            self.in_several: NDArray[np.bool_] = np.zeros(len(names), dtype=bool)
        else:
            label_of: dict[str, int] = {}
            parts, sources_of = [], np.zeros(0, dtype=np.int64)
            for source in self.sources:
                new = np.array([label_of.setdefault(name, len(label_of)) for name in source.classes], dtype=np.int64)
                parts.append(new[source.labels])
                sources_of = np.append(sources_of, np.zeros(len(label_of) - len(sources_of), dtype=np.int64))
                sources_of[np.unique(new)] += 1
            names = list(label_of)
            self.in_several = sources_of > 1
        self.classes: Sequence[str] = names
        self.labels: NDArray[np.int64] = np.concatenate(parts).astype(np.int64)
        self.fingerprint = f"concat {classes}: {' + '.join(source.fingerprint for source in self.sources)}"

    def __len__(self) -> int:
        return self.ends[-1]

    def image(self, index: int) -> NDArray[np.uint8]:
        """RGB crop of the source that has it."""
        number, at = self.place(index)
        return self.sources[number].image(at)

    def describe(self, index: int) -> str:
        """Where the image comes from, by the source that has it."""
        number, at = self.place(index)
        return self.sources[number].describe(at)

    def place(self, index: int) -> tuple[int, int]:
        """Number of the source, and position in it."""
        index = range(len(self))[index]
        number = bisect_right(self.ends, index)
        return number, index - (self.ends[number - 1] if number else 0)

    def _prefixed(self) -> Iterator[tuple[str, Source]]:
        return zip(self.prefixes, self.sources, strict=True)


class EncodedConcatenation(Concatenation, EncodedSource):
    """Several `EncodedSource`s, one itself."""

    def encoded(self, index: int) -> bytes:
        """The stored file in the source that has it."""
        number, at = self.place(index)
        return _encoded(self.sources[number]).encoded(at)

    def name(self, index: int) -> str:
        """The name in its source, told apart by the source's number like the identity where names may clash.

        An image of an identity that several sources share becomes `<identity>/<number>_<file>`.
        """
        number, at = self.place(index)
        name = _encoded(self.sources[number]).name(at)
        label = self.labels[index]
        if not self.in_several[label]:
            return f"{self.prefixes[number]}{name}"
        folder, slash, file = name.rpartition("/")
        return f"{folder if slash else self.classes[label]}/{number}_{file}"


class PreparableConcatenation(Concatenation):
    """Several sources, of which some can do slow work ahead."""

    def prepare(self, workers: int, progress: Callable[[int], None] | None = None) -> int:
        """Let those do it that can, see `Preparable`."""
        needed = 0
        for source in self.sources:
            if isinstance(source, Preparable):
                needed += source.prepare(workers, progress)
            elif progress is not None:
                progress(len(source))
        return needed


def _refuse_repetition(source: Source, earlier: Sequence[Source], classes: Classes) -> None:
    """See that a source is no earlier one over again: the same images in the same place."""
    number = len(earlier)
    for other_number, other in enumerate(earlier):
        if source.fingerprint == other.fingerprint and source.describe(0) == other.describe(0):
            if classes == "offset":
                raise DataError(
                    f"data.sources.{number}: is the same as data.sources.{other_number}, and each of its people would become "
                    "two; leave one of them out"
                )
            log.warning("data.sources.%d is the same as data.sources.%d: its images count twice", number, other_number)


def _clash(sources: Sequence[Source]) -> bool:
    """Whether the first folder of some identity's name occurs in two sources."""
    seen: set[str] = set()
    for source in sources:
        own = {name.partition("/")[0] for name in source.classes}
        if own & seen:
            return True
        seen |= own
    return False


def _encoded(source: Source) -> EncodedSource:
    if not isinstance(source, EncodedSource):
        raise TypeError(f"{type(source).__name__} has no stored files")
    return source
