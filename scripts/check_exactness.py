"""One process against several: the loss of each step and the weights at the end, in one table.

    python scripts/check_exactness.py experiment=lfw_view1 data.root=/faces/lfw/crops subset.include=/faces/lfw/peopleDevTrain.txt
    python scripts/check_exactness.py --processes 3 --steps 200 --precisions fp64 loss=curricularface

Overrides are those of `python -m frtrain`. Each run takes `--steps` steps with a schedule of that length; the suite at the end is left
out. What is compared is the loss that a run publishes, step by step: the largest relative difference so far, the step at which it
first exceeds 1e-5, and how far apart the weights are at the end, |a - b| / |a| over all of them. The control is one more run of one
process that computes the same in another order of its sums (`--control`): where rounding errors grow, they grow there, too.
Runs are kept in `--out` and not repeated if they are there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from frtrain.commands import train as command
from frtrain.commands.composition import compose_plain
from frtrain.config import TrainConfig
from frtrain.schema import parse
from frtrain.training.checkpoint import read_checkpoint
from frtrain.training.distributed import process_group
from frtrain.training.run_folder import checkpoint_of

TOLERANCE = 1e-5
MARKS = (1, 5, 10, 20, 50, 100, 200)
"""Steps after which the largest difference so far is shown."""

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Finished:
    """A run that is over: what it published, step by step, and its weights."""

    scalars: list[dict[str, float]]
    weights: Weights

    @property
    def losses(self) -> torch.Tensor:
        """`float64 [steps]`."""
        return torch.tensor([line["train/loss"] for line in self.scalars], dtype=torch.float64)

    def mean(self, name: str) -> float:
        """Of a scalar over the steps but the first, which has the start of everything in it."""
        values = [line[name] for line in self.scalars[1:] if line.get(name) is not None]
        return sum(values) / len(values) if values else float("nan")


def train_here(folder: Path, steps: int, overrides: list[str]) -> None:
    """Train in this process, or as one of torchrun's."""
    values: dict[str, Any] = compose_plain("train", overrides)
    values["suite"] = None
    values["run_dir"] = str(folder)
    values["trainer"]["max_steps"] = steps
    values["log"] |= {"every_steps": 1, "tensorboard": False, "pictures_every_epochs": None, "progress": "none"}
    config = parse(TrainConfig, values)
    with process_group():
        command.check(config)
        command.run(config)


def run(folder: Path, processes: int, steps: int, overrides: list[str]) -> Finished:
    """Train with so many processes, one thread each, unless the folder holds the finished run."""
    done = folder / "done"
    if not done.exists():
        launch = (
            [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        )
        own = [str(Path(__file__).resolve()), "--train-in", str(folder), "--steps", str(steps), *overrides]
        began = time.monotonic()
        subprocess.run([sys.executable, *launch, *own], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        done.write_text(f"{time.monotonic() - began:.0f} s\n")
    scalars = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tensors = read_checkpoint(checkpoint_of(folder)).tensors
    weights = {f"{part}.{name}": value for part in ("backbone", "classifier") for name, value in tensors[part].items()}
    return Finished(scalars, {name: value for name, value in weights.items() if value.is_floating_point()})


def row(name: str, one: Finished, other: Finished) -> str:
    """One line of the table."""
    relative = (other.losses - one.losses).abs() / one.losses.abs().clamp(min=1e-30)
    so_far = relative.cummax(0).values
    beyond = (relative > TOLERANCE).nonzero().flatten()
    crossed = str(int(beyond[0]) + 1) if len(beyond) else "never"
    cells = [f"{float(so_far[mark - 1]):.1e}" if mark <= len(so_far) else "" for mark in MARKS]
    ours, theirs = (torch.cat([run.weights[key].double().flatten() for key in one.weights]) for run in (one, other))
    apart = float((ours - theirs).norm() / ours.norm())
    seconds, share = other.mean("speed/images_per_second"), other.mean("speed/communication_share")
    return f"| {name} | {' | '.join(cells)} | {crossed} | {apart:.1e} | {seconds:.0f} | {share:.0%} |"


def main() -> None:
    """Run and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--precisions", nargs="+", default=["fp64", "fp32", "bf16"])
    parser.add_argument("--control", default="classifier=chunked", help="override of the control run; empty: none")
    parser.add_argument("--out", type=Path, default=Path("runs/exactness"))
    parser.add_argument("--train-in", type=Path, help=argparse.SUPPRESS)
    arguments, overrides = parser.parse_known_args()
    if arguments.train_in is not None:
        train_here(arguments.train_in, arguments.steps, overrides)
        return
    marks = " | ".join(f"≤ step {mark}" for mark in MARKS)
    lines = [
        f"| against one process | {marks} | beyond {TOLERANCE:.0e} at step | weights apart | images/s | communication |",
        "|---|" + "---|" * (len(MARKS) + 4),
    ]
    for precision in arguments.precisions:
        common = [*overrides, f"trainer.precision={precision}"]
        runs = {"one": (1, common), f"{arguments.processes} processes": (arguments.processes, common)}
        if arguments.control:
            runs[f"control, {arguments.control}"] = (1, [*common, arguments.control])
        finished = {
            name: run(arguments.out / f"{precision}-{number}", count, arguments.steps, given)
            for number, (name, (count, given)) in enumerate(runs.items())
        }
        one = finished.pop("one")
        lines += [row(f"{precision}, {name}", one, other) for name, other in finished.items()]
        print(f"{precision}: one process {one.mean('speed/images_per_second'):.0f} images/s", flush=True)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
