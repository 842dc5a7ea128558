"""Crops into RecordIO and WebDataset packs."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
from marked_photographs import (
    FACE,
    FACELESS,
    Forbidden,
    LoggingDetector,
    MarkedDetector,
    files,
    request,
    run,
    write,
    write_many,
)

from frtrain.alignment.packing import To
from frtrain.alignment.pipeline import Request, Watcher, align
from frtrain.alignment.report import Record, read_report
from frtrain.alignment.shards import Rank
from frtrain.alignment.spool import SPOOL_FOLDER, Spool
from frtrain.data.encoded import EncodedSource
from frtrain.data.packs import writer
from frtrain.data.sources.recordio import RecordIOSource
from frtrain.data.sources.webdataset import WebDatasetSource
from frtrain.errors import DataError
from frtrain.signals import StoppedError

CONTEXT = multiprocessing.get_context("forkserver")
KINDS: list[To] = ["recordio", "webdataset"]
SOURCES: dict[str, type[EncodedSource]] = {"recordio": RecordIOSource, "webdataset": WebDatasetSource}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pack(kind: str, target: Path) -> list[tuple[str, str, bytes]]:
    """Identity, name and content of each image, in order."""
    source = SOURCES[kind](str(target))
    return [(source.classes[source.labels[at]], source.name(at), source.encoded(at)) for at in range(len(source))]


def folder(target: Path) -> list[tuple[str, str, bytes]]:
    """The same of a folder of crops."""
    names = [name for name in files(target) if name.endswith((".jpg", ".png"))]
    return sorted((name.split("/")[0], name, (target / name).read_bytes()) for name in names)


def pack_files(target: Path) -> dict[str, bytes]:
    return {name: (target / name).read_bytes() for name in files(target) if not name.startswith("align.")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 2])
def test_pack_holds_the_crops_of_the_folder_in_order_of_identities(tmp_path: Path, kind: To, workers: int) -> None:
    source = write_many(tmp_path / "source", identities=4, images=5)
    write(source, {"person/a.png": FACE, "person-00/none.png": FACELESS, "Žofie/é 2.png": FACE})
    run(source, tmp_path / "folder")
    summary = run(source, tmp_path / "pack", MarkedDetector, to=kind, workers=workers)
    assert summary.outcomes == Counter(aligned=22, skipped=1)
    assert summary.pack is not None
    assert summary.pack.classes == [f"person{end}" for end in ("", "-00", "-01", "-02", "-03")] + ["Žofie"]
    assert pack(kind, tmp_path / "pack") == folder(tmp_path / "folder")
    assert not (tmp_path / "pack" / SPOOL_FOLDER).exists()


def test_packs_do_not_depend_on_how_many_processes_made_them(tmp_path: Path) -> None:
    source = write_many(tmp_path / "source")
    run(source, tmp_path / "alone", MarkedDetector, to="webdataset")
    run(source, tmp_path / "workers", MarkedDetector, to="webdataset", workers=2)
    for number in (1, 0, 2):
        summary = run(source, tmp_path / "ranks", to="webdataset", rank=Rank(number, 3))
    assert summary.left_to_others is None
    shards = [
        {name: data for name, data in pack_files(tmp_path / how).items() if name.endswith(("tar", "lst", "txt"))}
        for how in ("alone", "workers", "ranks")
    ]
    assert shards[0] == shards[1] == shards[2]
    assert len(shards[0]) == 3


def test_record_tells_the_name_in_the_pack(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"Ana/1.png": FACE})
    run(source, tmp_path / "target", to="recordio")
    assert read_report(tmp_path / "target")["Ana/1.png"].output == "Ana/1.jpg"


def test_second_call_on_a_complete_pack_does_nothing(tmp_path: Path) -> None:
    source = write_many(tmp_path / "source", 2, 3)
    (source / "bad.png").write_bytes(b"")
    run(source, tmp_path / "target", to="recordio")
    before = pack_files(tmp_path / "target")
    summary = run(source, tmp_path / "target", Forbidden(), to="recordio")
    assert (summary.earlier, summary.outcomes) == (7, Counter(aligned=6, unreadable=1))
    assert pack_files(tmp_path / "target") == before


def test_complete_pack_takes_no_more_photographs_and_says_so(tmp_path: Path) -> None:
    source = write_many(tmp_path / "source", 2, 3)
    run(source, tmp_path / "target", to="recordio", limit=4)
    with pytest.raises(DataError, match="holds a complete pack, made before the source had 2 of its photographs"):
        run(source, tmp_path / "target", to="recordio")
    run(source, tmp_path / "target", to="recordio", redo=True)
    assert len(pack("recordio", tmp_path / "target")) == 6


def test_redo_makes_a_folder_of_what_was_a_pack_and_the_other_way_round(tmp_path: Path) -> None:
    source, target = write_many(tmp_path / "source", 2, 3), tmp_path / "target"
    run(source, target, to="webdataset")
    run(source, target, redo=True)
    assert set(pack_files(target)) == {f"person-0{a}/{b}.jpg" for a in range(2) for b in range(3)}
    run(source, target, to="recordio", redo=True)
    assert not list(target.glob("person*/*"))
    assert len(pack("recordio", target)) == 6


def test_crops_outside_identity_folders_are_counted_and_left_out(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"Ana/1.png": FACE, "Ben/1.png": FACE, "stray.png": FACE})
    summary = run(source, tmp_path / "target", to="webdataset")
    assert summary.pack is not None
    assert summary.pack.outside == 1
    assert [name for _, name, _ in pack("webdataset", tmp_path / "target")] == ["Ana/1.jpg", "Ben/1.jpg"]


def test_identities_of_a_flat_folder_are_named_by_its_files(tmp_path: Path) -> None:
    source = write(tmp_path / "source", dict.fromkeys(["Ana_1.png", "Ana_2.png", "Ben_1.png"], FACE))
    summary = run(source, tmp_path / "target", to="webdataset")
    assert summary.pack is not None
    assert summary.pack.classes == ["Ana", "Ben"]


def test_nothing_to_pack_is_no_error(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"Ana/1.png": FACELESS})
    summary = run(source, tmp_path / "target", to="recordio")
    assert summary.pack is not None
    assert summary.pack.crops == []


def test_crop_that_the_spool_has_lost_is_made_again(tmp_path: Path) -> None:
    source, target = write_many(tmp_path / "source", 2, 4), tmp_path / "target"
    run(source, target, to="recordio", rank=Rank(0, 2))  # the pack is not made: the other rank is missing
    (spool,) = (target / SPOOL_FOLDER).iterdir()
    spool.write_bytes(spool.read_bytes()[:-1])
    detector = MarkedDetector()
    run(source, target, detector, to="recordio")
    assert sum(detector.calls) == 5
    assert len(pack("recordio", target)) == 8


def align_until(wanted: Request, moment: int | str) -> None:
    """Align, and end by SIGKILL when so many images are packed, or when a function is called."""

    def end(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    class Watching(Watcher):
        def pack(self, written: int, total: int) -> None:
            if written == moment:
                end()

    if moment == "names are given":
        writer.put_in_place = end
    if moment == "the spool is removed":
        Spool.remove = end  # type: ignore[method-assign] # of this process alone
    align(wanted, Watching())


@pytest.mark.parametrize("kind", KINDS)
def test_sigkill_while_packing_loses_and_repeats_nothing(tmp_path: Path, kind: To) -> None:
    source, target = write_many(tmp_path / "source", 5, 6), tmp_path / "target"
    detector = LoggingDetector(tmp_path / "log")
    CONTEXT.set_forkserver_preload(["frtrain.alignment.workers"])
    wanted = request(source, target, detector, to=kind)
    for moment in (1, 17, 30, "names are given", "the spool is removed"):
        process = CONTEXT.Process(target=align_until, args=(wanted, moment))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert (target / SPOOL_FOLDER).exists()
    assert align(wanted).outcomes == Counter(aligned=30)
    assert not (target / SPOOL_FOLDER).exists()
    assert sorted(detector.searched()) == list(range(30))
    run(source, tmp_path / "folder")
    assert pack(kind, target) == folder(tmp_path / "folder")


def test_photographs_that_came_while_the_pack_was_begun_are_in_it(tmp_path: Path) -> None:
    source, target = write_many(tmp_path / "source", 3, 4), tmp_path / "target"

    class Broken(Watcher):
        def pack(self, written: int, total: int) -> None:
            if written == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, target, to="recordio", watcher=Broken())
    shutil.copytree(source / "person-00", source / "person-000")
    detector = MarkedDetector()
    assert run(source, target, detector, to="recordio").outcomes == Counter(aligned=16)
    assert sum(detector.calls) == 4
    assert len(pack("recordio", target)) == 16


def test_stop_signal_while_packing_keeps_what_is_packed(tmp_path: Path) -> None:
    source, target = write_many(tmp_path / "source", 3, 4), tmp_path / "target"

    class Stopper(Watcher):
        def pack(self, written: int, total: int) -> None:
            if written == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError, match="all photographs are done, the pack is not"):
        run(source, target, to="recordio", watcher=Stopper())
    again: list[int] = []

    class Counting(Watcher):
        def advance(self, record: Record) -> None:
            raise AssertionError("a photograph was done again")

        def pack(self, written: int, total: int) -> None:
            again.append(written)

    run(source, target, Forbidden(), to="recordio", watcher=Counting())
    assert again == list(range(6, 13))
