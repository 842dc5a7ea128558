"""Exclusion lists: what shall not be used of a data set, as a text file that people and programs write.

One per line, with a tab between the parts; lines that begin with `#` are remarks:

    image<TAB>Ana/0003.jpg<TAB>nearly the same as Ana/0001.jpg
    identity<TAB>0166921
    Ana/0004.jpg

A line without a tab is an identity if there is one of that name, otherwise an image. LFW's lists of people
(`name<TAB>count`) work, too. Names are escaped as in `frtrain.data.manifest`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from frtrain.data.manifest import escaped, unescaped
from frtrain.errors import DataError
from frtrain.files import read_text_file, write_atomically


@dataclass(frozen=True)
class Exclusion:
    """One line of a list.

    Attributes:
        kind: what is named; None where the line does not say.
        name: of the identity (as in `Source.classes`) or image (as `EncodedSource.name`).
        reason: for people; may be empty.
    """

    kind: Literal["image", "identity"] | None
    name: str
    reason: str = ""


def read_exclusions(path: Path) -> list[Exclusion]:
    """The lines of a list, in order.

    Raises:
        DataError: it cannot be read, or a line is not of this form; names file and line.
    """
    try:
        lines = read_text_file(path).split("\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    lines = [line.rstrip("\r") for line in lines]
    of_lfw = any(_is_lfw_line(line) for line in lines)
    return [
        _exclusion(line, f"{path}:{number}")
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.startswith("#") and not (of_lfw and line.strip().isdigit())
    ]


def write_exclusions(path: Path, exclusions: Iterable[Exclusion], remarks: Iterable[str] = ()) -> None:
    """Write a list that `read_exclusions` reads back, each `remark` as a line of its own at the top.

    Raises:
        OSError: it cannot be written.
    """
    lines = [f"# {escaped(remark)}" for remark in remarks]
    for item in exclusions:
        name = escaped(item.name)
        if item.kind is None:
            lines.append(name.replace("#", r"\x23", 1) if name.startswith("#") else name)
        else:
            lines.append("\t".join([item.kind, name, *([escaped(item.reason)] if item.reason else [])]))
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def _exclusion(line: str, where: str) -> Exclusion:
    kind, tab, rest = line.partition("\t")
    if not tab:
        return Exclusion(None, unescaped(line.strip()))
    if _is_lfw_line(line):
        return Exclusion("identity", unescaped(kind.strip()))
    name, _, reason = rest.partition("\t")
    if kind not in ("image", "identity") or not name:
        raise DataError(f"{where}: expected image or identity, a tab and a name, not {line!r}")
    return Exclusion("image" if kind == "image" else "identity", unescaped(name), unescaped(reason))


def _is_lfw_line(line: str) -> bool:
    name, tab, count = line.partition("\t")
    return bool(tab) and name not in ("image", "identity") and count.strip().isdigit() and not name.startswith("#")
