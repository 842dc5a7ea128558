from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frtrain.data.manifest import list_line
from frtrain.data.packs import Kind, Shards, open_pack, read_facts, writer
from frtrain.data.packs.conversion import WrittenFolder, check_written, copy_images
from frtrain.errors import ConfigError, DataError, ImageError
from frtrain.signals import StopRequest

KINDS: list[Kind] = ["folder", "recordio", "webdataset"]
SHARDS = Shards(images=7, bytes=4000)


def write(kind: Kind, target: Path, source: Any, **options: Any) -> Any:
    """Copy a source into a pack, or go on with it."""
    settings = {"data": source.fingerprint}
    with open_pack(kind, target, settings, classes=source.classes, shards=SHARDS, **options) as pack:
        return copy_images(source, pack, StopRequest(), lambda images, size: None)


def read_back(kind: Kind, target: Path, opened: Any) -> Any:
    return WrittenFolder(target) if kind == "folder" else opened(kind, target)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal is written every five images."""
    monkeypatch.setattr(writer, "JOURNAL_IMAGES", 5)


@pytest.mark.parametrize("kind", KINDS)
def test_images_labels_names_and_classes_come_back(tmp_path: Path, kind: Kind, listed_source: Any, opened: Any) -> None:
    source = listed_source(20)
    facts = write(kind, tmp_path / "pack", source)
    pack = read_back(kind, tmp_path / "pack", opened)
    assert list(pack.classes) == source.classes
    assert pack.labels.tolist() == source.labels.tolist()
    assert [pack.name(n) for n in range(20)] == [source.name(n) for n in range(20)]
    assert [pack.encoded(n) for n in range(20)] == [source.encoded(n) for n in range(20)]
    assert (facts.images, facts.identities, facts.bytes) == (20, 3, sum(len(source.encoded(n)) for n in range(20)))
    assert read_facts(tmp_path / "pack") == facts


def test_digest_is_the_same_in_every_form_and_tells_other_images(tmp_path: Path, listed_source: Any) -> None:
    source, other = listed_source(20), listed_source(19)
    facts = [write(kind, tmp_path / kind, source) for kind in KINDS]
    assert len({one.content_sha256 for one in facts}) == len({one.names_sha256 for one in facts}) == 1
    assert write("recordio", tmp_path / "other", other).content_sha256 != facts[0].content_sha256


@pytest.mark.parametrize("kind", KINDS)
def test_pack_has_checksums_that_sha256sum_accepts(tmp_path: Path, kind: Kind, listed_source: Any) -> None:
    source = listed_source(
        [(b"\xff\xd8a", 0, "Ana/new\nline.jpg"), (b"\xff\xd8b", 1, "Bo/back\\slash.jpg")], ["Ana", "Bo"]
    )
    write(kind, tmp_path / "pack", source)
    listed = (tmp_path / "pack" / "checksums.sha256").read_bytes()
    files = [path for path in (tmp_path / "pack").rglob("*") if path.is_file()]
    assert listed.count(b"\n") == len(files) - 1
    if shutil.which("sha256sum"):
        subprocess.run(
            ["sha256sum", "--strict", "--quiet", "-c", "checksums.sha256"], cwd=tmp_path / "pack", check=True
        )


@pytest.mark.parametrize("kind", KINDS)
def test_same_images_give_the_same_bytes(tmp_path: Path, kind: Kind, listed_source: Any, tree: Any) -> None:
    for name in ("one", "two"):
        write(kind, tmp_path / name, listed_source())
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


@pytest.mark.slow
@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("kind", KINDS)
def test_kill_at_any_file_operation_leads_to_the_same_pack(
    tmp_path: Path, kind: Kind, listed_source: Any, tree: Any
) -> None:
    source = listed_source()
    write(kind, tmp_path / "whole", source)
    whole = tree(tmp_path / "whole")
    moment = survived = 0
    while not survived:
        moment += 1 + moment // 8
        target = tmp_path / f"killed{moment}"
        survived = killed_at(moment, lambda target=target: write(kind, target, source)) == 0
        if not survived:
            assert not (target / "pack.json").exists() or tree(target).items() >= whole.items()
            tear(target)
        write(kind, target, source)
        assert tree(target) == whole, f"killed at operation {moment}"
    assert moment > 30


def killed_at(operation: int, call: Callable[[], object]) -> int:
    """Run it in a child that dies by SIGKILL at its so many-th opening, renaming, cutting or deleting of a file."""
    child = os.fork()
    if child == 0:
        left = operation

        def count(event: str, arguments: Any) -> None:
            nonlocal left
            if event in ("open", "os.rename", "os.truncate", "os.remove", "os.mkdir"):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            call()
        except BaseException:
            os._exit(3)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status


def tear(target: Path) -> None:
    """What was not on the disk yet may be there in any state: lengthen what the journal does not vouch for."""
    path = target / "pack.json.part"
    journal = json.loads(path.read_text()) if path.exists() else None
    if journal is None or journal["facts"] is not None:
        return
    safe = {"pack.json.part", *(f"{name}.part" for name in journal["container"].get("digests", ()))}
    for path in target.glob("*.part"):
        if path.name not in safe:
            with path.open("ab") as file:
                file.write(b"torn\n\xff")


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("kind", KINDS)
def test_image_that_cannot_be_read_is_named_and_the_rest_is_kept(
    tmp_path: Path, kind: Kind, listed_source: Any, tree: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = listed_source()
    write(kind, tmp_path / "whole", source)

    def encoded(index: int) -> bytes:
        if index == 12:
            raise ImageError("Cy/012.jpg", "cannot be read")
        return type(source).encoded(source, index)

    with monkeypatch.context() as patch:
        patch.setattr(source, "encoded", encoded)
        with pytest.raises(ImageError, match=r"Cy/012\.jpg"):
            write(kind, tmp_path / "pack", source)
    assert not (tmp_path / "pack" / "pack.json").exists()
    with open_pack(
        kind, tmp_path / "pack", {"data": source.fingerprint}, classes=source.classes, shards=SHARDS
    ) as pack:
        assert pack.written == 12
    write(kind, tmp_path / "pack", source)
    assert tree(tmp_path / "pack") == tree(tmp_path / "whole")


@pytest.mark.parametrize("kind", KINDS)
def test_full_disk_is_told_and_gone_on_from(
    tmp_path: Path, kind: Kind, listed_source: Any, tree: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "JOURNAL_IMAGES", 20)
    source = listed_source(300)
    write(kind, tmp_path / "whole", source)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        with pytest.raises(DataError, match=r"cannot be written.*the same command goes on from there"):
            write(kind, tmp_path / "pack", source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    write(kind, tmp_path / "pack", source)
    assert tree(tmp_path / "pack") == tree(tmp_path / "whole")


@pytest.mark.parametrize("kind", KINDS)
def test_other_settings_are_refused_by_name_until_redo(
    tmp_path: Path, kind: Kind, listed_source: Any, tree: Any
) -> None:
    write(kind, tmp_path / "pack", listed_source(9))
    other = listed_source(8)
    with pytest.raises(ConfigError, match=r"data: '.*' there, '.*' now\n.*redo=true"):
        write(kind, tmp_path / "pack", other)
    write(kind, tmp_path / "pack", other, redo=True)
    write(kind, tmp_path / "fresh", other)
    assert tree(tmp_path / "pack") == tree(tmp_path / "fresh")


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_redo_replaces_a_pack_of_another_kind(
    tmp_path: Path, first: Kind, second: Kind, listed_source: Any, tree: Any
) -> None:
    source = listed_source()
    write(first, tmp_path / "pack", source)
    if first != second:
        with pytest.raises(ConfigError, match=f"kind: '{first}' there, '{second}' now"):
            write(second, tmp_path / "pack", source)
    write(second, tmp_path / "pack", source, redo=True)
    write(second, tmp_path / "fresh", source)
    assert tree(tmp_path / "pack") == tree(tmp_path / "fresh")
    assert sorted(path.name for path in (tmp_path / "pack").iterdir()) == sorted(
        path.name for path in (tmp_path / "fresh").iterdir()
    )


def test_redo_deletes_nothing_that_a_list_names_outside(tmp_path: Path, listed_source: Any) -> None:
    write("folder", tmp_path / "pack", listed_source())
    outside = tmp_path / "precious.jpg"
    outside.write_bytes(b"")
    (tmp_path / "pack" / "link").symlink_to(tmp_path)
    with (tmp_path / "pack" / "images.lst").open("a") as lines:
        for number, name in enumerate([str(outside), "../precious.jpg", "link/precious.jpg"], start=17):
            lines.write(list_line(number, 0, name))
    write("folder", tmp_path / "pack", listed_source(), redo=True)
    assert outside.exists()


def test_redo_leaves_the_files_of_others_alone(tmp_path: Path, listed_source: Any) -> None:
    write("folder", tmp_path / "pack", listed_source())
    (tmp_path / "pack" / "Ana" / "mine.jpg").write_bytes(b"mine")
    write("recordio", tmp_path / "pack", listed_source(), redo=True)
    assert (tmp_path / "pack" / "Ana" / "mine.jpg").read_bytes() == b"mine"


def test_damaged_journal_is_told_and_made_anew(tmp_path: Path, listed_source: Any) -> None:
    write("folder", tmp_path / "pack", listed_source())
    (tmp_path / "pack" / "pack.json").write_text("{")
    with pytest.raises(DataError, match=r"pack\.json: is damaged.*redo=true"):
        write("folder", tmp_path / "pack", listed_source())
    write("folder", tmp_path / "pack", listed_source(), redo=True)


def test_files_of_somebody_else_are_refused(tmp_path: Path, listed_source: Any) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for redo in (False, True):
        with pytest.raises(DataError, match=r"not empty.*'notes\.txt'"):
            write("recordio", tmp_path, listed_source(), redo=redo)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_reports_of_align_may_lie_beside(tmp_path: Path, listed_source: Any) -> None:
    for name in ("align.json", "align.jsonl", ".spool"):
        (tmp_path / name).write_text("")
    write("recordio", tmp_path, listed_source())


def test_two_calls_cannot_write_one_pack(tmp_path: Path) -> None:
    second = open_pack("recordio", tmp_path / "pack", {})
    with open_pack("recordio", tmp_path / "pack", {}), pytest.raises(DataError, match="in use"):
        second.__enter__()


@pytest.mark.parametrize("kind", KINDS)
def test_complete_pack_is_not_touched_again(tmp_path: Path, kind: Kind, listed_source: Any) -> None:
    source = listed_source()
    write(kind, tmp_path / "pack", source)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "pack").rglob("*")}
    with open_pack(kind, tmp_path / "pack", {"data": source.fingerprint}, shards=SHARDS) as pack:
        assert pack.written == 17
        with pytest.raises(ValueError, match="complete"):
            pack.append(b"x", 0, "x")
        pack.finish(source.classes)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "pack").rglob("*")} == before


@pytest.mark.parametrize("kind", KINDS)
def test_labels_must_fit_the_classes(tmp_path: Path, kind: Kind) -> None:
    with open_pack(kind, tmp_path / "pack", {}) as pack:
        with pytest.raises(DataError, match="needs an image"):
            pack.finish(["Ana"])
        with pytest.raises(ValueError, match="negative"):
            pack.append(b"\xff\xd8", -1, "Ana/1.jpg")
        pack.append(b"\xff\xd8", 1, "Ana/1.jpg")
        with pytest.raises(DataError, match="label 1, but there are 1 identities"):
            pack.finish(["Ana"])


@pytest.mark.parametrize("kind", KINDS)
def test_change_after_writing_is_found_by_reading_back(
    tmp_path: Path, kind: Kind, listed_source: Any, opened: Any
) -> None:
    facts = write(kind, tmp_path / "pack", listed_source())
    name = {"folder": "Ana/000.jpg", "recordio": "train.rec", "webdataset": "train-000000.tar"}[kind]
    path = tmp_path / "pack" / name
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\xd8\xff") + 50
    content[at] ^= 1
    path.write_bytes(content)
    pack = read_back(kind, tmp_path / "pack", opened)
    with pytest.raises(DataError, match=r"images and labels .* differ from what was written"):
        check_written(pack, facts, tmp_path / "pack", StopRequest(), lambda images, size: None)


@pytest.mark.parametrize("name", [f"Ana/{'n' * 252}.jpg", f"Ana/{'n' * 256}/1.jpg"])
def test_name_too_long_for_a_file_is_told(tmp_path: Path, name: str, listed_source: Any) -> None:
    source = listed_source([(b"\xff\xd8", 0, name), (b"\xff\xd8", 1, "Bo/1.jpg")], ["Ana", "Bo"])
    with pytest.raises(DataError, match=r"longer than this file system allows \('.*nnn.*to=recordio"):
        write("folder", tmp_path / "folder", source)
    write("recordio", tmp_path / "rec", source)


def test_shards_are_bounded_by_images_and_by_bytes(tmp_path: Path, listed_source: Any, opened: Any) -> None:
    source = listed_source(20)
    for name, shards in {"images": Shards(images=7), "bytes": Shards(bytes=7 * 2048)}.items():
        with open_pack("webdataset", tmp_path / name, {}, shards=shards) as pack:
            copy_images(source, pack, StopRequest(), lambda images, size: None)
        assert len(list((tmp_path / name).glob("train-*.tar"))) == 3
        assert len(opened("webdataset", tmp_path / name)) == 20


def test_labels_in_any_order_keep_it(tmp_path: Path, listed_source: Any, opened: Any) -> None:
    labels = np.random.default_rng(0).integers(0, 3, 30).tolist()
    source = listed_source([(bytes([255, 216, n]), label, f"{'ABC'[label]}/{n}.jpg") for n, label in enumerate(labels)], list("ABC"))  # fmt: skip
    for kind in KINDS:
        write(kind, tmp_path / kind, source)
        assert read_back(kind, tmp_path / kind, opened).labels.tolist() == labels
