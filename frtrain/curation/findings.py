"""What curation finds, and what it would leave out."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Overlap:
    """An identity of the training set that is also in the test set.

    Attributes:
        identity: name in the training set.
        other: name in the test set.
        cosine: of the two dominant centres.
        doubt: probability that they are two people after all (`matches.doubts_of_best`).
        by: `embedding`, `name` (equal ones, or one letter apart), `both`, or `photograph` (nearly the same in both sets).
    """

    identity: str
    other: str
    cosine: float
    doubt: float
    by: str


@dataclass(frozen=True)
class Mislabelled:
    """An image that does not look like its identity.

    Attributes:
        image: its number in the source.
        name: its name.
        identity: what it is labelled as.
        fit: cosine with the dominant centre of that identity.
        suggestion: the identity that it looks like, if one stands out.
        suggestion_cosine: cosine with that identity's centre.
    """

    image: int
    name: str
    identity: str
    fit: float
    suggestion: str | None
    suggestion_cosine: float | None


@dataclass(frozen=True)
class Merge:
    """Two identities that seem to be one person."""

    identity: str
    other: str
    cosine: float
    doubt: float


@dataclass(frozen=True)
class Split:
    """An identity that holds a second person.

    Attributes:
        identity: its name.
        images: numbers of the images of the second group.
        cosine: of the two groups' centres.
    """

    identity: str
    images: tuple[int, ...]
    cosine: float


@dataclass(frozen=True)
class Duplicates:
    """Images that show nearly the same pixels.

    Attributes:
        images: numbers, the one to keep first.
        identities: their identities; more than one name means that at least one label is wrong.
    """

    images: tuple[int, ...]
    identities: tuple[str, ...]


@dataclass(frozen=True)
class Findings:
    """All of it, the strongest evidence first in each list.

    Attributes:
        unreadable: numbers of images that could not be decoded.
        thresholds: the cosines that decisions were made by, by name.
    """

    overlaps: list[Overlap] = field(default_factory=list)
    mislabelled: list[Mislabelled] = field(default_factory=list)
    merges: list[Merge] = field(default_factory=list)
    splits: list[Split] = field(default_factory=list)
    duplicates: list[Duplicates] = field(default_factory=list)
    unreadable: list[int] = field(default_factory=list)
    thresholds: dict[str, float] = field(default_factory=dict)
