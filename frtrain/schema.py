"""Checking configuration values against types: every complaint names the full key and, where it can, the right one.

The types of this module serve both the fixed sections (`frtrain.config`) and the parameters of registered components
(`frtrain.registry`), so a bound such as "margin >= 0" is written once, where the parameter is declared.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

from annotated_types import Interval
from pydantic import BaseModel, ConfigDict, ValidationError

from frtrain.errors import ConfigError

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())
"""No unknown keys, no silent conversions, no infinite numbers."""

LARGEST = 1e9
"""No scale, rate, length or weight means anything above this, and arithmetic with it would overflow somewhere."""

MOST = 10**12
"""No number of steps, classes or bytes is above this."""

Seed = Annotated[int, Interval(ge=0, lt=2**63)]
Positive = Annotated[float, Interval(gt=0, le=LARGEST)]
NonNegative = Annotated[float, Interval(ge=0, le=LARGEST)]
AtLeastOne = Annotated[float, Interval(ge=1, le=LARGEST)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
FractionBelowOne = Annotated[float, Interval(ge=0, lt=1)]
PositiveInt = Annotated[int, Interval(gt=0, le=MOST)]
NonNegativeInt = Annotated[int, Interval(ge=0, le=MOST)]


class Section(BaseModel):
    """A fixed part of the configuration: frozen, strictly typed, no unknown keys."""

    model_config = ConfigDict(**STRICT, frozen=True)


SectionType = TypeVar("SectionType", bound=BaseModel)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def parse(model: type[SectionType], values: Mapping[str, Any], path: str = "") -> SectionType:
    """Build `model` from plain values.

    Args:
        model: the pydantic model that states names, types and bounds.
        values: nested plain containers (dict, list, str, int, float, bool, None).
        path: dotted key under which `values` stands in the whole configuration, for messages.

    Raises:
        ConfigError: with one line per wrong key, each naming the full dotted key.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        complaints: dict[str, list[str]] = {}
        for item in error.errors():
            subject, complaint = _explain(model, item, path)
            complaints.setdefault(subject, []).append(complaint)
        # The branches of a union complain one by one: "must be 'auto' or must be a valid integer".
        lines = [f"{subject}: {' or '.join(dict.fromkeys(texts))}" for subject, texts in complaints.items()]
        raise ConfigError("\n".join(lines)) from None


def _explain(model: type[BaseModel], item: Any, path: str) -> tuple[str, str]:
    """The key, with its value where that helps, and what is wrong with it."""
    location = _location(model, item)
    key = ".".join(filter(None, [path, *location]))
    if item["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        return key, f"unknown key{nearest(location[-1], known)} (known: {', '.join(sorted(known))})"
    if item["type"] == "missing":
        return key, f"a value is required; set it with {key}=..."
    message = item["msg"].replace("Input should be", "must be").replace("Value error, ", "")
    return (key if isinstance(item["input"], dict) else f"{key}={item['input']!r}"), message


def _location(model: type[BaseModel], item: Any) -> list[str]:
    """The path of keys and list positions, without the names of union branches that pydantic adds to it."""
    parts = list(item["loc"])
    location: list[str] = []
    for depth, part in enumerate(parts):
        known = _fields_at(model, location)
        is_unknown_key = item["type"] == "extra_forbidden" and depth == len(parts) - 1
        if part in known or isinstance(part, int) or is_unknown_key:
            location.append(str(part))
    return location


def _fields_at(model: type[BaseModel], location: list[str]) -> list[str]:
    for part in location:
        field = model.model_fields.get(part)  # sections are not aliased, single values may be
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return [field.alias or name for name, field in model.model_fields.items()]
