"""Where the YAML files are: inside the wheel, or at the top of a checkout; and what one of them says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from frtrain.errors import ConfigError
from frtrain.schema import nearest

RENAMED = {"scheduler.warmup_epochs": "scheduler.warmup"}
"""Keys of earlier versions, as runs of them have left them in checkpoints and `overrides.yaml`, and what they are called now."""


def config_folder() -> Path:
    """The absolute folder of frtrain's own configuration files.

    Raises:
        RuntimeError: the installation is incomplete.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise RuntimeError(f"frtrain's configs/ folder is missing beside {package}: reinstall frtrain")


def option_values(group: str, option: str) -> dict[str, Any]:
    """What `configs/<group>/<option>.yaml` says, for options that stand alone (without a defaults list).

    Values that a user has to give are `???`.

    Raises:
        ConfigError: there is no such option; suggests the nearest.
    """
    known = sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))
    if option not in known:
        raise ConfigError(f"{group}.name={option}: unknown {group}{nearest(option, known)} (known: {', '.join(known)})")
    values = OmegaConf.to_container(OmegaConf.load(config_folder() / group / f"{option}.yaml"))
    return {str(key): value for key, value in values.items()} if isinstance(values, dict) else {}


def completed(group: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """A component's specification with the defaults of its YAML: `{"name": option, parameter: value}`, the rest filled in.

    Raises:
        ConfigError: no name, an unknown one, or a value that has to be given is missing; names the key.
    """
    option = spec.get("name")
    if not isinstance(option, str):
        raise ConfigError(f"{group}.name: a name is required")
    values = option_values(group, option)
    full = {**values, **spec, "name": values.get("name", option)}
    for key, value in full.items():
        if value == "???":
            raise ConfigError(f"{group}.{key}: a value is required")
    return full
