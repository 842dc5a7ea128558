from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from frtrain.commands import convert
from frtrain.commands.composition import compose_plain
from frtrain.config_files import completed
from frtrain.data import SOURCES
from frtrain.data.encoded import EncodedSource
from frtrain.data.packs import open_pack
from frtrain.errors import ConfigError, DataError, ImageError
from frtrain.schema import parse
from frtrain.signals import StoppedError

REPOSITORY = Path(__file__).resolve().parents[2]
PACKS = ["folder", "recordio", "webdataset"]
SIDECARS = {b"pack.json", b"checksums.sha256", b"classes.txt", b"images.lst"}

NAMES = [
    b"Ana/1.jpg",
    b"Ana/1.png",
    b"Ana/1.2.3.jpg",
    b"Ana/a b.jpg",
    b"Ana/deep/er/1.jpg",
    "Žofie Krátká/é 1.jpg".encode(),
    "Žofie Krátká/\u200fx.jpg".encode(),
    b"bytes\xff\xfe/\x80.jpg",
    b"bytes\xff\xfe/new\nline\ttab.jpg",
    b"bytes\xff\xfe/back\\slash\\x41.jpg",
]


def config(*overrides: str) -> convert.Config:
    return parse(convert.Config, compose_plain("convert", list(overrides)))


def call(source: Path, target: Path, to: str, *more: str) -> None:
    convert.run(config(f"source={source}", f"target={target}", f"to={to}", *more))


def tree(root: Path, without: Collection[bytes] = ()) -> dict[bytes, bytes]:
    files = {os.fsencode(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {name: content for name, content in files.items() if name not in without}


def opened(root: Path) -> EncodedSource:
    source = SOURCES.build(completed("data", {"name": "auto", "root": str(root)}))
    assert isinstance(source, EncodedSource)
    return source


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """A folder with every kind of name; the files only begin like images."""
    root = tmp_path / "faces"
    for number, name in enumerate(NAMES):
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((b"\x89PNG" if name.endswith(b".png") else b"\xff\xd8\xff") + bytes([number]) * (50 + number))
    return root


def test_round_trip_through_all_forms_gives_the_same_tree(faces: Path, tmp_path: Path) -> None:
    call(faces, tmp_path / "rec", "recordio")
    call(tmp_path / "rec", tmp_path / "shards", "webdataset", "shard_images=3")
    call(tmp_path / "shards", tmp_path / "folder", "folder")
    assert tree(tmp_path / "folder", SIDECARS) == tree(faces)
    call(tmp_path / "folder", tmp_path / "rec2", "recordio")
    without = {b"pack.json", b"checksums.sha256"}  # they name the source
    assert tree(tmp_path / "rec2", without) == tree(tmp_path / "rec", without)


@pytest.mark.parametrize("to", PACKS)
def test_pack_is_found_by_itself_and_holds_the_same_faces(faces: Path, tmp_path: Path, to: str) -> None:
    call(faces, tmp_path / "pack", to)
    source, pack = opened(faces), opened(tmp_path / "pack")
    assert list(pack.classes) == list(source.classes)
    assert [
        (pack.name(n), pack.encoded(n), int(label), pack.classes[label]) for n, label in enumerate(pack.labels)
    ] == [
        (source.name(n), source.encoded(n), int(label), source.classes[label]) for n, label in enumerate(source.labels)
    ]


def test_summary_tells_counts_and_the_digest_that_all_forms_share(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digests = set()
    for to in PACKS:
        call(faces, tmp_path / to, to)
        said = capsys.readouterr().out
        assert "10 images of 3 identities" in said
        assert "Read back and compared" in said
        digests.update(re.findall(r"sha256 ([0-9a-f]{64})", said))
    assert len(digests) == 1


def test_part_of_a_data_set_becomes_a_pack(faces: Path, tmp_path: Path) -> None:
    call(faces, tmp_path / "pack", "recordio", "subset.min_images=3")
    assert sorted(opened(tmp_path / "pack").classes) == ["Ana", "bytes\udcff\udcfe"]


def test_several_data_sets_become_one_pack(faces: Path, crops_folder: Callable[..., Path], tmp_path: Path) -> None:
    crops_folder(2, 3)
    sources = f"data.sources=[{{name: folder, root: {faces}}}, {{name: folder, root: {tmp_path / 'crops'}}}]"
    convert.run(config("data=concat", sources, f"target={tmp_path / 'pack'}", "to=webdataset"))
    assert len(opened(tmp_path / "pack")) == 16


def test_list_of_a_folder_pack_keeps_its_order(faces: Path, tmp_path: Path) -> None:
    call(faces, tmp_path / "rec", "recordio")
    call(tmp_path / "rec", tmp_path / "folder", "folder")
    listing = tmp_path / "folder" / "images.lst"
    convert.run(config("data=list", f"data.list={listing}", f"target={tmp_path / 'a'}", "to=recordio"))
    call(listing, tmp_path / "b", "recordio")
    for name in ("a", "b"):
        assert (tmp_path / name / "train.rec").read_bytes() == (tmp_path / "rec" / "train.rec").read_bytes()


def test_second_call_copies_nothing(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        call(faces, tmp_path / "pack", "recordio")
    assert "0 copied" in capsys.readouterr().out.splitlines()[-4]


def test_images_are_decoded_only_on_request(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"1\.2\.3\.jpg: is (damaged|not an image)"):
        call(faces, tmp_path / "pack", "recordio", "decode=true")


def test_crops_pass_the_decoding(crops_folder: Callable[..., Path], tmp_path: Path) -> None:
    call(crops_folder(2, 2), tmp_path / "pack", "recordio", "decode=true")


def test_image_that_cannot_be_read_is_named(faces: Path, tmp_path: Path) -> None:
    (faces / "Ana" / "gone.jpg").symlink_to(faces / "nowhere.jpg")
    with pytest.raises((ImageError, DataError), match=r"gone\.jpg"):
        call(faces, tmp_path / "pack", "recordio")


@pytest.mark.parametrize(
    ("target", "message"),
    [("faces", "is the source"), ("faces/pack", "lies inside source"), (".", "lies inside target")],
)
def test_overlapping_places_are_refused(faces: Path, tmp_path: Path, target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call(faces, tmp_path / target, "recordio")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["target=x", "to=recordio"], "source: a value is required"),
        (["source=x", "target=x2", "to=bin"], "pairs: to=bin needs pairs"),
        (["source=x.bin", "target=x2", "to=recordio"], "becomes a folder"),
        (
            ["source=x", "data=concat", "data.sources=[{name: folder, root: x}]", "target=x2", "to=folder"],
            "leave source out",
        ),
        (["source=x", "data=synthetic", "target=x2", "to=folder"], "leave source out"),
        (["data=synthetic", "target=x2", "to=folder"], "nothing to copy"),
        (["source=x", "target=x2", "to=zip"], "to='zip'"),
        (["source=x", "data=folder", "data.layout=wrong", "target=x2", "to=folder"], "data.layout"),
    ],
)
def test_what_cannot_work_is_said_at_once(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        convert.run(config(*overrides))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stop_signal_keeps_what_is_copied(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    call(faces, tmp_path / "whole", "recordio")
    encoded = type(opened(faces)).encoded

    def interrupted(source: Any, index: int) -> bytes:
        if index == 4:
            os.kill(os.getpid(), number)
        return encoded(source, index)

    with monkeypatch.context() as patch:
        patch.setattr(type(opened(faces)), "encoded", interrupted)
        with pytest.raises(StoppedError, match="of 10 images are copied; the same command goes on") as stopped:
            call(faces, tmp_path / "pack", "recordio")
    assert stopped.value.exit_code == status
    call(faces, tmp_path / "pack", "recordio")
    assert tree(tmp_path / "pack") == tree(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("to", ["recordio", "folder"])
def test_killed_command_goes_on_to_the_same_pack(tmp_path: Path, to: str) -> None:
    """A real process, killed in the middle of its work."""
    with open_pack("webdataset", tmp_path / "source", {}) as pack:
        for number in range(1500):
            pack.append(b"\xff\xd8\xff" + number.to_bytes(4, "big"), number // 100, f"{number // 100:03d}/{number}.jpg")
        pack.finish([f"{label:03d}" for label in range(15)])
    call(tmp_path / "source", tmp_path / "whole", to)
    target = tmp_path / "pack"
    command = [
        sys.executable,
        "-m",
        "frtrain",
        "convert",
        f"source={tmp_path / 'source'}",
        f"target={target}",
        f"to={to}",
    ]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        listed = target / {"recordio": "train.lst.part", "folder": "images.lst.part"}[to]
        while process.poll() is None and not (listed.exists() and listed.stat().st_size > 5_000):
            time.sleep(0.001)
        process.kill()
    assert not (target / "pack.json").exists(), "killed too late"
    call(tmp_path / "source", target, to)
    assert tree(target) == tree(tmp_path / "whole")


def test_target_lies_in_none_of_the_sources_that_are_joined(faces: Path, tmp_path: Path) -> None:
    sources = f"data.sources=[{{name: folder, root: '{faces}'}}]"
    overrides = ["data=concat", sources, f"target={faces / 'pack'}", "to=recordio"]
    with pytest.raises(ConfigError, match="lies inside source"):
        convert.run(parse(convert.Config, compose_plain("convert", overrides)))
    assert not (faces / "pack").exists()
