"""A folder of photographs to a folder of aligned crops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from frtrain.alignment.crops import CropStyle, CropWriter
from frtrain.alignment.detector import Detector, Face
from frtrain.alignment.photographs import Listing, list_photographs, plan_outputs
from frtrain.alignment.reading import Photograph, SizeBatches, read_ahead
from frtrain.alignment.report import Record, open_report
from frtrain.errors import ConfigError, ImageError
from frtrain.signals import StoppedError, StopRequest


@dataclass(frozen=True)
class Summary:
    """What is in the report after a call, for the photographs of the source.

    Attributes:
        listing: what was found in the source.
        outcomes: photographs by outcome, those of earlier calls included.
        earlier: how many of them were done by earlier calls.
        second_search: faces found only by the detector's second search.
        several_faces: photographs in which a face had to be chosen.
    """

    listing: Listing
    outcomes: Counter[str]
    earlier: int
    second_search: int
    several_faces: int


class Watcher:
    """Is told how far the work is. This one hears nothing."""

    def start(self, total: int, done: int) -> None:
        """Called once: `total` photographs, `done` of them by earlier calls."""

    def advance(self, record: Record) -> None:
        """Called after each photograph."""


def align(
    source: Path,
    target: Path,
    detector: Detector,
    style: CropStyle,
    *,
    detector_settings: Mapping[str, Any],
    batch_size: int,
    limit: int | None = None,
    redo: bool = False,
    watcher: Watcher | None = None,
) -> Summary:
    """Detect, choose, align and write every photograph beneath `source` that is not done yet.

    Args:
        source: folder of photographs, of any depth.
        target: folder of crops, with the same folders, and the report `align.jsonl`.
        detector: finds the faces.
        style: of the crops.
        detector_settings: plain values that describe the detector; a later call must have the same.
        batch_size: photographs of one size that the detector gets at once, at most.
        limit: only the first so many photographs; None: all.
        redo: delete the crops of earlier calls and start anew.
        watcher: is told of every photograph.

    Raises:
        DataError: the source holds no images; the target is unusable, or its disk is full.
        ConfigError: source and target overlap, or the target holds crops made with other settings.
        StoppedError: SIGINT, SIGTERM or SIGUSR1 came. Whatever was finished is in the report; the same call goes on.
    """
    watcher = watcher or Watcher()
    with StopRequest() as stop:
        _check_apart(source, target)
        listing = list_photographs(source, target)
        photographs = listing.photographs[:limit]
        settings = {"source": str(source.resolve()), "detector": dict(detector_settings), **asdict(style)}
        with open_report(target, settings, redo) as report:
            recorded = {path: record.output for path, record in report.records.items() if record.output}
            outputs = plan_outputs(listing.photographs, f".{style.format}", recorded)
            pending = [path for path in photographs if path not in report.records]
            watcher.start(len(photographs), len(photographs) - len(pending))
            with closing(read_ahead(source, pending)) as decoded:
                for record in _records(decoded, detector, CropWriter(target, style), outputs, batch_size, stop):
                    report.append(record)
                    watcher.advance(record)
            done = [report.records[path] for path in photographs if path in report.records]
    if stop.signal is not None and len(done) < len(photographs):
        raise StoppedError(
            stop.signal,
            f"{len(done)} of {len(photographs)} photographs are done; the same command goes on from there",
        )
    return Summary(
        listing=listing,
        outcomes=Counter(record.outcome for record in done),
        earlier=len(photographs) - len(pending),
        second_search=sum(record.outcome == "aligned" and record.reason is not None for record in done),
        several_faces=sum(record.faces > 1 for record in done),
    )


def _check_apart(source: Path, target: Path) -> None:
    read, written = source.resolve(), target.resolve()
    if read == written:
        raise ConfigError(f"target={target} is the source: choose another folder, the photographs stay as they are")
    if written.is_relative_to(read):
        raise ConfigError(f"target={target} lies inside source={source}: the crops would be taken for photographs")
    if read.is_relative_to(written):
        raise ConfigError(f"source={source} lies inside target={target}: the crops would mingle with the photographs")


def _records(
    decoded: Iterable[tuple[str, Photograph | ImageError]],
    detector: Detector,
    crops: CropWriter,
    outputs: Mapping[str, str],
    batch_size: int,
    stop: StopRequest,
) -> Iterator[Record]:
    """One record per photograph, its crop written; ends early, after the batch in hand, on a stop request."""
    groups = SizeBatches(batch_size)

    def aligned(batch: list[Photograph]) -> Iterator[Record]:
        for photograph, (faces, failure) in zip(batch, _search(detector, batch), strict=True):
            yield crops.write(photograph, faces, outputs[photograph.path], failure)

    for path, result in decoded:
        if stop.signal is not None:
            return
        if isinstance(result, ImageError):
            yield Record(path, "unreadable", reason=result.reason)
        elif batch := groups.add(result):
            yield from aligned(batch)
    for batch in groups.rest():
        if stop.signal is not None:
            return
        yield from aligned(batch)


def _search(detector: Detector, batch: list[Photograph]) -> list[tuple[list[Face], str | None]]:
    """The faces of each photograph, or why it could not be searched: one bad photograph must not cost the batch."""
    try:
        return [(faces, None) for faces in detector.detect([photograph.image for photograph in batch])]
    except (RuntimeError, IndexError, ValueError) as error:  # out of memory, and what a network makes of odd input
        if len(batch) == 1:
            return [([], f"the detector failed ({type(error).__name__}: {error})")]
    return [found for photograph in batch for found in _search(detector, [photograph])]
