"""A folder of photographs to a folder or pack of aligned crops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from frtrain.alignment.crops import CropMaker, CropStyle, FolderSink
from frtrain.alignment.detector import Detector
from frtrain.alignment.landmarks import Landmarks, read_landmarks
from frtrain.alignment.packing import PackPlan, To, plan_pack, write_pack
from frtrain.alignment.photographs import Links, Listing, list_photographs, plan_outputs
from frtrain.alignment.report import SECOND_SEARCH, Record
from frtrain.alignment.session import Report, finishing, gather_parts, open_report, others_at_work, read_brief
from frtrain.alignment.shards import ALONE, Rank
from frtrain.alignment.spool import Spool, SpoolSink
from frtrain.alignment.target import FINISHING_NAME, unwritable
from frtrain.alignment.work import Assignment, LazyDetector, align_photographs
from frtrain.alignment.workers import Job, align_in_processes
from frtrain.data.packs.target import check_apart
from frtrain.errors import DataError
from frtrain.signals import StoppedError, StopRequest


@dataclass(frozen=True)
class Request:
    """What is to be aligned, and how.

    Attributes:
        source: folder of photographs, of any depth.
        target: folder of crops, with the same folders, or of the pack; and the report `align.jsonl`.
        style: of the crops.
        build_detector: makes the detector. Called in every worker, so it must be picklable where there are workers.
        detector_settings: plain values that describe the detector; a later call must have the same.
        batch_size: photographs that the detector gets at once, at most.
        to: what the crops are written as.
        workers: processes that work beside this one; 0: all is done in this one.
        shared_detector: the detector stays in this process and serves all workers, as one on a GPU should.
        landmarks: CSV file of five landmarks per photograph; None: the detector finds all.
        landmarks_missing: what becomes of photographs without a line there.
        links: whether links that lead outside of the source are followed.
        limit: only the first so many photographs; None: all.
        redo: delete the crops of earlier calls and start anew.
        rank: which share of the photographs is this process's.
    """

    source: Path
    target: Path
    style: CropStyle
    build_detector: Callable[[], Detector]
    detector_settings: Mapping[str, Any]
    batch_size: int
    to: To = "folder"
    workers: int = 0
    shared_detector: bool = False
    landmarks: Path | None = None
    landmarks_missing: Literal["detect", "skip"] = "detect"
    links: Links = "inside"
    limit: int | None = None
    redo: bool = False
    rank: Rank = ALONE


@dataclass(frozen=True)
class Summary:
    """What is in the report after a call, for the photographs of the source, or of this rank's share.

    Attributes:
        listing: what was found in the source.
        outcomes: photographs by outcome, those of earlier calls included.
        earlier: how many of this process's photographs were done by earlier calls.
        now: how many it did.
        second_search: faces found only by the detector's second search.
        several_faces: photographs in which a face had to be chosen.
        unknown_landmarks: lines of the landmarks' file that name no photograph.
        pack: what is in the pack; None where crops are files, or it is not complete.
        left_to_others: photographs that other ranks had left to do; None: this process saw the end of all.
    """

    listing: Listing
    outcomes: Counter[str]
    earlier: int
    now: int
    second_search: int
    several_faces: int
    unknown_landmarks: int = 0
    pack: PackPlan | None = None
    left_to_others: int | None = None


class Watcher:
    """Is told how far the work is. This one hears nothing."""

    def start(self, total: int, done: int) -> None:
        """Called once: `total` photographs, `done` of them by earlier calls."""

    def advance(self, record: Record) -> None:
        """Called after each photograph."""

    def pack(self, written: int, total: int) -> None:
        """Called after each image that is written to a pack."""


def align(request: Request, watcher: Watcher | None = None) -> Summary:
    """Detect, choose, align and write every photograph beneath the source that is not done yet.

    Args:
        request: what is wanted.
        watcher: is told of every photograph.

    Raises:
        DataError: the source holds no images; the landmarks cannot be read; the target is unusable, or its disk is full.
        ConfigError: source and target overlap, or the target holds crops made with other settings.
        FrtrainError: a worker was killed.
        StoppedError: SIGINT, SIGTERM or SIGUSR1 came. Whatever was finished is in the report; the same call goes on.
    """
    watcher = watcher or Watcher()
    with StopRequest() as stop:
        check_apart(request.source, request.target, "the photographs", "the crops")
        listing = list_photographs(request.source, request.target, request.links)
        photographs = listing.photographs[: request.limit]
        share = request.rank.share(photographs)
        landmarks = read_landmarks(request.landmarks, listing.photographs) if request.landmarks else None
        settings = _settings(request, landmarks)
        with open_report(request.target, settings, request.redo, request.rank, stop) as report:
            pending = [path for path in share if path not in report.records]
            _check_pack_takes(request, report, len(pending))
            watcher.start(len(share), len(share) - len(pending))
            assignments = _assignments(request, listing, landmarks, report, pending)
            with closing(_records(request, assignments, stop)) as done_now:
                for record in done_now:
                    report.append(record)
                    watcher.advance(record)
            records = report.records
            left = sum(path not in records for path in share)
            if stop.signal is not None and left:
                raise StoppedError(
                    stop.signal,
                    f"{len(share) - left} of {len(share)} photographs are done; the same command goes on from there",
                )
            pack = partial(_packed, request, settings, report.is_packed, stop, watcher)
            plan = pack([records[path] for path in photographs]) if request.rank.alone else None
        left_to_others: int | None = None
        if not request.rank.alone:
            everything, plan, left_to_others = _finish(request, photographs, pack, stop)
            records = everything if left_to_others is None else records
    done = [records[path] for path in (share if left_to_others is not None else photographs)]
    return Summary(
        listing=listing,
        outcomes=Counter(record.outcome for record in done),
        earlier=len(share) - len(pending),
        now=len(pending),
        second_search=sum(record.reason == SECOND_SEARCH for record in done),
        several_faces=sum(record.faces > 1 for record in done),
        unknown_landmarks=landmarks.unknown if landmarks else 0,
        pack=plan,
        left_to_others=left_to_others,
    )


def _settings(request: Request, landmarks: Landmarks | None) -> dict[str, Any]:
    """Everything that a crop depends on, and the form that it is kept in."""
    return {
        "source": str(request.source.resolve()),
        "detector": dict(request.detector_settings),
        **asdict(request.style),
        "to": request.to,
        "landmarks": landmarks and {"content": landmarks.digest, "missing": request.landmarks_missing},
    }


def _check_pack_takes(request: Request, report: Report, pending: int) -> None:
    """A complete pack takes no more images."""
    if report.is_packed and pending:
        raise DataError(
            f"target={request.target} holds a complete pack, made before the source had {pending} of its photographs, or "
            "with a smaller limit: choose another target, or make it anew with redo=true"
        )


def _assignments(
    request: Request, listing: Listing, landmarks: Landmarks | None, report: Report, pending: list[str]
) -> list[Assignment | Record]:
    """What is to be done with each photograph; a record where nothing is."""
    recorded = {path: record.output for path, record in report.records.items() if record.output}
    outputs = plan_outputs(listing.photographs, f".{request.style.format}", recorded)
    points = landmarks.points if landmarks else {}
    if landmarks is not None and request.landmarks_missing == "skip":
        reason = f"has no line in {landmarks.file.name}"
        return [
            Assignment(path, outputs[path], points[path]) if path in points else Record(path, "skipped", reason=reason)
            for path in pending
        ]
    return [Assignment(path, outputs[path], points.get(path)) for path in pending]


def _records(
    request: Request, assignments: list[Assignment | Record], stop: StopRequest
) -> Generator[Record, None, None]:
    """One record per photograph, its crop written; ends early, after the batch in hand, on a stop request."""

    def stopped() -> bool:
        return stop.signal is not None

    yield from (item for item in assignments if isinstance(item, Record))
    todo = [item for item in assignments if isinstance(item, Assignment)]
    if not todo:
        return
    workers = min(request.workers, -(-len(todo) // request.batch_size))
    detector = LazyDetector(request.build_detector)
    if workers > 1 or (workers and request.shared_detector):
        job = Job(
            source=request.source,
            target=request.target,
            style=request.style,
            sink=_sink(request.to),
            build_detector=None if request.shared_detector else request.build_detector,
            batch_size=request.batch_size,
        )
        yield from align_in_processes(todo, job, workers, detector if request.shared_detector else None, stopped)
        return
    with closing(_sink(request.to)(request.target)) as sink:
        crops = CropMaker(sink, request.style)
        yield from align_photographs(todo, request.source, detector, crops, request.batch_size, stopped)


def _sink(to: To) -> type[FolderSink] | type[SpoolSink]:
    return FolderSink if to == "folder" else SpoolSink


def _finish(
    request: Request,
    photographs: list[str],
    pack: Callable[[list[Record]], PackPlan | None],
    stop: StopRequest,
) -> tuple[dict[str, Record], PackPlan | None, int | None]:
    """What the last rank does: one report of the parts, and the pack.

    Returns:
        The records that there are by now; what is in the pack; how many photographs other ranks have left to do, None
        if this was the last rank. (0 where another one is just ending, or where no locks tell who is the last.)
    """
    try:
        with finishing(request.target, stop) as certain:
            at_work = others_at_work(request.target)
            records = read_brief(request.target)
            left = sum(path not in records for path in photographs)
            if left or at_work or not certain:
                return records, None, left
            gather_parts(request.target)
            plan = pack([records[path] for path in photographs])
            (request.target / FINISHING_NAME).unlink(missing_ok=True)
            return records, plan, None
    except OSError as error:
        raise unwritable(request.target, error) from None


def _packed(
    request: Request,
    settings: Mapping[str, Any],
    was_packed: bool,
    stop: StopRequest,
    watcher: Watcher,
    records: list[Record],
) -> PackPlan | None:
    if request.to == "folder":
        return None
    plan = plan_pack(records)
    if was_packed:
        Spool(request.target).remove()
    elif plan.crops and not write_pack(
        request.target,
        request.to,
        plan,
        settings,
        lambda: stop.signal is not None,
        lambda written: watcher.pack(written, len(plan.crops)),
    ):
        assert stop.signal is not None
        raise StoppedError(
            stop.signal, "all photographs are done, the pack is not; the same command goes on from there"
        )
    return plan
