"""Class centres of a trained model in a file of their own, by identity name.

They are what a loss has learned of each training identity: a prototype to compare embeddings with, or the beginning of another
training.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frtrain.errors import CheckpointError
from frtrain.files import atomic_file, write_atomically
from frtrain.training.checkpoint_reading import StoredCheckpoint, StoredPart
from frtrain.training.tensor_files import HashedFile, bytes_of, header_of

ENDINGS = (".safetensors", ".npz")


@dataclass(frozen=True)
class Centres:
    """The class centres of a checkpoint, which are read block by block.

    Attributes:
        checkpoint: whose they are.
        stored: its classifier, open.
        per_class: K, sub-centres of a class.
        names: of what there is: `centres`, and `bias` where the loss has one.
    """

    checkpoint: StoredCheckpoint
    stored: StoredPart
    per_class: int
    names: tuple[str, ...]

    @classmethod
    def of(cls, checkpoint: StoredCheckpoint, stored: StoredPart) -> Centres:
        """Those of a checkpoint.

        Raises:
            CheckpointError: their number does not fit that of the identities.
        """
        rows, classes = stored.shape("centres")[0], len(checkpoint.classes)
        if not classes or rows % classes:
            raise CheckpointError(f"{checkpoint.path}: has {rows} centres for {classes} identities")
        return cls(checkpoint, stored, rows // classes, tuple(n for n in ("centres", "bias") if n in stored.names))

    def shape(self, name: str) -> tuple[int, ...]:
        """`[C, d]` and `[C]`; with K sub-centres a class `[C, K, d]` and `[C, K]`."""
        rows, *rest = self.stored.shape(name)
        sub_centres = [self.per_class] if self.per_class > 1 else []
        return (rows // self.per_class, *sub_centres, *rest)

    def blocks(self, name: str) -> Iterator[memoryview]:
        """The numbers, float32, row after row."""
        for _, block in self.stored.blocks(name):
            yield bytes_of(block.to(torch.float32).contiguous())


def export_centres(checkpoint: StoredCheckpoint, target: Path) -> list[Path]:
    """Write the class centres of a checkpoint, float32, with the names of their identities.

    Memory is needed for one block of rows, whatever the number of identities. `<target>.safetensors` has `centres` `[C, d]`
    (sub-centres: `[C, K, d]`) and, where the loss has one, `bias`; `<target>.json` beside it the names in the same order, and what
    the centres are of. `<target>.npz` has both and the names as `identities`; it needs no pickle to be read.

    Args:
        checkpoint: whose files are verified here.
        target: the file; its ending, one of `ENDINGS`, decides the form.

    Returns:
        The files.

    Raises:
        CheckpointError: the checkpoint is damaged.
        OSError: the disk is full; nothing half-written is left.
    """
    checkpoint.verify(("classifier",))
    with checkpoint.opened("classifier") as stored:
        centres = Centres.of(checkpoint, stored)
        if target.suffix == ".npz":
            _write_npz(centres, target)
            return [target]
        digest = _write_safetensors(centres, target)
    names = target.with_suffix(".json")
    write_atomically(
        names, json.dumps({**described(checkpoint), "sha256": digest, "identities": checkpoint.classes}, indent=1)
    )
    return [target, names]


def described(checkpoint: StoredCheckpoint) -> dict[str, Any]:
    """What the centres are of: plain values for JSON."""
    config = checkpoint.config
    return {
        "checkpoint": str(checkpoint.path),
        "step": checkpoint.state["step"],
        "loss": config["loss"]["name"],
        "backbone": config["backbone"]["name"],
        "fingerprint": checkpoint.fingerprint,
    }


def _write_safetensors(centres: Centres, target: Path) -> str:
    header = header_of({name: (torch.float32, centres.shape(name)) for name in centres.names}, {"format": "pt"})
    with atomic_file(target) as raw:
        file = HashedFile(raw)
        file.write(header)
        for name in centres.names:
            for block in centres.blocks(name):
                file.write(block)
        return file.synced().sha256


def _write_npz(centres: Centres, target: Path) -> None:
    with atomic_file(target) as raw, zipfile.ZipFile(raw, "w", zipfile.ZIP_STORED) as archive:
        for name in centres.names:
            shape = centres.shape(name)
            with archive.open(f"{name}.npy", "w", force_zip64=4 * math.prod(shape) > 2**31) as file:
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for block in centres.blocks(name):
                    file.write(block)
        with archive.open("identities.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, np.array(centres.checkpoint.classes, dtype=np.str_), allow_pickle=False)
