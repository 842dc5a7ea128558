from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import pickle
import random
import resource
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from frtrain.data import SOURCES
from frtrain.data.formats.open_files import OpenFiles
from frtrain.data.formats.tar import TarShardWriter
from frtrain.data.manifest import list_line, write_classes
from frtrain.data.sources.webdataset import WebDatasetSource
from frtrain.errors import ConfigError, DataError, ImageError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def picture(number: int, kind: str = "JPEG", size: int = 112) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (4, 4, 3)).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).resize((size, size)).save(encoded, kind)
    return encoded.getvalue()


def shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with TarShardWriter(path) as writer:
        for name, data in members.items():
            writer.add(name, data)
    return path


def opened(root: Path) -> WebDatasetSource:
    source = SOURCES.build({"name": "webdataset", "root": str(root)})
    assert isinstance(source, WebDatasetSource)
    return source


def pack(root: Path, labels: list[int], per_shard: int = 3, names: list[str] | None = None) -> Path:
    """As `frtrain convert` writes it."""
    for start in range(0, len(labels), per_shard):
        members: dict[str, bytes] = {}
        for number in range(start, min(start + per_shard, len(labels))):
            members |= {f"{number:09d}.jpg": picture(number), f"{number:09d}.cls": str(labels[number]).encode()}
        shard(root / f"train-{start // per_shard:06d}.tar", members)
    if names is not None:
        lines = [list_line(number, label, names[number]) for number, label in enumerate(labels)]
        (root / "images.lst").write_text("".join(lines), encoding="utf-8")
        write_classes(root / "classes.txt", ["Ana", "Bo", "Ćiro"])
    return root


def test_numbers_in_cls_are_classes_in_their_order(tmp_path: Path):
    source = opened(pack(tmp_path, [10, 2, 2, 10, 300]))
    assert list(source.classes) == ["2", "10", "300"]
    assert source.labels.tolist() == [1, 0, 0, 1, 2]
    assert [source.encoded(index) for index in range(5)] == [picture(number) for number in range(5)]


def test_names_in_cls_are_classes_in_alphabetical_order(tmp_path: Path):
    members = {"0.jpg": picture(0), "0.cls": "Łukasz\n".encode(), "1.png": picture(1, "PNG"), "1.cls": b"Ana"}
    source = opened(shard(tmp_path / "a.tar", members))
    assert list(source.classes) == ["Ana", "Łukasz"]
    assert [source.name(index) for index in range(2)] == ["Łukasz/0.jpg", "Ana/1.png"]


@pytest.mark.parametrize("key", ["label", "class", "identity", "id"])
def test_labels_may_stand_in_json(tmp_path: Path, key: str):
    members = {"0.json": json.dumps({key: 7}).encode(), "0.jpg": picture(0), "1.jpg": picture(1)}
    source = opened(shard(tmp_path / "a.tar", {**members, "1.json": json.dumps({key: "7"}).encode(), **two("8")}))
    assert list(source.classes) == ["7", "8"]


def two(label: str) -> dict[str, bytes]:
    return {"more.jpg": picture(99), "more.cls": label.encode()}


def test_cls_goes_before_json(tmp_path: Path):
    members = {"0.cls": b"1", "0.jpg": picture(0), "0.json": b'{"label": 5}', **two("2")}
    assert list(opened(shard(tmp_path / "a.tar", members)).classes) == ["1", "2"]


def test_members_of_a_sample_need_not_be_neighbours(tmp_path: Path):
    members = {"0.jpg": picture(0), "1.jpg": picture(1), "1.cls": b"b", "0.cls": b"a"}
    source = opened(shard(tmp_path / "a.tar", members))
    assert [source.classes[label] for label in source.labels] == ["a", "b"]


def test_without_any_label_the_first_folder_is_the_identity(tmp_path: Path):
    members = {"./Ana/1.jpg": picture(0), "./Ana/x/2.jpg": picture(1), "./Bo/1.jpg": picture(2)}
    source = opened(shard(tmp_path / "a.tar", members))
    assert list(source.classes) == ["Ana", "Bo"]
    assert source.labels.tolist() == [0, 0, 1]
    assert [source.name(index) for index in range(3)] == ["Ana/1.jpg", "Ana/x/2.jpg", "Bo/1.jpg"]


def test_a_pack_of_frtrain_has_its_names_back(tmp_path: Path):
    names = ["Ana/1.jpg", "Ćiro/x y.jpg", "Ana/2.jpg", "Ćiro/2.jpg"]
    source = opened(pack(tmp_path, [0, 2, 0, 2], names=names))
    assert list(source.classes) == ["Ana", "Ćiro"]
    assert [source.name(index) for index in range(4)] == names


def test_a_list_of_another_pack_gives_no_names(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    root = pack(tmp_path, [0, 1, 0], names=["Ana/1.jpg", "Bo/1.jpg", "Ana/2.jpg"])
    (root / "images.lst").write_text("0\t1\tBo/9.jpg\n1\t1\tBo/1.jpg\n2\t0\tAna/2.jpg\n")
    assert opened(root).name(0) == "Ana/000000000.jpg"
    assert "has other labels than the records" in caplog.text


def test_the_names_of_a_list_stay_below_the_folder_they_are_put_in(tmp_path: Path):
    root = pack(tmp_path, [0, 1], names=["../../Ana/1.jpg", "/etc/passwd"])
    assert [opened(root).name(index) for index in range(2)] == ["Ana/1.jpg", "etc/passwd"]


def test_identities_of_one_name_are_named_by_their_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    pack(tmp_path, [0, 1, 2])
    write_classes(tmp_path / "classes.txt", ["Ana", "Bo", "Ana"])
    assert list(opened(tmp_path).classes) == ["0", "1", "2"]
    assert "several identities are called 'Ana'" in caplog.text


def test_a_label_that_classes_txt_does_not_name_is_an_error(tmp_path: Path):
    root = pack(tmp_path, [0, 3], names=["Ana/1.jpg", "Bo/1.jpg"])
    with pytest.raises(DataError, match="has the label 3, but only 3 identities are named"):
        opened(root)


def test_the_same_member_in_two_shards_has_two_names(tmp_path: Path):
    for name, start in (("a.tar", ""), ("b.tar", "./")):
        members = {"0.jpg": picture(0), "0.cls": b"5", **two("6")}
        shard(tmp_path / name, {start + member: data for member, data in members.items()})
    source = opened(tmp_path)
    assert [source.name(index) for index in range(4)] == ["5/a/0.jpg", "6/a/more.jpg", "5/b/0.jpg", "6/b/more.jpg"]


def test_images_come_as_they_are_in_the_files(tmp_path: Path):
    members = {"0.png": picture(0, "PNG"), "0.cls": b"0", **two("1")}
    expected = np.asarray(Image.open(io.BytesIO(members["0.png"])))
    assert np.array_equal(opened(shard(tmp_path / "a.tar", members)).image(0), expected)


def test_the_description_names_shard_and_member(tmp_path: Path):
    assert opened(pack(tmp_path, [0, 1, 0, 1])).describe(3) == f"{tmp_path}/train-000001.tar:000000003.jpg"


def test_a_photograph_that_is_no_crop_is_told_with_its_member(tmp_path: Path):
    source = opened(shard(tmp_path / "a.tar", {"0.jpg": picture(0, size=250), "0.cls": b"0", **two("1")}))
    with pytest.raises(ImageError, match=r"a\.tar:0\.jpg: is 250x250"):
        source.image(0)


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({"0.jpg": b"x", "1.jpg": b"x", "1.cls": b"1"}, r"1 of 2 images have no label, e\.g\. 0\.jpg"),
        ({"0.jpg": b"x", "0.png": b"x", "0.cls": b"1"}, r"sample '0' has two images: 0\.jpg and 0\.png"),
        ({"0.jpg": b"x", "0.cls": b" \n"}, r"0\.cls is no label: 0 characters"),
        ({"0.jpg": b"x", "0.cls": b"9" * 5000}, r"0\.cls is no label: 5000 characters"),
        ({"0.jpg": b"x", "0.cls": b"-1", "1.jpg": b"x", "1.cls": b"0"}, "has the label -1; expected numbers from 0"),
        ({"0.jpg": b"x", "0.cls": b"../a", "1.jpg": b"x", "1.cls": b"b"}, r"'\.\./a' cannot be the name"),
        ({"0.jpg": b"x", "0.json": b"[" * 100_000}, r"0\.json is not JSON"),
        ({"0.jpg": b"x", "0.json": b'{"age": 3}', **two("1")}, r"1 of 2 images have no label, e\.g\. 0\.jpg"),
        ({"0.txt": b"x"}, "the shards have no images"),
        ({"0.jpg": b"x"}, r"0\.jpg has no label: expected a \.cls beside it"),
        (two("1"), "identities: 1, images: 1, but two identities are needed"),
    ],
)
def test_what_cannot_be_trained_on_is_told(tmp_path: Path, members: dict[str, bytes], complaint: str):
    with pytest.raises(DataError, match=complaint):
        opened(shard(tmp_path / "a.tar", members))


def test_labels_without_an_image_are_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    members = {"0.jpg": picture(0), "0.cls": b"0", "1.cls": b"1", **two("2")}
    assert len(opened(shard(tmp_path / "a.tar", members))) == 2
    assert "1 samples have a label but no image" in caplog.text


def test_hidden_members_and_further_files_of_a_sample_are_passed_over(tmp_path: Path):
    members = {"._0.jpg": b"x", "0.jpg": picture(0), "0.txt": b"words", "0.cls": b"0", "README": b"", **two("1")}
    assert len(opened(shard(tmp_path / "a.tar", members))) == 2


def test_a_missing_folder_and_one_without_shards_are_told(tmp_path: Path):
    with pytest.raises(DataError, match=r"nowhere: no such folder or tar file"):
        opened(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"has no shards: expected .*/\*\.tar"):
        opened(tmp_path / "empty")


@pytest.mark.parametrize("name", ["b.tar.gz", "b.tgz", "b.tar.zst"])
def test_compressed_shards_in_the_folder_are_refused(tmp_path: Path, name: str):
    shard(tmp_path / "a.tar", {"0.jpg": picture(0), "0.cls": b"0", **two("1")})
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match="is compressed: no image in it can be read without unpacking"):
        opened(tmp_path)


def test_the_root_is_a_string():
    with pytest.raises(ConfigError, match=r"data\.root=3"):
        SOURCES.build({"name": "webdataset", "root": 3})


def test_the_cache_gives_the_same_as_walking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = pack(tmp_path / "pack", [0, 2, 1, 2], names=["Ana/1.jpg", "Ćiro/1.jpg", "Bo/1.jpg", "Ćiro/2.jpg"])
    first = opened(root)
    monkeypatch.delattr("frtrain.data.sources.webdataset.walk")
    second = opened(root)
    assert second.fingerprint == first.fingerprint
    assert list(second.classes) == list(first.classes)
    assert [second.name(index) for index in range(4)] == [first.name(index) for index in range(4)]
    assert [second.encoded(index) for index in range(4)] == [first.encoded(index) for index in range(4)]


def test_a_shard_that_changes_is_walked_anew(tmp_path: Path):
    root = pack(tmp_path, [0, 1, 0])
    before = opened(root).fingerprint
    shard(root / "train-000000.tar", {"0.jpg": picture(7), "0.cls": b"0", **two("1")})
    assert len(opened(root)) == 2
    assert opened(root).fingerprint != before


def test_a_shard_that_is_cut_off_while_it_is_in_use_is_an_image_error(tmp_path: Path):
    source = opened(pack(tmp_path, [0, 1, 0]))
    os.truncate(tmp_path / "train-000000.tar", 700)
    with pytest.raises(ImageError, match=r"000000002\.jpg: the shard ends after 0 of \d+ bytes"):
        source.encoded(2)


def test_a_shard_that_goes_away_is_an_image_error(tmp_path: Path):
    source = opened(pack(tmp_path, [0, 1, 0]))
    (tmp_path / "train-000000.tar").unlink()
    with pytest.raises(ImageError, match=r"000000000\.jpg: cannot be read \(No such file"):
        source.encoded(0)


def test_the_webdataset_package_reads_our_shards(tmp_path: Path):
    root = pack(tmp_path, [3, 1, 2, 3])
    urls = [str(path) for path in sorted(root.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["cls"] for sample in samples] == [3, 1, 2, 3]
    raw = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["jpg"] for sample in raw] == [picture(number) for number in range(4)]


def test_shards_of_the_webdataset_package_are_read(tmp_path: Path):
    with webdataset.ShardWriter(str(tmp_path / "train-%06d.tar"), maxcount=3, verbose=0) as writer:
        for number in range(7):
            writer.write({"__key__": f"sample{number:04d}", "jpg": picture(number), "cls": number % 3})
    source = opened(tmp_path)
    assert source.labels.tolist() == [number % 3 for number in range(7)]
    assert [source.encoded(index) for index in range(7)] == [picture(number) for number in range(7)]
    assert source.name(4) == "1/sample0004.jpg"


def test_json_shards_of_the_webdataset_package_are_read(tmp_path: Path):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number in range(4):
            writer.write(
                {"__key__": f"id/{number}", "png": picture(number, "PNG"), "json": {"identity": f"p{number % 2}"}}
            )
    source = opened(tmp_path / "a.tar")
    assert [source.name(index) for index in range(4)] == [f"p{number % 2}/id/{number}.png" for number in range(4)]


def test_plain_tar_archives_of_crop_folders_are_read(tmp_path: Path, make_crops):
    make_crops(tmp_path / "crops", 3, 2)
    with tarfile.open(tmp_path / "crops.tar", "w") as archive:
        archive.add(tmp_path / "crops", ".")
    source = opened(tmp_path / "crops.tar")
    assert list(source.classes) == ["person_000", "person_001", "person_002"]
    assert source.encoded(0) == (tmp_path / "crops" / source.name(0)).read_bytes()


_source: WebDatasetSource


def digest(seed: int) -> str:
    contents = {index: _source.encoded(index) for index in random.Random(seed).choices(range(len(_source)), k=200)}
    contents |= {index: _source.encoded(index) for index in range(len(_source))}
    return hashlib.sha256(b"".join(contents[index] for index in range(len(_source)))).hexdigest()


def test_forked_processes_read_the_same_bytes_at_once(tmp_path: Path):
    global _source
    _source = opened(pack(tmp_path, [number % 5 for number in range(40)]))
    _source.encoded(0)  # opened before the fork
    with multiprocessing.get_context("fork").Pool(4) as pool:
        digests = set(pool.map(digest, range(16), chunksize=1))
    assert digests == {hashlib.sha256(b"".join(picture(number) for number in range(40))).hexdigest()}


def test_a_pickled_source_reads_on_its_own(tmp_path: Path):
    source = opened(pack(tmp_path, [0, 1, 0, 1]))
    source.encoded(0)
    again = pickle.loads(pickle.dumps(source))
    assert [again.encoded(index) for index in range(4)] == [source.encoded(index) for index in range(4)]


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_more_files_are_open_than_allowed(tmp_path: Path):
    paths = [tmp_path / f"{number}.bin" for number in range(40)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 8)
    files = OpenFiles(paths, at_most=5)
    before = open_descriptors()
    for number in [*range(40), *reversed(range(40)), 7, 7]:
        assert files.read(number, 3, 4) == bytes([number]) * 4
        assert open_descriptors() <= before + 5
    del files
    assert open_descriptors() == before


@contextmanager
def limit_of_open_files(further: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + further, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_reading_goes_on_where_the_process_can_open_no_further_files(tmp_path: Path):
    source = opened(pack(tmp_path, [number % 3 for number in range(60)], per_shard=1))
    with limit_of_open_files(10):
        contents = [source.encoded(index) for index in range(60)]
    assert contents == [picture(number) for number in range(60)]
