"""Write photographs of synthetic people to a folder, as input for `python -m frtrain align`.

python scripts/make_synthetic_photographs.py --target /tmp/photographs --identities 20 --images-per-identity 8
"""

from __future__ import annotations

import argparse
from pathlib import Path

from frtrain.data.synthetic.photograph import write_photographs


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--target", type=Path, required=True, help="folder for <identity>/<number>.jpg")
    parser.add_argument("--identities", type=int, default=20)
    parser.add_argument("--images-per-identity", type=int, default=8)
    parser.add_argument("--first-identity", type=int, default=0, help="number of the first person")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=250, help="width and height in pixels")
    arguments = parser.parse_args()
    count = write_photographs(
        arguments.target,
        arguments.identities,
        arguments.images_per_identity,
        arguments.seed,
        arguments.size,
        arguments.first_identity,
    )
    print(f"{count} photographs of {arguments.identities} people in {arguments.target}")


if __name__ == "__main__":
    main()
