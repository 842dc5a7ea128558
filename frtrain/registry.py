"""Name -> component. A component registers itself where it is defined; configurations choose it by name alone."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model

from frtrain.errors import ConfigError
from frtrain.schema import STRICT, nearest, parse

Component = TypeVar("Component")


@dataclass(frozen=True)
class Entry(Generic[Component]):
    """One registered component: its name, other names it answers to, and the class or function that builds it."""

    name: str
    aliases: tuple[str, ...]
    factory: Callable[..., Component]

    def parameters(self, given: frozenset[str] = frozenset()) -> dict[str, inspect.Parameter]:
        """The constructor's parameters that a configuration may set: all but those in `given`."""
        return {
            name: parameter
            for name, parameter in inspect.signature(self.factory).parameters.items()
            if name not in given and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        }

    def schema(self, given: frozenset[str] = frozenset()) -> type[BaseModel]:
        """The parameters' names, types, bounds and defaults, as a model to parse a configuration node with."""
        constructor = self.factory.__init__ if inspect.isclass(self.factory) else self.factory
        hints = get_type_hints(constructor, include_extras=True)
        fields: dict[str, Any] = {
            name: (hints[name], ... if parameter.default is inspect.Parameter.empty else parameter.default)
            for name, parameter in self.parameters(given).items()
        }
        return create_model(self.name, __config__=ConfigDict(**STRICT, arbitrary_types_allowed=True), **fields)


class Registry(Generic[Component]):
    """All components of one kind ("loss", "backbone", ...).

    `kind` is the configuration group, so messages can name the key a user has to change.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Entry[Component]] = {}

    def register(self, name: str, *aliases: str) -> Callable[[Any], Any]:
        """Class or function decorator: make the component available as `name` (and `aliases`).

        Raises:
            ValueError: the name is taken, which is a programming error.
        """

        def add(factory: Any) -> Any:
            entry = Entry(name, aliases, factory)
            for key in (name, *aliases):
                if key in self._entries:
                    raise ValueError(f"{self.kind} '{key}' is registered twice")
                self._entries[key] = entry
            return factory

        return add

    def __iter__(self) -> Iterator[Entry[Component]]:
        return iter(sorted({id(e): e for e in self._entries.values()}.values(), key=lambda entry: entry.name))

    def names(self) -> list[str]:
        """Primary names, sorted, without aliases."""
        return [entry.name for entry in self]

    def get(self, name: str) -> Entry[Component]:
        """Look a name or alias up.

        Raises:
            ConfigError: unknown name; the message suggests the nearest one and lists all.
        """
        if name not in self._entries:
            raise ConfigError(
                f"{self.kind}={name}: unknown {self.kind}{nearest(name, self._entries)} "
                f"(known: {', '.join(self.names())})"
            )
        return self._entries[name]

    def check(self, spec: Mapping[str, Any], *given: str) -> dict[str, Any]:
        """Check `spec` (`{"name": ..., parameter: value}`) and return the full parameters, without building.

        Args:
            spec: the configuration node.
            given: constructor parameters that come from the program, not from the configuration.

        Raises:
            ConfigError: unknown name, unknown parameter, wrong type or value out of bounds.
        """
        parameters = dict(spec)
        name = parameters.pop("name", None)
        if not isinstance(name, str):
            raise ConfigError(f"{self.kind}.name: a name is required (known: {', '.join(self.names())})")
        model = self.get(name).schema(frozenset(given))
        checked = parse(model, parameters, self.kind)
        return {field: getattr(checked, field) for field in model.model_fields}

    def build(self, spec: Mapping[str, Any], **given: Any) -> Component:
        """Check `spec` and call the component with its parameters and `given`.

        Raises:
            ConfigError: as `check`, or a `ValueError` of the constructor, prefixed with the component's key.
        """
        parameters = self.check(spec, *given)
        try:
            return self.get(spec["name"]).factory(**parameters, **given)
        except ValueError as error:
            raise ConfigError(f"{self.kind}={spec['name']}: {error}") from error


def import_modules(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that its components register: a new one is a new file and nothing else."""
    for module in pkgutil.iter_modules(path):
        import_module(f"{package}.{module.name}")
