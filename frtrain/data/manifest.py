"""The two text files that give a pack of images its names back: `classes.txt` and a list in im2rec's `.lst` form.

`classes.txt` holds one identity per line, in the order of the labels. The list holds `number <tab> label <tab> name` per
image, in the order of the pack. RecordIO and WebDataset packs of frtrain have both beside them; packs of others do
without.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from frtrain.errors import DataError
from frtrain.files import write_atomically

CLASSES = "classes.txt"

_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff\x85\u2028\u2029]")
_ESCAPED = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4}))")


def escaped(name: str) -> str:
    """A name on one line of a text file: control characters and backslashes as `\\x09`, undecodable ones as `\\udc80`."""
    return _UNSAFE.sub(
        lambda found: f"\\x{ord(found[0]):02x}" if ord(found[0]) < 256 else f"\\u{ord(found[0]):04x}", name
    )


def unescaped(text: str) -> str:
    """The inverse of `escaped`; a backslash that starts no escape stays as it is."""
    return _ESCAPED.sub(lambda found: chr(int(found[1] or found[2], 16)), text)


def list_line(number: int, label: int, name: str) -> str:
    """One line of the list, with its newline."""
    return f"{number}\t{label}\t{escaped(name)}\n"


def read_list(path: Path) -> Iterator[tuple[int, float, str]]:
    """Number, label and name of each line, im2rec's own lists included.

    Raises:
        DataError: the file cannot be read, or a line is not of this form; names file and line.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
            for line_number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                fields = line.rstrip("\r\n").split("\t")
                try:
                    yield int(fields[0]), float(fields[1]), unescaped(fields[-1])
                except (ValueError, IndexError):
                    raise DataError(
                        f"{path}:{line_number}: expected number, label and name with tabs between them"
                    ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def write_classes(path: Path, classes: Sequence[str]) -> None:
    """Write `classes.txt`.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(path, "".join(f"{escaped(name)}\n" for name in classes))


def read_classes(path: Path) -> list[str]:
    """Identity names by label.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return [unescaped(line) for line in text.split("\n") if line]
