"""Labels that stand in files as text: numbers or names of identities, to classes."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frtrain.data.names import Names
from frtrain.errors import DataError

log = logging.getLogger(__name__)

_NUMBER = re.compile(r"(-?[0-9]{1,18})(?:\.0*)?")  # im2rec writes labels as 12.000000


@dataclass(frozen=True)
class Classes:
    """The identities that a data set's labels speak of, those that occur and no others.

    Attributes:
        names: by class.
        of_code: `int64 [codes]`, the class of each code of `LabelTexts`.
        numbers: `int64 [C]`, the number that stands in the files by class; empty where labels are names.
    """

    names: Names
    of_code: NDArray[np.int64]
    numbers: NDArray[np.int64]


class LabelTexts:
    """Collects the labels of a data set image by image, in little memory: equal texts share one code."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    def code(self, text: str) -> int:
        """A number for `text`, the same for the same text: what is kept per image until all texts are known."""
        return self._codes.setdefault(text, len(self._codes))

    def __len__(self) -> int:
        return len(self._codes)

    def classes(self, where: str, names: Sequence[str] | None = None) -> Classes:
        """Where all labels are numbers, classes are in the order of the numbers, else in the order of the texts.

        Args:
            where: names the data set in errors.
            names: of the identities by number, if they are known.

        Raises:
            DataError: a number is negative or has no name, or a text cannot name an identity.
        """
        texts = list(self._codes)
        found = [_NUMBER.fullmatch(text) for text in texts]
        if all(found):
            return numbered_classes(np.array([int(match[1]) for match in found if match], dtype=np.int64), where, names)
        for text in texts:
            check_identity(text, where)
        ordered = sorted(texts)
        position = {text: at for at, text in enumerate(ordered)}
        of_code = np.array([position[text] for text in texts], dtype=np.int64)
        return Classes(Names.of(ordered), of_code, np.empty(0, dtype=np.int64))


def numbered_classes(labels: NDArray[np.int64], where: str, names: Sequence[str] | None = None) -> Classes:
    """Classes of labels that are numbers; `of_code` is the class of each of them. Arguments and errors as above.

    Where two of these identities have one name, all are named by their numbers: an exclusion could not tell them apart.
    """
    numbers, of_code = np.unique(labels, return_inverse=True)
    if len(numbers) and numbers[0] < 0:
        raise DataError(f"{where}: has the label {numbers[0]}; expected numbers from 0 on, or names of identities")
    if names is None:
        texts = [str(number) for number in numbers.tolist()]
    else:
        if len(numbers) and numbers[-1] >= len(names):
            raise DataError(f"{where}: has the label {numbers[-1]}, but only {len(names)} identities are named")
        texts = [names[number] for number in numbers.tolist()]
        for text in texts:
            check_identity(text, where)
        if len(set(texts)) < len(texts):
            twice = next(text for text, times in Counter(texts).items() if times > 1)
            log.warning("%s: several identities are called %r; all are named by their labels", where, twice)
            texts = [str(number) for number in numbers.tolist()]
    return Classes(Names.of(texts), of_code.astype(np.int64), numbers)


def check_identity(text: str, where: str) -> None:
    """See that `text` can be an identity's name, and so the folder of its images.

    Raises:
        DataError: it is empty, absolute, or would lead out of a folder.
    """
    if "\0" in text or any(part in ("", ".", "..") for part in text.split("/")):
        raise DataError(f"{where}: {text[:80]!r} cannot be the name of an identity")
