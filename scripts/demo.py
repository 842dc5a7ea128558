"""What `make demo` runs: photographs -> aligned crops -> training -> verification, all on synthetic faces, on any CPU.

Everything is written below --folder. Each step prints the command that does the same by hand.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from frtrain.data.synthetic import write_photographs

FIRST_UNSEEN_IDENTITY = 100_000
"""The default training data use identities from 0 on: these people are strangers to the network."""


def frtrain(*arguments: str) -> None:
    print(f"\n$ python -m frtrain {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "frtrain", *arguments], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="emptied first (default: demo)")
    parser.add_argument("--identities", type=int, default=40, help="strangers to photograph")
    parser.add_argument("--photographs", type=int, default=5, help="of each stranger")
    parser.add_argument("overrides", nargs="*", help="passed on to training, e.g. trainer.epochs=2")
    options = parser.parse_args()

    began = time.monotonic()
    folder: Path = options.folder
    for name in ("photographs", "crops", "run"):
        shutil.rmtree(folder / name, ignore_errors=True)
    photographs, crops, run = folder / "photographs", folder / "crops", folder / "run"

    print(f"drawing {options.identities * options.photographs} photographs of {options.identities} people", flush=True)
    write_photographs(
        photographs,
        identities=options.identities,
        images_per_identity=options.photographs,
        seed=0,
        first_identity=FIRST_UNSEEN_IDENTITY,
    )
    frtrain("align", f"source={photographs}", f"target={crops}")
    frtrain(f"run_dir={run}", *options.overrides)
    frtrain("evaluate", f"model={run}", "suite=folder", f"suite.root={crops}")

    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    held_out = accuracy(run / "evaluations" / "held_out" / "report.json")
    strangers = accuracy(run / "evaluations" / "folder" / "report.json")
    print(
        f"\nThe demo took {minutes}:{seconds:02d} min.\n"
        f"  accuracy on held-out identities of the training data   {held_out}\n"
        f"  accuracy on the aligned photographs of strangers       {strangers}\n"
        f"  report with pictures   {run / 'report.html'}\n"
        f"  the strangers' report  {run / 'evaluations' / 'folder' / 'report.html'}\n"
        f"  curves, pictures       tensorboard --logdir {run / 'tensorboard'}\n"
        "Next: your own photographs. See README.md."
    )


def accuracy(report: Path) -> str:
    measured = json.loads(report.read_text(encoding="utf-8"))["verification"]["accuracy"]
    return f"{measured['mean']:.2%} ± {measured['standard_error']:.2%}"


if __name__ == "__main__":
    main()
