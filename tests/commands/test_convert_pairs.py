from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from frtrain.commands import convert
from frtrain.commands.composition import compose_plain
from frtrain.data.formats.verification_pack import read_pack, write_pack
from frtrain.errors import ConfigError, DataError, ImageError
from frtrain.evaluation.crops import keep_found
from frtrain.evaluation.pairs import read_lfw_pairs
from frtrain.schema import parse

LFW_NAMES = [f"{person}/{person}_{number:04d}.jpg" for person in ("Ana", "Bo", "Cy") for number in (1, 2)]


def call(source: Path, target: Path, to: str, *more: str) -> None:
    convert.run(
        parse(convert.Config, compose_plain("convert", [f"source={source}", f"target={target}", f"to={to}", *more]))
    )


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Three people with two images each, named as LFW names them; the files only begin like images."""
    for name in LFW_NAMES:
        path = tmp_path / "people" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xd8\xff" + name.encode())
    return tmp_path / "people"


@pytest.fixture
def view_2(tmp_path: Path) -> Path:
    lines = ["2\t1", "Ana\t1\t2", "Ana\t1\tBo\t2", "Cy\t2\t1", "Bo\t1\tCy\t1"]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "pairs.txt"


def image(name: str) -> bytes:
    return b"\xff\xd8\xff" + name.encode()


def test_pairs_of_lfw_become_a_pack_that_insightface_reads(people: Path, view_2: Path, tmp_path: Path) -> None:
    call(people, tmp_path / "lfw.bin", "bin", f"pairs={view_2}")
    images, genuine = pickle.loads((tmp_path / "lfw.bin").read_bytes(), encoding="bytes")
    names = ["Ana_1", "Ana_2", "Ana_1", "Bo_2", "Cy_2", "Cy_1", "Bo_1", "Cy_1"]
    assert images == [image(f"{name[:-2]}/{name[:-1]}000{name[-1]}.jpg") for name in names]
    assert genuine == [True, False, True, False]


def test_pairs_come_from_a_pack_of_any_form(people: Path, view_2: Path, tmp_path: Path) -> None:
    call(people, tmp_path / "rec", "recordio")
    call(people, tmp_path / "a.bin", "bin", f"pairs={view_2}")
    call(tmp_path / "rec", tmp_path / "b.bin", "bin", f"pairs={view_2}")
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()


def test_folds_of_view_1_become_consecutive(people: Path, tmp_path: Path) -> None:
    lines = ["2", "Ana\t1\t2", "Bo\t1\t2", "Ana\t1\tBo\t2", "Bo\t1\tCy\t1"]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    call(people, tmp_path / "lfw.bin", "bin", f"pairs={tmp_path / 'pairs.txt'}")
    assert read_pack(tmp_path / "lfw.bin").genuine.tolist() == [True, False, True, False]


def test_drawn_pairs_are_balanced_in_every_tenth(people: Path, tmp_path: Path) -> None:
    for name in ("a.bin", "b.bin"):
        call(people, tmp_path / name, "bin", "pairs=6", "seed=3")
    pack = read_pack(tmp_path / "a.bin")
    assert pack.genuine.tolist() == [True, False] * 3
    people_of = [data.split(b"/")[0] for data in pack.images]
    assert [left == right for left, right in zip(people_of[::2], people_of[1::2], strict=True)] == pack.genuine.tolist()
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()


@pytest.mark.parametrize("listing", ["pairs.txt", "pairs.tsv"])
def test_pack_to_folder_and_back_is_the_same(people: Path, view_2: Path, tmp_path: Path, listing: str) -> None:
    call(people, tmp_path / "a.bin", "bin", f"pairs={view_2}")
    call(tmp_path / "a.bin", tmp_path / "folder", "folder")
    call(tmp_path / "folder", tmp_path / "b.bin", "bin", f"pairs={tmp_path / 'folder' / listing}")
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()


def test_unpacked_pairs_serve_the_protocol_of_lfw(people: Path, view_2: Path, tmp_path: Path) -> None:
    call(people, tmp_path / "a.bin", "bin", f"pairs={view_2}")
    call(tmp_path / "a.bin", tmp_path / "folder", "folder")
    found = keep_found(read_lfw_pairs(tmp_path / "folder" / "pairs.txt"), tmp_path / "folder", "error")
    pack = read_pack(tmp_path / "a.bin")
    assert found.pairs.genuine.tolist() == pack.genuine.tolist()
    assert found.pairs.fold.tolist() == [0, 0, 1, 1]
    read = [
        found.paths[name].read_bytes()
        for pair in zip(found.pairs.left, found.pairs.right, strict=True)
        for name in pair
    ]
    assert read == list(pack.images)


@pytest.mark.parametrize("genuine", [[True, True, False], [False, True, True, False], [True, True]])
def test_order_that_lfw_cannot_have_comes_back_all_the_same(tmp_path: Path, genuine: list[bool]) -> None:
    images = [image(str(number)) for number in range(2 * len(genuine))]
    write_pack(tmp_path / "a.bin", images, np.array(genuine))
    call(tmp_path / "a.bin", tmp_path / "folder", "folder")
    assert not (tmp_path / "folder" / "pairs.txt").exists()
    call(tmp_path / "folder", tmp_path / "b.bin", "bin", f"pairs={tmp_path / 'folder' / 'pairs.tsv'}")
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()


def test_unpacking_twice_changes_nothing(people: Path, view_2: Path, tmp_path: Path) -> None:
    call(people, tmp_path / "a.bin", "bin", f"pairs={view_2}")
    for _ in range(2):
        call(tmp_path / "a.bin", tmp_path / "folder", "folder")
    assert len(list((tmp_path / "folder").glob("*/*.jpg"))) == 8


def test_missing_images_are_named(people: Path, view_2: Path, tmp_path: Path) -> None:
    (people / "Cy" / "Cy_0001.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 6 images are not in the source, e\.g\. Cy/Cy_0001"):
        call(people, tmp_path / "a.bin", "bin", f"pairs={view_2}")


def test_pack_that_exists_is_kept_until_redo(people: Path, view_2: Path, tmp_path: Path) -> None:
    write_pack(tmp_path / "a.bin", [image("x"), image("y")], np.array([True]))
    before = (tmp_path / "a.bin").read_bytes()
    with pytest.raises(ConfigError, match=r"exists.*redo=true"):
        call(people, tmp_path / "a.bin", "bin", f"pairs={view_2}")
    assert (tmp_path / "a.bin").read_bytes() == before
    call(people, tmp_path / "a.bin", "bin", f"pairs={view_2}", "redo=true")
    assert len(read_pack(tmp_path / "a.bin")) == 4


def test_unreadable_image_leaves_no_half_pack(people: Path, view_2: Path, tmp_path: Path) -> None:
    (people / "Cy" / "Cy_0002.jpg").write_bytes(b"")
    with pytest.raises((DataError, ImageError), match=r"Cy_0002\.jpg: is empty"):
        call(people, tmp_path / "a.bin", "bin", f"pairs={view_2}")
    assert not list(tmp_path.glob("*a.bin*"))


def test_malformed_list_is_told_with_its_line(people: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("Ana/Ana_0001\tAna/Ana_0002\t1\nAna/Ana_0001\n")
    with pytest.raises(DataError, match="pair 2: expected two names and 1 or 0"):
        call(people, tmp_path / "a.bin", "bin", f"pairs={tmp_path / 'pairs.tsv'}")


def test_malicious_pack_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"cos\nsystem\n(S'touch mark'\ntR.")
    with pytest.raises(DataError, match=r"refused: the file asks to import os\.system"):
        call(tmp_path / "a.bin", tmp_path / "folder", "folder")


def test_pack_of_insightface_is_unpacked(shared: Path, tmp_path: Path, crops_folder: Callable[..., Path]) -> None:
    call(shared / "formats" / "small_lfw.bin", tmp_path / "folder", "folder")
    assert len(list((tmp_path / "folder").glob("*/*.jpg"))) == 20
    lines = (tmp_path / "folder" / "pairs.tsv").read_text().splitlines()
    assert lines[0] == "pair000001/pair000001_0001.jpg\tpair000001/pair000001_0002.jpg\t1"
    assert len(lines) == 10


def test_redo_replaces_no_file_of_another_kind(people: Path, view_2: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"precious")
    with pytest.raises(ConfigError, match=r"target=.*notes\.txt is no verification pack"):
        call(people, tmp_path / "notes.txt", "bin", f"pairs={view_2}", "redo=true")
    assert (tmp_path / "notes.txt").read_bytes() == b"precious"


def test_fewer_pairs_than_asked_for_are_told(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(people, tmp_path / "a.bin", "bin", "pairs=1000")
    assert "pairs=1,000 were asked for" in capsys.readouterr().out


def test_keys_that_would_do_nothing_are_refused(people: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pairs=6: is for to=bin"):
        call(people, tmp_path / "rec", "recordio", "pairs=6")
    call(people, tmp_path / "a.bin", "bin", "pairs=4")
    with pytest.raises(ConfigError, match=r"subset: source=.*a\.bin is a verification pack"):
        call(tmp_path / "a.bin", tmp_path / "b", "folder", "subset.first=2")


def test_unpacking_decodes_if_asked_to(people: Path, tmp_path: Path) -> None:
    call(people, tmp_path / "a.bin", "bin", "pairs=4")  # whose images only begin like images
    with pytest.raises(ImageError, match=r"is damaged|not an image"):
        call(tmp_path / "a.bin", tmp_path / "b", "folder", "decode=true")


def test_list_of_pairs_that_never_ends_is_refused(people: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pairs=/dev/zero: cannot be read \(Not a regular file\)"):
        call(people, tmp_path / "a.bin", "bin", "pairs=/dev/zero")
