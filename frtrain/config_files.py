"""Where the YAML files are: inside the wheel, or at the top of a checkout."""

from __future__ import annotations

from pathlib import Path


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
