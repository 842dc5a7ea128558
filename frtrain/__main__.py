"""`python -m frtrain [VERB] [key=value ...]`: find the verb, compose its configuration with Hydra, run it."""

from __future__ import annotations

import os
import sys

os.environ.setdefault(
    "NO_ALBUMENTATIONS_UPDATE", "1"
)  # albumentations asks the network for its newest version at import


def main() -> None:
    """Entry point of `python -m frtrain` and of the console script `frtrain`."""
    from frtrain.commands.application import run_verb

    sys.exit(run_verb(sys.argv[1:]))


if __name__ == "__main__":
    main()
