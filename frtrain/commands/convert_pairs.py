"""Verification packs for `frtrain convert`: pairs of a data set into InsightFace's `.bin`, and back."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from frtrain.data.encoded import EncodedSource, decode_crop
from frtrain.data.formats.verification_pack import VerificationPack, read_pack, write_pack
from frtrain.data.images import EXTENSIONS
from frtrain.data.manifest import escaped, unescaped
from frtrain.data.packs import open_pack
from frtrain.data.packs.conversion import Told, WrittenFolder, check_written, copy_images
from frtrain.data.packs.target import unwritable
from frtrain.errors import ConfigError, DataError
from frtrain.evaluation.pairs import pairs_from_labels, read_lfw_pairs
from frtrain.files import read_text_file, write_atomically
from frtrain.signals import StoppedError, StopRequest

PAIRS, LFW_PAIRS = "pairs.tsv", "pairs.txt"
NAMED_IN_ERROR = 3


class Bars(Protocol):
    """Opens a progress bar; what it returns is told how many images are done and how many bytes the last one had."""

    def __call__(self, what: str, total: int | None = None, done: int = 0) -> Told: ...  # noqa: D102 (see the class)


def is_verification_pack(source: Path) -> bool:
    """Whether a source is InsightFace's `.bin`, by its name."""
    return source.suffix.lower() == ".bin" and not source.is_dir()


def pack_pairs(
    source: EncodedSource,
    pairs: str | int,
    seed: int,
    target: Path,
    stop: StopRequest,
    bar: Bars,
    *,
    decode: bool,
    verify: bool,
    redo: bool,
) -> list[str]:
    """Write pairs of images as a verification pack, and return what there is to say about it.

    Args:
        source: the images.
        pairs: path of a pair list, or how many pairs to draw from the labels.
        seed: of the draw.
        target: the file.
        stop: asked before each image; a pack is one file, and begun anew after a stop.
        bar: opens a progress bar.
        decode: decode every image on the way.
        verify: read the pack back and compare.
        redo: replace a file that is there.

    Raises:
        ConfigError: the target exists.
        DataError: the list is malformed or names images that `source` lacks; the target cannot be written.
        ImageError: an image cannot be read, or decoded.
        StoppedError: a stop signal came; nothing is left behind.
    """
    if target.exists() and not redo:
        raise ConfigError(f"target={target} exists: choose another name, or replace it with redo=true")
    if target.exists() and not _is_pickle(target):
        raise ConfigError(
            f"target={target} is no verification pack, and redo=true replaces nothing else: choose another name"
        )
    rows, genuine = _drawn(source, pairs, seed) if isinstance(pairs, int) else _listed(source, Path(pairs).expanduser())
    started, copied = time.monotonic(), 0
    told = bar("copying", rows.size)

    def image(index: int) -> bytes:
        nonlocal copied
        data = source.encoded(index)
        if not data:
            raise DataError(f"{source.describe(index)}: is empty (0 bytes)")
        if decode:
            decode_crop(data, source.describe(index))
        copied += len(data)
        return data

    def images() -> Iterator[bytes]:
        for done, index in enumerate(rows.reshape(-1).tolist(), start=1):
            if stop.signal is not None:
                raise StoppedError(stop.signal, f"nothing of {target} is written; the same command begins anew")
            data = image(index)
            yield data
            told(done, len(data))

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_pack(target, images(), genuine)
    except OSError as error:
        raise unwritable(target, error) from None
    lines = [
        f"{len(genuine):,} pairs, {int(genuine.sum()):,} of them genuine: {rows.size:,} images, {copied / 1e6:,.1f} MB, "
        f"in {target}, in {time.monotonic() - started:.1f} s."
    ]
    if isinstance(pairs, int) and len(genuine) < pairs:
        lines.append(f"pairs={pairs:,} were asked for; the images allow no more than these, half of them genuine.")
    if verify:
        written = read_pack(target)
        same = all(written.images[at] == source.encoded(index) for at, index in enumerate(rows.reshape(-1).tolist()))
        if not same or not np.array_equal(written.genuine, genuine):
            raise DataError(
                f"target={target}: what was read back differs from what was written; make it anew with redo=true"
            )
        lines.append("Read back and compared: all is as it was written.")
    return lines


def _is_pickle(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return path.is_file() and file.read(1) == pickle.PROTO
    except OSError:
        return False


class _Unpacked(EncodedSource):
    """The images of a pack, named as LFW names its own: a genuine pair is an identity, an impostor pair two."""

    def __init__(self, pack: VerificationPack):
        digits = max(len(str(len(pack))), 6)
        self._images = pack.images
        self.classes: list[str] = []
        labels, self._names = [], []
        for number, genuine in enumerate(pack.genuine.tolist(), start=1):
            people = [f"pair{number:0{digits}d}"] if genuine else [f"pair{number:0{digits}d}{side}" for side in "ab"]
            for side, person in enumerate((people[0], people[-1])):
                labels.append(len(self.classes) + (0 if genuine else side))
                self._names.append(f"{person}/{person}_{side + 1 if genuine else 1:04d}")
            self.classes += people
        self.labels: NDArray[np.int64] = np.array(labels, dtype=np.int64)
        self.fingerprint = f"verification pack:{len(pack)} pairs"

    def encoded(self, index: int) -> bytes:
        """The image."""
        return self._images[index]

    def name(self, index: int) -> str:
        """Without an extension: the folder adds it by the kind of image."""
        return self._names[index]


def unpack_pairs(
    source: Path, target: Path, stop: StopRequest, bar: Bars, *, decode: bool, verify: bool, redo: bool
) -> list[str]:
    """Write the images of a verification pack into a folder, its pairs into lists beside them, and say what was done.

    `pairs.tsv` has a line per pair, in the order of the pack. `pairs.txt` has the same in LFW's format, where the pack
    has its order: genuine pairs, then as many impostor pairs, in each fold.

    Args:
        source: the pack.
        target: the folder.
        stop: asked before each image.
        bar: opens progress bars.
        decode: decode every image on the way.
        verify: read the folder back and compare.
        redo: replace a folder of an earlier call.

    Raises:
        ConfigError, DataError: as `read_pack` and `frtrain.data.packs.open_pack`.
        StoppedError: a stop signal came; the same call goes on.
    """
    pack = read_pack(source)
    images = _Unpacked(pack)
    status = source.stat()
    settings = {"source": str(source.resolve()), "size": status.st_size, "pairs": len(pack)}
    started = time.monotonic()
    with open_pack("folder", target, settings, classes=images.classes, redo=redo, beside=(PAIRS, LFW_PAIRS)) as writer:
        facts = copy_images(images, writer, stop, bar("copying", len(images), writer.written), decode)
        written = WrittenFolder(target)
        try:
            _write_lists(target, written, pack.genuine)
        except OSError as error:
            raise unwritable(target, error) from None
        lines = [
            f"{len(pack):,} pairs, {int(pack.genuine.sum()):,} of them genuine: {facts.images:,} images, "
            f"{facts.bytes / 1e6:,.1f} MB, in {target}, in {time.monotonic() - started:.1f} s.",
            f"Pairs: {target / PAIRS}"
            + (f", and for suite=lfw_view2 {target / LFW_PAIRS}." if _folds(pack.genuine) else "."),
        ]
        if verify:
            check_written(written, facts, target, stop, bar("verifying", len(written)))
            lines.append("Read back and compared: all is as it was written.")
    return lines


def _write_lists(target: Path, images: EncodedSource, genuine: NDArray[np.bool_]) -> None:
    names = [images.name(index) for index in range(len(images))]
    lines = [
        f"{escaped(left)}\t{escaped(right)}\t{int(same)}\n"
        for left, right, same in zip(names[::2], names[1::2], genuine.tolist(), strict=True)
    ]
    write_atomically(target / PAIRS, "".join(lines))
    folds = _folds(genuine)
    (target / LFW_PAIRS).unlink(missing_ok=True)
    if folds:
        people = [images.classes[label] for label in images.labels.tolist()]
        per_kind = len(genuine) // (2 * folds)
        listed = [f"{folds}\t{per_kind}\n" if folds > 1 else f"{per_kind}\n"]
        for left, right, same in zip(people[::2], people[1::2], genuine.tolist(), strict=True):
            listed.append(f"{left}\t1\t2\n" if same else f"{left}\t1\t{right}\t1\n")
        write_atomically(target / LFW_PAIRS, "".join(listed))


def _folds(genuine: NDArray[np.bool_]) -> int:
    """How many folds the order shows: each begins with genuine pairs and goes on with as many impostor pairs; 0: none."""
    if len(genuine) == 0 or genuine.all() or not genuine[0]:
        return 0
    per_kind = int(np.argmin(genuine))
    folds, rest = divmod(len(genuine), 2 * per_kind)
    is_regular = not rest and np.array_equal(genuine, np.tile(np.repeat([True, False], per_kind), folds))
    return folds if is_regular else 0


def _drawn(source: EncodedSource, pairs: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows `[P, 2]` and whether they are genuine, fold after fold: InsightFace cuts a pack into ten consecutive parts."""
    drawn = pairs_from_labels(source.labels, pairs, seed)
    order = np.argsort(drawn.fold, kind="stable")
    return np.stack([drawn.left, drawn.right], axis=1)[order], drawn.genuine[order]


def _listed(source: EncodedSource, path: Path) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """As `_drawn`, of a list in the form of `pairs.tsv` or LFW's."""
    left, right, genuine = _read_tsv(path) or _read_lfw(path)
    wanted = {*left, *right}
    found: dict[str, tuple[bool, str, int]] = {}
    for index in range(len(source)):
        name = source.name(index)
        stem, dot, extension = name.rpartition(".")
        keys = (name, stem) if f"{dot}{extension}".lower() in EXTENSIONS else (name,)
        for key in keys:
            if key in wanted:  # the whole name goes before a stem, and then the alphabet decides
                found[key] = min(found.get(key, (True, "\U0010ffff", -1)), (key != name, name, index))
    missing = sorted(wanted - found.keys())
    if missing:
        raise DataError(
            f"pairs={path}: {len(missing):,} of {len(wanted):,} images are not in the source, e.g. "
            f"{', '.join(missing[:NAMED_IN_ERROR])}"
        )
    rows = [(found[one][2], found[other][2]) for one, other in zip(left, right, strict=True)]
    return np.array(rows, dtype=np.int64).reshape(-1, 2), genuine


def _read_lfw(path: Path) -> tuple[Sequence[str], Sequence[str], NDArray[np.bool_]]:
    pairs = read_lfw_pairs(path)
    order = np.argsort(pairs.fold, kind="stable").tolist()
    return [pairs.left[at] for at in order], [pairs.right[at] for at in order], pairs.genuine[order]


def _read_tsv(path: Path) -> tuple[Sequence[str], Sequence[str], NDArray[np.bool_]] | None:
    """`left<TAB>right<TAB>1 or 0` in every line; None where the first line is another."""
    try:
        text = read_text_file(path)
    except OSError as error:
        raise DataError(f"pairs={path}: cannot be read ({error.strerror or error})") from None
    rows = [line.rstrip("\r").split("\t") for line in text.split("\n") if line.strip()]
    if not rows or len(rows[0]) != 3 or rows[0][2] not in ("0", "1"):
        return None
    for number, row in enumerate(rows, start=1):
        if len(row) != 3 or row[2] not in ("0", "1"):
            raise DataError(f"pairs={path}: pair {number}: expected two names and 1 or 0, with tabs between them")
    left, right, same = zip(*rows, strict=True)
    return [unescaped(name) for name in left], [unescaped(name) for name in right], np.array(same) == "1"
