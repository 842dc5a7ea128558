from __future__ import annotations

import io
import logging
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frtrain.data import SOURCES
from frtrain.data.encoded import EncodedSource
from frtrain.data.formats.recordio import (
    MAGIC,
    RecordWriter,
    header_record,
    identity_record,
    index_line,
    pack_record,
)
from frtrain.data.manifest import list_line, write_classes
from frtrain.data.sources.recordio import RecordIOSource
from frtrain.errors import ConfigError, DataError, ImageError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def recordio(root: Path) -> RecordIOSource:
    source = SOURCES.build({"name": "recordio", "root": str(root)})
    assert isinstance(source, RecordIOSource)
    return source


def picture(shade: int, kind: str = "JPEG", size: int = 112) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (size, size), (shade, 200 - shade, 90)).save(content, kind)
    return content.getvalue()


def write_records(path: Path, records: Sequence[tuple[int, bytes]]) -> Path:
    """Payloads with their numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with RecordWriter(path) as writer:
        lines = [index_line(number, writer.append(payload)) for number, payload in records]
    path.with_suffix(".idx").write_text("".join(lines))
    return path.parent


def plain(root: Path, labels: Sequence[float | Sequence[float]], name: str = "train.rec") -> Path:
    """As im2rec writes it: records 0, 1, ... are images."""
    return write_records(
        root / name, [(number, pack_record(picture(number), label, number)) for number, label in enumerate(labels)]
    )


def insightface(root: Path, labels: Sequence[int], header_last: bool = False) -> Path:
    """As face2rec writes it, labels in ascending order: images 1 .., then identities; record 0 stands anywhere in the file."""
    classes = sorted(set(labels))
    records = [(n, pack_record(picture(n), [label, 1], n)) for n, label in enumerate(labels, start=1)]
    header = [(0, header_record(len(labels), len(classes)))]
    for at, label in enumerate(classes):
        start, number = 1 + labels.index(label), len(labels) + 1 + at
        records.append((number, identity_record(start, start + labels.count(label), number)))
    (root / "property").parent.mkdir(parents=True, exist_ok=True)
    (root / "property").write_text(f"{len(classes)},112,112")
    return write_records(root / "train.rec", records + header if header_last else header + records)


@pytest.mark.parametrize("header_last", [False, True])
@pytest.mark.parametrize("has_index", [False, True])
def test_insightfaces_header_and_identity_records_are_no_images(tmp_path: Path, header_last: bool, has_index: bool):
    root = insightface(tmp_path / "pack", [0, 0, 1, 2, 2], header_last)
    if not has_index:
        (root / "train.idx").unlink()
    source = recordio(root)
    assert isinstance(source, EncodedSource)
    assert source.labels.tolist() == [0, 0, 1, 2, 2]
    assert source.labels.dtype == np.int64
    assert list(source.classes) == ["0", "1", "2"]
    assert [source.encoded(index) for index in range(5)] == [picture(number) for number in range(1, 6)]
    assert source.image(0).shape == (112, 112, 3)


def test_the_selection_of_images_is_that_of_arcface_torch(tmp_path: Path):
    """Read with struct alone, in the steps of MXFaceDataset."""
    root = insightface(tmp_path / "pack", [0, 0, 1, 2, 2], header_last=True)
    content = (root / "train.rec").read_bytes()
    offsets = dict(tuple(map(int, line.split("\t"))) for line in (root / "train.idx").read_text().splitlines())

    def read_idx(key: int) -> tuple[int, tuple[float, ...], bytes]:
        (length,) = struct.unpack_from("<I", content, offsets[key] + 4)
        payload = content[offsets[key] + 8 : offsets[key] + 8 + length]
        flag, label, _, _ = struct.unpack_from("<IfQQ", payload)
        return flag, struct.unpack_from(f"<{flag}f", payload, 24) if flag else (label,), payload[24 + 4 * flag :]

    flag, label, _ = read_idx(0)
    keys = list(range(1, int(label[0]))) if flag > 0 else list(offsets)
    theirs = [(int(read_idx(key)[1][0]), read_idx(key)[2]) for key in keys]
    ours = recordio(root)
    assert [(int(ours.labels[index]), ours.encoded(index)) for index in range(len(ours))] == theirs


def test_a_plain_pack_is_all_images(tmp_path: Path):
    source = recordio(plain(tmp_path / "pack", [1, 0, 1]))
    assert source.labels.tolist() == [1, 0, 1]
    assert [source.encoded(index) for index in range(3)] == [picture(number) for number in range(3)]


def test_of_several_labels_the_first_is_the_identity(tmp_path: Path):
    source = recordio(plain(tmp_path / "pack", [[3, 1], [5, 0], 3]))
    assert source.labels.tolist() == [0, 1, 0]


def test_labels_that_leave_numbers_out_are_numbered_anew(tmp_path: Path):
    source = recordio(plain(tmp_path / "pack", [900, 7, 900, 16777216]))
    assert source.labels.tolist() == [1, 0, 1, 2]
    assert list(source.classes) == ["7", "900", "16777216"]


@pytest.mark.parametrize("label", [0.5, -1.0, float("nan"), float("inf"), 1e30])
def test_a_label_that_is_no_number_of_an_identity_is_named(tmp_path: Path, label: float):
    root = write_records(
        tmp_path / "pack" / "train.rec",
        [(0, pack_record(b"image", 0, 0)), (7, struct.pack("<IfQQ", 0, label, 7, 0) + b"image")],
    )
    with pytest.raises(
        DataError, match=rf"train\.rec: record 7 at byte 40: has the label {label:g}".replace("+", r"\+")
    ):
        recordio(root)


def test_one_identity_is_not_enough(tmp_path: Path):
    with pytest.raises(DataError, match="all 2 images have the label 4, but two identities are needed"):
        recordio(plain(tmp_path / "pack", [4, 4]))


def test_records_without_an_image_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    records = [(number, pack_record(picture(number), number, number)) for number in range(1, 4)]
    root = write_records(tmp_path / "pack" / "train.rec", [*records, (4, identity_record(1, 2, 4))])
    assert len(recordio(root)) == 3
    assert "1 records hold no image and are left out, the first is" in caplog.text


def test_a_header_record_that_announces_more_images_than_there_are_is_an_error(tmp_path: Path):
    root = insightface(tmp_path / "pack", [0, 0, 1, 1])
    lines = (root / "train.idx").read_text().splitlines()
    (root / "train.idx").write_text("\n".join(line for line in lines if not line.startswith("3\t")))
    with pytest.raises(
        DataError, match=r"header record announces the images 1 to 4, but only 3 of them .* delete train\.idx"
    ):
        recordio(root)


@pytest.mark.parametrize("labels", [(0.5, 7.0), (5.0, 4.0), (float("nan"), 7.0), (1e30, 1e30)])
def test_a_header_record_that_announces_nonsense_is_an_error(tmp_path: Path, labels: tuple[float, float]):
    header = struct.pack("<IfQQff", 2, 0, 0, 0, *labels)
    images = [(number, pack_record(picture(number), number, number)) for number in range(1, 4)]
    with pytest.raises(DataError, match=r"record at byte 0: is InsightFace's header record, but its labels are"):
        recordio(write_records(tmp_path / "pack" / "train.rec", [(0, header), *images]))


def test_a_header_record_that_float32_has_rounded_does_not_count_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = insightface(tmp_path / "pack", [0, 0, 1, 1, 2])
    (root / "train.idx").write_text("\n".join((root / "train.idx").read_text().splitlines()[:-4]))
    monkeypatch.setattr("frtrain.data.sources.recordio_pack.EXACT_FLOAT32", 5)
    assert recordio(root).labels.tolist() == [0, 0, 1, 1]


def test_labels_that_float32_may_have_rounded_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert list(recordio(plain(tmp_path / "pack", [0, 2**24 + 2])).classes) == ["0", "16777218"]
    assert "labels go up to 16777218, and float32" in caplog.text


def test_an_index_may_name_a_part_of_the_records(tmp_path: Path):
    root = plain(tmp_path / "pack", [0, 1, 2, 1])
    (root / "train.idx").write_text("\n".join((root / "train.idx").read_text().splitlines()[1:]))
    assert list(recordio(root).classes) == ["1", "2"]


def test_a_missing_index_is_told_once_and_found_again_in_the_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    root = plain(tmp_path / "pack", [0, 1, 1])
    whole = recordio(root)
    (root / "train.idx").unlink()
    with caplog.at_level(logging.INFO):
        first, second = recordio(root), recordio(root)
    assert caplog.text.count("there is no train.idx; records are found by reading the file") == 1
    assert first.fingerprint == second.fingerprint == whole.fingerprint
    assert [second.encoded(index) for index in range(3)] == [whole.encoded(index) for index in range(3)]


def test_a_changed_pack_is_not_taken_from_the_cache(tmp_path: Path):
    root = plain(tmp_path / "pack", [0, 1, 1])
    before = recordio(root)
    after = recordio(plain(tmp_path / "pack", [0, 1, 2]))
    assert after.labels.tolist() == [0, 1, 2]
    assert after.fingerprint != before.fingerprint


def test_the_fingerprint_changes_with_labels_sizes_and_names_and_not_with_the_place(tmp_path: Path):
    roots = [plain(tmp_path / name, labels) for name, labels in [("a", [0, 1, 1]), ("b", [0, 1, 1]), ("c", [0, 1, 0])]]
    named = plain(tmp_path / "d", [0, 1, 1])
    write_classes(named / "classes.txt", ["Ann", "Bo"])
    records = [(number, pack_record(picture(number) + b"\0", label, number)) for number, label in enumerate([0, 1, 1])]
    longer = write_records(tmp_path / "e" / "train.rec", records)
    first, second, *others = (recordio(root).fingerprint for root in [*roots, named, longer])
    assert first == second
    assert len({first, *others}) == 4
    assert first.startswith("recordio:3 images:2 identities:")


def test_images_without_a_list_are_named_by_label_number_and_kind(tmp_path: Path):
    pictures = [
        picture(1),
        picture(2, "PNG"),
        picture(3, "WEBP"),
        picture(4, "BMP"),
        b"what",
        MAGIC + b"\x89PNG",
        b"\xff",
    ]
    records = [(n, pack_record(content, [n % 2 + 5, 1][: 1 + n % 2], n)) for n, content in enumerate(pictures)]
    source = recordio(write_records(tmp_path / "pack" / "train.rec", records))
    expected = ["5/0.jpg", "6/1.png", "5/2.webp", "6/3.bmp", "5/4.jpg", "6/5.jpg", "5/6.jpg"]
    assert [source.name(index) for index in range(7)] == expected


def test_list_and_classes_give_names_back(tmp_path: Path):
    root = plain(tmp_path / "pack", [0, 2, 2])
    write_classes(root / "classes.txt", ["Ann", "nobody", "Łukasz\t2"])
    names = ["Ann/1.jpg", "Łukasz\t2/b.jpg", "Łukasz\t2/a.jpg"]
    lines = [list_line(number, label, name) for number, (label, name) in enumerate(zip([0, 2, 2], names, strict=True))]
    (root / "train.lst").write_text("".join(reversed(lines)), encoding="utf-8")
    source = recordio(root)
    assert list(source.classes) == ["Ann", "Łukasz\t2"]
    assert [source.name(index) for index in range(3)] == names


def test_names_that_lead_out_of_a_folder_are_brought_back_into_it(tmp_path: Path):
    root = plain(tmp_path / "pack", [0, 1])
    (root / "train.lst").write_text("0\t0\t../../etc/a.jpg\n1\t1\t/data//./b/1.jpg\n")
    write_classes(root / "classes.txt", ["..", "/b"])
    source = recordio(root)
    assert [source.name(0), source.name(1)] == ["etc/a.jpg", "data/b/1.jpg"]
    (root / "train.lst").unlink()
    source = recordio(root)
    assert [source.name(0), source.name(1)] == ["0/0.jpg", "b/1.jpg"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0\t0\ta/1.jpg\n1\t0\ta/2.jpg\n2\t1\tb/1.jpg\n", r"train\.lst: has other labels than the records"),
        ("0\t0\ta/1.jpg\n1\t1\tb/2.jpg\n", "does not list all 3 records"),
        ("1\t0\ta/1.jpg\n2\t1\tb/2.jpg\n3\t1\tb/3.jpg\n", "does not list all 3 records"),
        ("0\t0\ta/1.jpg\n1\t1\tb/2.jpg\n2\t1\tb/2.jpg\n", "names two images alike"),
        ("0\t0\ta/1.jpg\n1\t1\t../\n2\t1\tb/2.jpg\n", "images without a name"),
        ("99999999999999999999\t0\ta\n", "a number in it is too large"),
        ("1\t/data/Ann/1.jpg\t0\n", r"train\.lst:1: expected number, label and name"),
        ("", "does not list all 3 records"),
    ],
)
def test_a_list_of_something_else_is_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, complaint: str
):
    root = plain(tmp_path / "pack", [0, 1, 1])
    (root / "train.lst").write_text(text)
    source = recordio(root)
    assert [source.name(index) for index in range(3)] == ["0/0.jpg", "1/1.jpg", "1/2.jpg"]
    assert len(caplog.messages) == 1
    assert re.search(complaint, caplog.messages[0])


@pytest.mark.parametrize("names", [["Ann"], ["Ann", "Ann"]])
def test_class_names_that_do_not_fit_are_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: list[str]
):
    root = plain(tmp_path / "pack", [0, 1])
    write_classes(root / "classes.txt", names)
    assert list(recordio(root).classes) == ["0", "1"]
    assert "identities are named by label" in caplog.text


def test_a_property_of_another_number_of_classes_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    root = insightface(tmp_path / "pack", [0, 1])
    recordio(root)
    assert not caplog.messages
    (root / "property").write_text("85742,112,112")
    assert len(recordio(root).classes) == 2
    (root / "property").write_text("what")
    recordio(root)
    assert "announces 85742 classes, but 2 labels occur" in caplog.text
    assert "does not start with a number of classes" in caplog.text


def test_numbered_parts_are_one_data_set(tmp_path: Path):
    for part, labels in [(0, [0, 1]), (2, [1]), (10, [2, 0])]:
        plain(tmp_path / "pack", labels, f"train_{part}.rec")
    source = recordio(tmp_path / "pack")
    assert source.labels.tolist() == [0, 1, 1, 2, 0]
    assert [source.name(index) for index in range(2, 5)] == ["1/train_2_0.jpg", "2/train_10_0.jpg", "0/train_10_1.jpg"]
    assert source.encoded(4) == picture(1)
    assert source.describe(4).endswith(f"train_10.rec: record 1 at byte {source.packs[2].offsets[1]}")


def test_unrelated_packs_in_a_folder_have_to_be_chosen_from(tmp_path: Path):
    for name in ("faces.rec", "train_1.rec"):
        plain(tmp_path / "pack", [0, 1], name)
    with pytest.raises(DataError, match=r"several packs: faces\.rec, train_1\.rec; choose one with data\.root="):
        recordio(tmp_path / "pack")
    assert len(recordio(tmp_path / "pack" / "faces.rec")) == 2


def test_train_rec_is_taken_before_others_in_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    plain(tmp_path / "pack", [0, 1, 2])
    plain(tmp_path / "pack", [0, 1], "val.rec")
    assert len(recordio(tmp_path / "pack")) == 3
    assert "only train.rec is read, not val.rec" in caplog.text


def test_a_folder_without_a_pack_is_an_error_that_says_what_is_expected(tmp_path: Path):
    with pytest.raises(DataError, match=r"has no \.rec file: expected .*train\.rec"):
        recordio(tmp_path)
    with pytest.raises(DataError, match=r"no such folder or \.rec file"):
        recordio(tmp_path / "absent")
    with pytest.raises(DataError, match=r"data\.root: a folder with train\.rec is required"):
        RecordIOSource("")
    with pytest.raises(ConfigError, match=r"data\.root"):
        SOURCES.build({"name": "recordio", "root": 3})


def test_a_damaged_image_is_an_error_that_names_file_record_and_byte(tmp_path: Path):
    root = plain(tmp_path / "pack", [0, 1])
    source = recordio(root)
    offset = int(source.packs[0].offsets[1])
    with (root / "train.rec").open("r+b") as file:
        file.seek(offset)
        file.write(b"\0\0\0\0")
    for read in (source.encoded, source.image):
        with pytest.raises(ImageError, match=rf"train\.rec: record 1 at byte {offset}: no record starts here"):
            read(1)
    assert source.image(0).shape == (112, 112, 3)


def test_a_crop_of_another_size_is_an_error_that_names_the_record(tmp_path: Path):
    records = [(n, pack_record(picture(n, size=100 + 12 * n), n, n)) for n in range(2)]
    source = recordio(write_records(tmp_path / "pack" / "train.rec", records))
    with pytest.raises(ImageError, match=r"record 0 at byte 0: is 100x100, not an aligned 112x112 crop"):
        source.image(0)


def test_a_folder_whose_name_is_not_unicode_is_read(tmp_path: Path):
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    assert len(recordio(plain(root, [0, 1]))) == 2


def test_the_real_sample_has_the_names_of_its_list(shared: Path):
    source = recordio(shared / "formats")
    assert source.labels.tolist() == [0, 1, 1, 1, 0, 1, 0, 0]
    assert list(source.classes) == ["0", "1"]
    assert source.name(1) == "woman/woman_1.jpg"
    assert source.describe(1).endswith("train.rec: record 4 at byte 5500")
    assert all(source.image(index).shape == (112, 112, 3) for index in range(8))


def test_an_index_that_leaves_records_out_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    root = insightface(tmp_path, [0, 0, 1, 1, 2, 2], header_last=True)
    recordio(root)
    assert not caplog.text
    lines = (root / "train.idx").read_text().splitlines(keepends=True)
    (root / "train.idx").write_text("".join(lines[:4]))
    for _ in range(2):  # from the file, and from what is kept of it
        caplog.clear()
        assert len(recordio(root)) == 4
        assert "train.idx leaves" in caplog.text
