"""What the docstring of a loss says, taken apart: the paper, the formula, and the rest."""

from __future__ import annotations

import inspect
import itertools
import re
import textwrap
from dataclasses import dataclass
from typing import Any

from frtrain.losses.base import LOSSES, Head
from frtrain.registry import Entry

SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Shapes?|Source):$")
"""The headings that end what is written for readers of the loss; below them its parameters are explained."""


@dataclass(frozen=True)
class Description:
    """One registered loss.

    Attributes:
        name: under which it is registered.
        aliases: other registered names.
        paper: the first paragraph of the docstring, on one line.
        formula: its first indented block, without the indentation.
        body: all that stands between the first paragraph and the first section (`Args:`), as it is written: formulas
            indented by four spaces, text not.
        reconstructed: whether the formula is a reading of the paper's abstract.
    """

    name: str
    aliases: tuple[str, ...]
    paper: str
    formula: str
    body: str
    reconstructed: bool

    @classmethod
    def of(cls, entry: Entry[Head[Any]]) -> Description:
        """Read a registered loss.

        Raises:
            ValueError: its docstring is not of that form, which is a mistake of the programmer.
        """
        lines = inspect.cleandoc(entry.factory.__doc__ or "").splitlines()
        end = next((number for number, line in enumerate(lines) if SECTION.match(line)), len(lines))
        paragraph_ends = next((number for number, line in enumerate(lines[:end]) if not line.strip()), end)
        paper, body = " ".join(lines[:paragraph_ends]), lines[paragraph_ends:end]
        formula = _first_indented_block(body)
        if not paper or not formula:
            raise ValueError(
                f"loss '{entry.name}': its docstring must begin with the paper and have the formula as an indented block"
            )
        reconstructed = bool(getattr(entry.factory, "reconstructed", False))
        return cls(entry.name, entry.aliases, paper, formula, "\n".join(body).strip("\n"), reconstructed)


def descriptions() -> list[Description]:
    """Of every registered loss, sorted by name."""
    return [Description.of(entry) for entry in LOSSES]


def _first_indented_block(lines: list[str]) -> str:
    """Dedented; up to the first blank line."""
    from_block = list(itertools.dropwhile(lambda line: not line.startswith("    "), lines))
    return textwrap.dedent("\n".join(itertools.takewhile(lambda line: line.startswith("    "), from_block)))
