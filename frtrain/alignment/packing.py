"""The crops that wait in the spool become a pack, in the order of identities and photographs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from frtrain.alignment.report import Record, SpoolPlace
from frtrain.alignment.spool import Spool
from frtrain.data.packs import open_pack
from frtrain.data.packs.target import read_journal

To = Literal["folder", "recordio", "webdataset"]

_CROPS = "crops"


@dataclass(frozen=True)
class PackPlan:
    """What goes into a pack.

    Attributes:
        crops: of each image place in the spool, label and name, in order.
        classes: identity names by label, sorted.
        outside: how many crops lie in no identity's folder, and are left out.
    """

    crops: list[tuple[SpoolPlace, int, str]]
    classes: list[str]
    outside: int

    def digest(self) -> str:
        """Changes with the images, their order, labels and names."""
        listed = hashlib.sha256()
        for place, label, name in self.crops:
            listed.update(f"{place}\0{label}\0{name}\n".encode("utf-8", "surrogateescape"))
        return listed.hexdigest()[:16]


def plan_pack(records: Iterable[Record]) -> PackPlan:
    """Order and labels of the crops: by identity, then by name; the identity is the top folder.

    Where all crops lie in no folder, `<identity>_<number>` names it, as `data=folder` has it.
    """
    crops = [(record.output, record.spool) for record in records if record.output and record.spool]
    flat = all("/" not in output for output, _ in crops)
    named = [(_identity(output, flat), output, place) for output, place in crops]
    inside = sorted((identity, output, place) for identity, output, place in named if identity is not None)
    classes = sorted({identity for identity, _, _ in inside})
    labels = {identity: label for label, identity in enumerate(classes)}
    return PackPlan(
        [(place, labels[identity], output) for identity, output, place in inside], classes, len(crops) - len(inside)
    )


def write_pack(
    target: Path,
    kind: To,
    plan: PackPlan,
    settings: Mapping[str, Any],
    stopped: Callable[[], bool],
    told: Callable[[int], None],
) -> bool:
    """Write the pack, or go on with it where a killed call ended, and delete the spool.

    A pack that was begun with other photographs is begun anew: all crops still wait in the spool. The caller holds the
    folder.

    Args:
        target: the folder, which holds the spool.
        kind: of the pack.
        plan: what goes into it.
        settings: of the alignment; stored with the pack.
        stopped: asked before each image.
        told: gets the number of images that are written.

    Returns:
        Whether the pack is complete; False if it was stopped.

    Raises:
        DataError: the target cannot be written.
    """
    digest, begun = plan.digest(), read_journal(target)
    spool = Spool(target)
    try:
        with open_pack(
            kind,
            target,
            {**settings, _CROPS: digest},
            redo=begun is not None and begun.settings.get(_CROPS) != digest,
            beside=[path.name for path in target.iterdir()],  # the folder is known to be ours
            lock=False,
        ) as pack:
            for index in range(pack.written, len(plan.crops)):
                if stopped():
                    return False
                place, label, name = plan.crops[index]
                pack.append(spool.read(place), label, name)
                told(index + 1)
            pack.finish(plan.classes)
    finally:
        spool.close()
    spool.remove()
    return True


def _identity(output: str, flat: bool) -> str | None:
    if not flat:
        return output.partition("/")[0] if "/" in output else None
    stem = PurePosixPath(output).stem
    name, separator, number = stem.rpartition("_")
    return name if separator and number.isdigit() else stem
