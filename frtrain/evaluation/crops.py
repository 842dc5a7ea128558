"""Finding the crops that a pair list names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from frtrain.data.images import is_image_path
from frtrain.errors import DataError
from frtrain.evaluation.pairs import PairList

MissingPolicy = Literal["error", "skip"]
NAMED_IN_ERROR = 5


@dataclass(frozen=True, eq=False)
class FoundPairs:
    """The part of a pair list that can be evaluated.

    Attributes:
        pairs: the pairs whose two images exist.
        paths: the file of each of their images, by name.
        missing: names without a file.
        pairs_in_list: pairs of the whole list.
    """

    pairs: PairList
    paths: dict[str, Path]
    missing: tuple[str, ...]
    pairs_in_list: int


def find_crops(names: Iterable[str], folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Look `Person/Person_0001` up as `folder/Person/Person_0001.<any image extension>`.

    Returns:
        The path of each name found, and the names not found. Of several extensions the first by alphabet is taken.

    Raises:
        DataError: `folder` is not a folder.
    """
    if not folder.is_dir():
        raise DataError(f"suite.crops={folder}: is not a folder")
    listed: dict[str, dict[str, Path]] = {}
    found: dict[str, Path] = {}
    missing: list[str] = []
    for name in names:
        person, _, image = name.rpartition("/")
        if person not in listed:
            listed[person] = _images(folder / person)
        if image in listed[person]:
            found[name] = listed[person][image]
        else:
            missing.append(name)
    return found, missing


def keep_found(pairs: PairList, folder: Path, policy: MissingPolicy) -> FoundPairs:
    """Apply the policy on missing crops.

    Args:
        pairs: the whole list.
        folder: where the crops are.
        policy: `error` refuses an incomplete folder; `skip` leaves out the pairs that miss an image.

    Raises:
        DataError: images are missing under `error`, or no genuine or no impostor pair is left under `skip`.
    """
    found, missing = find_crops(pairs.names(), folder)
    if not missing:
        return FoundPairs(pairs, found, (), len(pairs))
    total = len(found) + len(missing)
    some = ", ".join(missing[:NAMED_IN_ERROR]) + (", ..." if len(missing) > NAMED_IN_ERROR else "")
    problem = f"suite.crops={folder}: {len(missing):,} of {total:,} images of the pair list are missing ({some})"
    if policy == "error":
        raise DataError(
            f"{problem}; expected {folder}/{missing[0]}.<jpg, png, ...>. Align all images, or leave the pairs out "
            "with suite.missing=skip (the number is then not comparable with published ones)"
        )
    kept = pairs.subset(np.array([a in found and b in found for a, b in zip(pairs.left, pairs.right, strict=True)]))
    if not kept.genuine.any() or kept.genuine.all():
        raise DataError(f"{problem}; too few pairs are left to evaluate")
    return FoundPairs(kept, {name: found[name] for name in kept.names()}, tuple(missing), len(pairs))


def check_size(image: NDArray[np.uint8], where: str, size: int) -> None:
    """See that `image [H, W, 3]` is what the model was trained on; `where` names it.

    Raises:
        DataError: it is not `size` by `size`.
    """
    height, width = image.shape[:2]
    if (height, width) != (size, size):
        raise DataError(
            f"{where}: is {width}x{height} pixels, but the model expects aligned crops of {size}x{size}; "
            "python -m frtrain align source=PHOTOS target=CROPS makes them"
        )


def _images(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    paths = sorted((path for path in folder.iterdir() if is_image_path(path)), reverse=True)
    return {path.stem: path for path in paths}
