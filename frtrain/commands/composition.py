"""Composing a verb's configuration, and turning Hydra's complaints into messages that name the key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from frtrain.config_files import RENAMED, config_folder
from frtrain.errors import ConfigError
from frtrain.schema import nearest

Plain = dict[str, Any]

MOVED = {
    "data.identities": "subset.include",
    "data.min_images": "subset.min_images",
    "data.on_corrupt": "trainer.on_corrupt",
    **RENAMED,
}
"""Keys of earlier versions or that one would look for there, and what they are called."""


def check_homes(values: Plain, key: str = "") -> None:
    """See that every `~name/...` among the values can be followed.

    Raises:
        ConfigError: there is no user of that name; names the key.
    """
    for name, value in values.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                check_homes(item, f"{key}{name}.")
            elif isinstance(item, str) and item.startswith("~"):
                try:
                    Path(item).expanduser()
                except RuntimeError:
                    raise ConfigError(
                        f"{key}{name}={item}: there is no home folder of {item.split('/')[0]}; write the path in full"
                    ) from None


@contextmanager
def composer() -> Iterator[None]:
    """Hydra ready to compose frtrain's configurations, also from within a running Hydra application."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3", job_name="frtrain"):
            yield
    finally:
        GlobalHydra.instance().hydra = running


def choices(group: str) -> list[str]:
    """The options of a configuration group, e.g. `choices("loss")`; empty when there is no such group."""
    folder = config_folder() / group
    return sorted(path.stem for path in folder.glob("*.yaml")) if folder.is_dir() else []


def group_defaults(group: str, option: str) -> Plain:
    """The values of one option of a group, as its YAML states them.

    Raises:
        ConfigError: there is no such option.
    """
    with composer():
        try:
            values = plain(compose(f"{group}/{option}"))
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(_explain(group, error, [])) from None
    return dict(values.get(group, values))


def groups_of(verb: str) -> list[str]:
    """The configuration groups that a verb chooses from, in the order of its defaults list."""
    defaults = OmegaConf.select(OmegaConf.load(config_folder() / f"{verb}.yaml"), "defaults", default=[])
    names = [str(next(iter(item))) for item in defaults if isinstance(item, DictConfig)]
    if "train" in defaults:  # a verb that takes all that training takes
        return groups_of("train")
    return [name.removeprefix("optional ").removeprefix("override ").lstrip("/") for name in names]


def plain(config: DictConfig, partial: bool = False) -> Plain:
    """Resolve interpolations and return nested dicts, lists and scalars.

    Args:
        config: a composed configuration.
        partial: leave values that the user has yet to give as `???`.

    Raises:
        ConfigError: an interpolation cannot be resolved or a mandatory value is missing.
    """
    try:
        values = OmegaConf.to_container(config, resolve=not partial, throw_on_missing=not partial)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: a value is required; set it with {error.full_key}=...") from None
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None
    if not isinstance(values, dict):
        raise ConfigError("the configuration must be a mapping of keys")
    return {str(key): value for key, value in values.items() if key != "hydra"}


def compose_plain(verb: str, overrides: Sequence[str], partial: bool = False) -> Plain:
    """Compose `configs/<verb>.yaml` with command-line overrides into plain values.

    Raises:
        ConfigError: an override cannot be parsed, names an unknown key or group option; suggests the nearest.
    """
    with composer():
        try:
            return plain(compose(verb, overrides=list(overrides)), partial)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise ConfigError(_explain(verb, error, overrides)) from None


def expand_sweep(overrides: Sequence[str]) -> list[list[str]]:
    """All combinations of a sweep: `["loss=a,b", "seed=1"]` -> `[["loss=a", "seed=1"], ["loss=b", "seed=1"]]`.

    Raises:
        ConfigError: an override cannot be parsed.
    """
    values = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [override.input_line or ""]
        for override in parse_overrides(overrides)
    ]
    return [list(job) for job in product(*values)]


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Parse `key=value` arguments by Hydra's grammar.

    Raises:
        ConfigError: naming the argument that is not of that form.
    """
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except (OverrideParseException, HydraException):
            raise ConfigError(f"cannot understand the argument '{text}'{_hint(text)}") from None
    return parsed


def _hint(text: str) -> str:
    key, equals, value = text.partition("=")
    if not equals:
        return "; arguments after the verb have the form key=value"
    if value.startswith("~"):  # the shell leaves it to Hydra, which knows it only in quotes
        return f"; write the path in full, or in two kinds of quotes: {key}='\"{value}\"'"
    return ""


def merge_overrides(saved: Sequence[str], new: Sequence[str]) -> list[str]:
    """`saved` overrides followed by `new` ones, the later of the same key alone kept."""
    by_key = {override.key_or_group: override.input_line or "" for override in parse_overrides([*saved, *new])}
    return list(by_key.values())


def _explain(verb: str, error: Exception, overrides: Sequence[str]) -> str:
    text = str(error)
    groups = groups_of(verb) if (config_folder() / f"{verb}.yaml").is_file() else []
    chosen = [override for override in overrides if override.partition("=")[0] in groups]
    if "Config group override" in text:
        wrong = [choice for choice in chosen if choice.partition("=")[2] not in choices(choice.partition("=")[0])]
        return f"{', '.join(wrong)}: a choice is made by its name, e.g. {groups[0]}={choices(groups[0])[0]}"
    if ambiguous := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{ambiguous[1]}: several values are a sweep, which needs -m"
    if isinstance(error, MissingConfigException):
        missing = re.search(r"Could not find '([^']+)'", text) or re.search(r"Could not load '?([^'\s]+)", text)
        if missing and "/" in missing[1]:
            group, _, option = missing[1].rpartition("/")
            known = choices(group)
            return f"{group}={option}: unknown {group}{nearest(option, known)} (known: {', '.join(known)})"
    key = re.search(r"[Kk]ey '([^']+)' is not in struct", text) or re.search(r"override '([^']+)'", text)
    if key is None and isinstance(error.__cause__, Exception):
        key = re.search(r"Key '([^']+)' is not in struct", str(error.__cause__))
    full_key = re.search(r"full_key: (\S+)", f"{text}\n{error.__cause__ or ''}")
    if key and isinstance(error, ConfigCompositionException):
        name = full_key[1] if full_key else key[1]
        parent, _, leaf = name.rpartition(".")
        if name in groups:
            return f"{name}: nothing is chosen; choose one first with {name}=..., e.g. {name}={choices(name)[0]}"
        if name in MOVED:
            return f"{name}: unknown key; it is {MOVED[name]}, for every data set"
        known = _known_keys(verb, parent, chosen)
        where = f" (known: {', '.join(known)})" if known else ""
        return f"{name}: unknown key{nearest(leaf, known)}{where}"
    return text.splitlines()[0] if text else type(error).__name__


def _known_keys(verb: str, parent: str, choices_made: list[str]) -> list[str]:
    with composer():
        node = compose(verb, overrides=choices_made)
        try:
            section = OmegaConf.select(node, parent) if parent else node
        except OmegaConfBaseException:
            return []
    return sorted(str(key) for key in section) if isinstance(section, DictConfig) else []


def saved_overrides(path: Path) -> list[str]:
    """Read a run folder's `overrides.yaml`; keys of earlier versions become those of this one.

    Raises:
        ConfigError: the file is missing or not a list of strings.
    """
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); resume needs the run folder of a training run") from None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ConfigError(f"{path}: must be a list of key=value strings")
    pairs = (str(value).partition("=") for value in values)
    return [f"{RENAMED.get(key, key)}{sign}{value}" for key, sign, value in pairs]
