"""Names of people that may be the same name: other spelling, other order, a typing error."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

_SEPARATORS = re.compile(r"[\W_]+")
LEAST_LETTERS = 5
"""Shorter names differ by one letter too easily."""


def plain_name(name: str) -> str:
    """A name without accents, case, punctuation and order: `Jürgen_Müller` and `muller, jurgen` become one.

    Empty where no letter is left: numbers are no names.
    """
    letters = unicodedata.normalize("NFKD", name)
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter)).casefold()
    letters = letters.translate({ord("ß"): "ss", ord("ø"): "o", ord("ł"): "l", ord("đ"): "d"})
    if not any(letter.isalpha() for letter in letters):
        return ""
    return " ".join(sorted(part for part in _SEPARATORS.split(letters) if part))


def same_names(left: Sequence[str], right: Sequence[str]) -> list[tuple[int, int, bool]]:
    """Pairs of positions whose names are one, up to one inserted, missing, changed or swapped letter.

    Names with digits (`n000123`) are numbers in disguise: they have to be equal, and even then mean little.

    Args:
        left, right: names of people.

    Returns:
        `(left, right, exact)`: exact where the plain names are equal and hold no digits. Found through the names with one letter taken out
        (Bast and Celikik 2013; "symmetric delete"), not by comparing all with all.
    """
    plain_left, plain_right = [plain_name(name) for name in left], [plain_name(name) for name in right]
    by_variant: defaultdict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(plain_right):
        for variant in _variants(name):
            by_variant[variant].append(index)
    found: dict[tuple[int, int], bool] = {}
    for index, name in enumerate(plain_left):
        for variant in _variants(name):
            for other in by_variant.get(variant, ()):
                if name == plain_right[other]:
                    found[index, other] = not _has_digits(name)
                elif _within_one_edit(name, plain_right[other]):
                    found.setdefault((index, other), False)
    return [(one, other, exact) for (one, other), exact in sorted(found.items())]


def _variants(name: str) -> set[str]:
    """The name, and all names with one letter less."""
    if not name:
        return set()
    if len(name) < LEAST_LETTERS or _has_digits(name):
        return {name}
    return {name, *(name[:at] + name[at + 1 :] for at in range(len(name)))}


def _within_one_edit(one: str, other: str) -> bool:
    """Whether one insertion, deletion, change, or swap of neighbours makes them equal."""
    if (
        _has_digits(one)
        or _has_digits(other)
        or min(len(one), len(other)) < LEAST_LETTERS
        or abs(len(one) - len(other)) > 1
    ):
        return False
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    rest_one, rest_other = one[start:], other[start:]
    if len(one) == len(other):
        swapped = len(rest_one) > 1 and rest_one[1] + rest_one[0] + rest_one[2:] == rest_other
        return rest_one[1:] == rest_other[1:] or swapped
    return rest_one[1:] == rest_other or rest_one == rest_other[1:]


def _has_digits(name: str) -> bool:
    return any(letter.isdigit() for letter in name)
