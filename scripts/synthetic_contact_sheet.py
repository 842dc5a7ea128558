"""Draw a sheet of synthetic faces: one identity per row, one photograph per column.

python scripts/synthetic_contact_sheet.py --target sheet.png --identities 8 --samples 10
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from frtrain.data.images import write_png_or_jpeg
from frtrain.data.synthetic.conditions import draw_conditions
from frtrain.data.synthetic.identity import draw_person
from frtrain.data.synthetic.photograph import render_crop, render_photograph


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--target", type=Path, required=True, help="picture to write (.png or .jpg)")
    parser.add_argument("--identities", type=int, default=8)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--first-identity", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--photographs", type=int, metavar="SIZE", help="whole photographs of SIZE pixels, not crops")
    arguments = parser.parse_args()
    rows = []
    for identity in range(arguments.first_identity, arguments.first_identity + arguments.identities):
        person = draw_person(arguments.seed, identity)
        conditions = [draw_conditions(arguments.seed, identity, sample) for sample in range(arguments.samples)]
        if arguments.photographs:
            row = [render_photograph(person, sample, arguments.photographs)[0] for sample in conditions]
        else:
            row = [render_crop(person, sample) for sample in conditions]
        rows.append(np.concatenate(row, axis=1))
    write_png_or_jpeg(arguments.target, np.concatenate(rows, axis=0))


if __name__ == "__main__":
    main()
