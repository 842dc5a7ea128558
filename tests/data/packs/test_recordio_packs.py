from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from frtrain.data.formats import recordio
from frtrain.data.packs import open_pack
from frtrain.data.packs.conversion import copy_images
from frtrain.signals import StopRequest


def write(target: Path, source: Any) -> Path:
    with open_pack("recordio", target, {}) as pack:
        copy_images(source, pack, StopRequest(), lambda images, size: None)
    return target


def records(target: Path) -> dict[int, tuple[tuple[float, ...], bytes]]:
    """Labels and data by key, read as MXNet's `MXIndexedRecordIO` and `unpack` do it, for records without the magic word."""
    content = (target / "train.rec").read_bytes()
    found = {}
    for line in (target / "train.idx").read_text().splitlines():
        key, offset = map(int, line.split("\t"))
        magic, length = struct.unpack_from("<II", content, offset)
        assert magic == 0xCED7230A
        payload = content[offset + 8 : offset + 8 + length]
        flag, label, number, _ = struct.unpack_from("<IfQQ", payload)
        labels = struct.unpack_from(f"<{flag}f", payload, 24) if flag else (label,)
        found[key] = labels, payload[24 + 4 * flag :]
        assert number == key or found[key][1]
    return found


def images_of_arcface_torch(target: Path) -> list[tuple[int, bytes]]:
    """Label and image of every index, by the rules of `MXFaceDataset`."""
    found = records(target)
    labels, _ = found[0]
    keys = list(range(1, int(labels[0]))) if len(labels) > 1 else sorted(found)
    return [(int(found[key][0][0]), found[key][1]) for key in keys]


def test_arcface_torch_sees_the_same_images_and_labels(tmp_path: Path, listed_source: Any) -> None:
    source = listed_source(20)
    assert images_of_arcface_torch(write(tmp_path / "pack", source)) == [
        (label, source.encoded(index)) for index, label in enumerate(source.labels.tolist())
    ]
    assert (tmp_path / "pack" / "property").read_text() == "3,112,112"


def test_identity_records_say_where_an_identity_lies(tmp_path: Path, listed_source: Any) -> None:
    found = records(write(tmp_path / "pack", listed_source(20)))
    assert found[0][0] == (21, 24)
    assert [found[key][0] for key in (21, 22, 23)] == [(1, 8), (8, 15), (15, 21)]


def test_identities_that_do_not_lie_together_have_no_records_and_keep_their_order(
    tmp_path: Path, listed_source: Any
) -> None:
    images = [(bytes([255, 216, number]), number % 2, f"{number % 2}/{number}.jpg") for number in range(6)]
    found = records(write(tmp_path / "pack", listed_source(images, ["0", "1"])))
    assert found[0][0] == (7, 7)
    assert [found[key][0][0] for key in range(1, 7)] == [0, 1, 0, 1, 0, 1]


def test_pack_too_large_for_record_0_is_numbered_from_0(
    tmp_path: Path, listed_source: Any, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = listed_source(20)
    with monkeypatch.context() as patch:
        patch.setattr(recordio, "EXACT_FLOAT32", 22)
        write(tmp_path / "pack", source)
    assert sorted(records(tmp_path / "pack")) == list(range(20))
    assert [image for _, image in images_of_arcface_torch(tmp_path / "pack")] == [source.encoded(n) for n in range(20)]
    pack = opened("recordio", tmp_path / "pack")
    assert [pack.name(n) for n in range(20)] == [source.name(n) for n in range(20)]
    assert not list((tmp_path / "pack").glob("*.part"))
