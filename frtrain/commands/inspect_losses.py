"""The part of `inspect` that is about losses: the table of all of them, and the picture of some."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from frtrain.commands.composition import choices, group_defaults
from frtrain.errors import ConfigError, DataError
from frtrain.files import write_atomically
from frtrain.losscurves.curves import Scene, curves_of
from frtrain.losscurves.description import Description, descriptions
from frtrain.losscurves.picture import picture, png
from frtrain.losses import LOSSES, Head
from frtrain.schema import nearest

Spec = dict[str, Any]

PICTURES = Path("runs/pictures")
"""Where pictures go that were given no name."""

LONGEST_NAME = 120
"""Characters of such a name."""

WIDE = 120
"""Columns of a terminal from which on defaults have a column of their own."""

NAMES_WIDTH, DEFAULTS_WIDTH, BORDER = 20, 30, 3
"""Characters of the table's columns and of what stands between them."""

GAP, CONTINUED = "   ", 4
"""Where a formula is best broken, and how far the rest of a line is then indented."""

SUBTITLE_WIDTH = 165
"""Characters of a line below the title."""


@dataclass(frozen=True)
class Choice:
    """A loss to draw.

    Attributes:
        key: of the configuration that chose it, for messages.
        spec: its node.
        label: the configuration file it comes from, and what differs from that.
    """

    key: str
    spec: Spec
    label: str

    def build(self) -> Head[Any]:
        """A fresh head.

        Raises:
            ConfigError: naming the key.
        """
        try:
            return LOSSES.build(self.spec)
        except ConfigError as error:
            if self.key == "loss":
                raise
            lines = [f"{self.key}: {line}" for line in str(error).splitlines()]
            raise ConfigError("\n".join(lines)) from None


def chosen_losses(
    loss: Mapping[str, Any] | None, option: str | None, compare: Sequence[str | Mapping[str, Any]]
) -> list[Choice]:
    """The losses of the keys `loss` and `compare`, without repetition.

    Args:
        loss: the node of `loss`.
        option: the file of configs/loss that it comes from; None: that of its registered name.
        compare: the value of that key.

    Raises:
        ConfigError: an entry of `compare` names no loss.
    """
    chosen = [] if loss is None else [_choice("loss", option or str(loss.get("name")), loss)]
    for number, entry in enumerate(compare):
        key = f"compare[{number}]"
        changes = {"loss": entry} if isinstance(entry, str) else dict(entry)
        name = changes.pop("loss", None)
        known = choices("loss")
        if name is None:
            raise ConfigError(f"{key}: a loss is required: a name, or {{loss: name, parameter: value}}")
        if name not in known:
            raise ConfigError(f"{key}={name}: unknown loss{nearest(str(name), known)} (known: {', '.join(known)})")
        chosen.append(_choice(key, name, {**group_defaults("loss", name), **changes}))
    return list({choice.label: choice for choice in reversed(chosen)}.values())[::-1]


def draw(chosen: Sequence[Choice], scene: Scene, target: str | None, dots_per_inch: int) -> Path:
    """Draw losses over each other and return the path of the PNG.

    Raises:
        ConfigError: a loss cannot be built.
        DataError: the picture cannot be written.
    """
    path = PICTURES / _file_name(chosen) if target is None else Path(target).expanduser()
    content = picture_of(chosen, scene, dots_per_inch)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise DataError(f"picture={path}: cannot be written ({error.strerror})") from None
    return path


def picture_of(chosen: Sequence[Choice], scene: Scene, dots_per_inch: int) -> bytes:
    """Losses over each other, as a PNG."""
    curves = [item for choice in chosen for item in curves_of(choice.label, choice.build(), scene)]
    title, subtitle = _heading(chosen)
    return png(picture(curves, scene, title, subtitle, dots_per_inch))


def loss_options() -> dict[str, dict[str, Spec]]:
    """For each registered loss the files of configs/loss that choose it, its own first, with their values."""
    found: dict[str, dict[str, Spec]] = {}
    for option in sorted(choices("loss"), key=lambda option: option not in LOSSES.names()):
        spec = group_defaults("loss", option)
        found.setdefault(LOSSES.get(spec["name"]).name, {})[option] = spec
    return found


def differences(spec: Spec, defaults: Spec) -> Spec:
    """The parameters of `spec` that are not those of `defaults`."""
    return {
        key: value for key, value in spec.items() if key != "name" and (key not in defaults or defaults[key] != value)
    }


def settings(parameters: Mapping[str, Any]) -> list[str]:
    """`key=value`, as they are typed."""
    return [f"{key}={_shown(value)}" for key, value in parameters.items()]


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def loss_table(width: int) -> Table:
    """All losses, for a terminal of so many columns: side by side where there is room, else below each other."""
    options = loss_options()
    wide = width >= WIDE
    table = Table(show_lines=True, show_header=wide)
    text_width = width - 2 * BORDER + 2
    if wide:
        text_width = width - NAMES_WIDTH - DEFAULTS_WIDTH - 3 * BORDER - 1
        table.add_column("loss", width=NAMES_WIDTH, overflow="fold")
    table.add_column("paper and formula", width=text_width, overflow="fold")
    if wide:
        table.add_column("defaults", width=DEFAULTS_WIDTH, overflow="fold")
    for description in descriptions():
        own, *variants = options[description.name].items()
        names = [description.name, *(name for name, _ in variants)]
        heading = Text(("\n" if wide else "  ").join(names))
        heading.stylize("bold", 0, len(description.name))
        if description.reconstructed:
            heading.append("\nreconstructed" if wide else "  reconstructed", "yellow")
        text = Text(description.paper)
        text.append(f"\n{fitted(description.formula, text_width)}", "cyan")
        parameters = settings(differences(own[1], {})) or ["no parameters"]
        more = [f"{name}: {'  '.join(settings(differences(spec, own[1]))) or 'the same'}" for name, spec in variants]
        defaults = "\n".join([*parameters, *more] if wide else ["  ".join(parameters), *more])
        if wide:
            table.add_row(heading, text, defaults)
        else:
            table.add_row(Text("\n").join([heading, text, Text(defaults, "dim")]))
    return table


def fitted(formula: str, width: int) -> str:
    """A formula whose longer lines are broken: in their last gap that fits, else at their last space."""
    return "\n".join(part for line in formula.splitlines() for part in _broken(line, width))


def _broken(line: str, width: int) -> Iterator[str]:
    indent = len(line) - len(line.lstrip())
    continued = " " * (indent or CONTINUED)
    while len(line) > width:
        first = len(line) - len(line.lstrip()) + 1
        place = line.rfind(GAP, first, width + len(GAP))
        place = line.rfind(" ", first, width + 1) if place < 0 else place
        if place < 0:
            break
        yield line[:place].rstrip()
        line = continued + line[place:].lstrip()
    yield line


def _choice(key: str, option: str, spec: Mapping[str, Any]) -> Choice:
    changes = differences(dict(spec), group_defaults("loss", option))
    return Choice(key, dict(spec), " ".join([option, *settings(changes)]))


def _heading(chosen: Sequence[Choice]) -> tuple[str, str]:
    """Title and subtitle of a picture."""
    if len(chosen) > 1:
        names = ", ".join(choice.label for choice in chosen)
        return "\n".join(textwrap.wrap(names, 100)), ""
    choice = chosen[0]
    paper = Description.of(LOSSES.get(choice.spec["name"])).paper
    parameters = "   ".join(settings(differences(choice.spec, {})))
    return choice.label, "\n".join([paper, *textwrap.wrap(parameters, SUBTITLE_WIDTH)])


def _file_name(chosen: Sequence[Choice]) -> str:
    labels = [re.sub(r"[^\w.=+-]+", "_", choice.label) for choice in chosen]
    return f"{'-'.join(labels)[:LONGEST_NAME]}.png"
