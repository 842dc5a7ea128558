"""Writes what docs/losses.md says of each loss, and its picture, from the docstrings, configurations and heads.

    python scripts/make_loss_pages.py                     the text, and all pictures
    python scripts/make_loss_pages.py --pictures sface    the text, and these pictures; none without a name
    python scripts/make_loss_pages.py --check             writes nothing; fails where the text is out of date

Only what stands between the two marks of docs/losses.md is replaced.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import textwrap
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from frtrain.commands.composition import compose_plain
from frtrain.commands.inspect_losses import Spec, chosen_losses, differences, loss_options, picture_of, settings
from frtrain.config_files import config_folder
from frtrain.losscurves.curves import Scene
from frtrain.losscurves.description import Description, descriptions
from frtrain.losses import LOSSES

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, PICTURES = DOCS / "losses.md", DOCS / "pictures" / "losses"
BEGIN, END = "<!-- losses: begin -->", "<!-- losses: end -->"

DOTS_PER_INCH, COLORS = 110, 48
"""Small enough for a page with a picture of each loss."""

COMPARISONS = {
    "margins": ("Margins", ["normface", "cosface", "arcface", "combined_margin", "sphereface_r"]),
    "hard_classes": (
        "Weights for hard classes",
        ["arcface", "sv_softmax", "mv_softmax", "amm_softmax", "curricularface", "npcface"],
    ),
    "five_papers": ("The five papers", ["sv_softmax", "amm_softmax", "sface", "l2_softmax", "euclidean_margin"]),
}
"""Losses on one page: the picture's name, its title, and who is on it."""

RECONSTRUCTED = """\
> **A reconstruction.** The paper's equations could not be read: the formula is a reading of its abstract, and its defaults have
> no evidence. Results must not be reported as the authors'."""

WIDTH = 120
LEADS = re.compile(r"^(Defaults|Known trouble|Boundary between two classes)\b([^:]{0,40}):", re.MULTILINE)
"""What begins a paragraph of its own in a docstring."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the text is up to date")
    parser.add_argument("--pictures", nargs="*", default=LOSSES.names(), metavar="LOSS", help="default: all")
    options = parser.parse_args()

    page = PAGE.read_text()
    renewed = with_generated(page, generated())
    if options.check:
        if renewed != page:
            sys.exit(f"{PAGE} is out of date: run python scripts/make_loss_pages.py")
        return
    PAGE.write_text(renewed)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in options.pictures:
        draw(name, [name])
    if options.pictures == LOSSES.names():
        for name, (_, losses) in COMPARISONS.items():
            draw(f"compare_{name}", losses)


def with_generated(page: str, text: str) -> str:
    """The page with what stands between the marks replaced."""
    before, found, rest = page.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        sys.exit(f"{PAGE} has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def generated() -> str:
    """The table of all losses and a section for each."""
    options = loss_options()
    described = descriptions()
    lines = ["| `loss=` | paper | T or L | defaults |", "|---|---|---|---|"]
    lines += [table_line(item, options[item.name]) for item in described]
    compared = [
        f"### {title}\n\n![{', '.join(losses)}](pictures/losses/compare_{name}.png)"
        for name, (title, losses) in COMPARISONS.items()
    ]
    sections = [section(item, options[item.name]) for item in described]
    return "\n".join(lines) + "\n\n" + "\n\n".join(compared + sections)


def table_line(description: Description, options: dict[str, Spec]) -> str:
    own = options[description.name]
    names = [
        f"[`{description.name}`](#{description.name})",
        *(f"`{name}`" for name in options if name != description.name),
    ]
    paper = linked(description.paper.rstrip(".")) + (" (**reconstructed**)" if description.reconstructed else "")
    cells = [
        ", ".join(names),
        paper,
        f"`{headline(description.formula)}`",
        ", ".join(f"`{setting}`" for setting in settings(differences(own, {}))) or "none",
    ]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def headline(formula: str) -> str:
    """The line of the target, or the first one, without what stands beside it."""
    lines = formula.splitlines()
    line = next((line for line in lines if line.startswith("T")), lines[0])
    equation, _, _ = line.partition("=")
    end = re.search(r" {4,}", line[len(equation) :])
    return re.sub(r" +", " ", line[: len(equation) + end.start()] if end else line).rstrip(" ,")


def section(description: Description, options: dict[str, Spec]) -> str:
    """Heading, paper, formula, what is known, picture, and the files of configs/loss as they are."""
    parts = [f"### {description.name}", linked(description.paper)]
    if description.reconstructed:
        parts.append(RECONSTRUCTED)
    parts += markdown(description.body)
    parts.append(f"![{description.name} over the angles](pictures/losses/{description.name}.png)")
    for option in options:
        text = (config_folder() / "loss" / f"{option}.yaml").read_text().rstrip()
        parts.append(f"`loss={option}`\n\n```yaml\n{text}\n```")
    return "\n\n".join(parts)


def markdown(body: str) -> list[str]:
    """Paragraphs and formulas of a docstring."""
    parts: list[str] = []
    for indented, group in groupby(body.splitlines(), lambda line: line.startswith("    ")):
        text = "\n".join(group)
        if indented:
            parts.append(f"```text\n{textwrap.dedent(text)}\n```")
            continue
        paragraphs = re.split(r"\n\s*\n", LEADS.sub(r"\n\n\g<0>", text).strip())
        parts += [prose(LEADS.sub(r"**\1\2:**", paragraph)) for paragraph in paragraphs if paragraph.strip()]
    return parts


def prose(paragraph: str) -> str:
    """Wrapped; signs of the formulas keep Markdown from seeing marks in them."""
    lines = textwrap.wrap(
        linked(escaped(" ".join(paragraph.split()))), WIDTH, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(re.sub(r"^(\d*)([-+#>]|(?<=\d)[.)] )", r"\1\\\2", line) for line in lines)


def escaped(text: str) -> str:
    """`<`, `~` and `*` outside of code and of emphasis."""
    code = re.split(r"(`[^`]*`|\*\*[^*]+\*\*|(?<!\w)\*\w+\*(?!\w))", text)
    return "".join(part if place % 2 else re.sub(r"([<~*])", r"\\\1", part) for place, part in enumerate(code))


def linked(text: str) -> str:
    text = re.sub(r"\barXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)
    return re.sub(r"\bdoi (10\.\d+/[\w.]*\w)", r"[doi \1](https://doi.org/\1)", text)


def draw(name: str, losses: list[str]) -> None:
    """Write a picture of one loss or of several over each other."""
    values: dict[str, Any] = compose_plain("inspect", [])
    scene = Scene(values["classes"], tuple(values["angles"]), values["norms"], values["steps"])
    picture = Image.open(io.BytesIO(picture_of(chosen_losses(None, None, losses), scene, DOTS_PER_INCH)))
    target = PICTURES / f"{name}.png"
    picture.convert("RGB").quantize(COLORS, method=Image.Quantize.MAXCOVERAGE).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
