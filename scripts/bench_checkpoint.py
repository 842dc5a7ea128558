"""What a checkpoint costs: how long training stands still, and how long writing, verifying and reading take.

    python scripts/bench_checkpoint.py                                     # iresnet50, 100 000 classes, SGD with momentum
    python scripts/bench_checkpoint.py --backbone iresnet18 --classes 10000 --rounds 5

The reference is `torch.save` of the same tensors into one file, followed by fsync, since a checkpoint that a power cut takes
back is none. The modes take turns for `--rounds` rounds, and the fastest of each counts. Of the background mode, the first round allocates
its buffers; it is shown by itself.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import cast

import torch
from torch import nn

from frtrain.backbones import BACKBONES
from frtrain.classifier.centres import first_centres
from frtrain.commands.composition import group_defaults
from frtrain.files import sync_file
from frtrain.processes import ALONE
from frtrain.training.checkpoint import optimizer_tensors
from frtrain.training.checkpoint_index import Facts
from frtrain.training.checkpoint_reading import StoredCheckpoint
from frtrain.training.checkpoint_thread import CheckpointWriter, Written
from frtrain.training.checkpoint_writing import Content
from frtrain.training.restoring import restore_part
from frtrain.training.shards import collected


def content_of(backbone_name: str, classes: int, device: torch.device) -> Content:
    """Everything that a run with this backbone and so many classes keeps."""
    network = BACKBONES.build(group_defaults("backbone", backbone_name))
    backbone = cast(nn.Module, network).to(device).to(memory_format=torch.channels_last)
    classifier = nn.Module()
    centres = first_centres(0, classes, network.embedding_size, 0.01, seed=1)
    classifier.register_parameter("centres", nn.Parameter(centres.to(device)))
    parameters = {
        f"{part}.{name}": parameter
        for part, module in (("backbone", backbone), ("classifier", classifier))
        for name, parameter in module.named_parameters()
    }
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1, momentum=0.9)
    for parameter in parameters.values():
        optimizer.state[parameter]["momentum_buffer"] = torch.rand_like(parameter)
    parts = {
        "backbone": backbone.state_dict(),
        "classifier": classifier.state_dict(),
        "optimizer": optimizer_tensors(optimizer, parameters),
    }
    facts = Facts({"step": 1, "best_step": None}, {}, "", {})
    return Content(
        collected(parts, alike=parameters.keys()), facts, [f"identity_{number}" for number in range(classes)]
    )


def saved_by_torch(folder: Path, content: Content) -> float:
    """Seconds of `torch.save` and fsync."""
    tensors = {part: {name: piece.tensor for name, piece in named.items()} for part, named in content.pieces.items()}
    began = time.perf_counter()
    torch.save(tensors, folder / "reference.pt")
    sync_file(folder / "reference.pt")
    return time.perf_counter() - began


def written(writer: CheckpointWriter, folder: Path, content: Content) -> Written:
    """A checkpoint, written and removed again; all of the stall is counted, none of the waiting for the thread."""
    writer.begin(folder / "step-1", content)
    while writer.pending:
        if done := writer.completed():
            shutil.rmtree(folder / "step-1")
            return done
        time.sleep(0.01)
    raise AssertionError("nothing was under way")


def seconds(call: Callable[[], object]) -> float:
    """Of a call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="iresnet50")
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where it is written; default: the system's temporary folder"
    )
    arguments = parser.parse_args()

    torch.manual_seed(0)
    content = content_of(arguments.backbone, arguments.classes, torch.device(arguments.device))
    megabytes = content.bytes / 1e6
    folder = Path(tempfile.mkdtemp(prefix="bench_checkpoint_", dir=arguments.folder))
    print(
        f"{arguments.backbone}, {arguments.classes:,} classes, SGD with momentum: {megabytes:,.0f} MB; {arguments.device}, torch "
        f"{torch.__version__}, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}, {date.today()}"
    )
    try:
        writers = {name: CheckpointWriter(ALONE, name == "background") for name in ("foreground", "background")}
        reference: list[float] = []
        stalls: dict[str, list[float]] = {name: [] for name in writers}
        writes: dict[str, list[float]] = {name: [] for name in writers}
        for _ in range(arguments.rounds + 1):  # the first one warms up
            reference.append(saved_by_torch(folder, content))
            (folder / "reference.pt").unlink()
            for name, writer in writers.items():
                done = written(writer, folder, content)
                stalls[name].append(done.stall_seconds)
                writes[name].append(done.write_seconds)
        best = min(reference[1:])
        print(f"{'':32s} stall, ms   ratio   write, s    MB/s   ratio")
        print(
            f"{'torch.save and fsync':32s} {best * 1e3:9,.0f}   {1:5.2f}   {best:8.2f}   {megabytes / best:5,.0f}   {1:5.2f}"
        )
        for name in writers:
            stall, write = min(stalls[name][1:]), min(writes[name][1:])
            label = f"checkpoint.background={str(name == 'background').lower()}"
            print(
                f"{label:32s} {stall * 1e3:9,.0f}   {stall / best:5.2f}   {write:8.2f}   {megabytes / write:5,.0f}   {write / best:5.2f}"
            )
        print(f"the first background checkpoint of a run, which allocates: {stalls['background'][0] * 1e3:,.0f} ms")
        writers["foreground"].begin(folder / "step-1", content)
        writers["foreground"].wait()
        stored = StoredCheckpoint.at(folder / "step-1")
        verified = min(seconds(stored.verify) for _ in range(arguments.rounds))

        def restore() -> None:
            for part, named in content.pieces.items():
                restore_part(stored, part, named)

        read = min(seconds(restore) for _ in range(arguments.rounds))
        print(f"verify all checksums: {verified:.2f} s; read into a run: {read:.2f} s")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
