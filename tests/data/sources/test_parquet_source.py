from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import pickle
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from frtrain.data import SOURCES
from frtrain.data.formats.parquet import ParquetFiles
from frtrain.data.sources.parquet import ParquetSource
from frtrain.errors import ConfigError, DataError, ImageError


def picture(number: int, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (4, 4, 3)).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).resize((112, 112)).save(encoded, kind)
    return encoded.getvalue()


def images(count: int, paths: list[str | None] | None = None, start: int = 0) -> pa.Array:
    given: list[str | None] = [None] * count if paths is None else paths
    rows = [{"bytes": picture(start + number), "path": given[number]} for number in range(count)]
    return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def table(path: Path, columns: dict[str, Any], names: list[str] | None = None, group: int = 1000) -> Path:
    content = pa.table(columns)
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        content = content.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path, row_group_size=group)
    return path


def opened(root: Path, **parameters: object) -> ParquetSource:
    defaults = {"image_column": None, "label_column": None, "cache_mebibytes": 256}
    source = SOURCES.build({"name": "parquet", "root": str(root), **defaults, **parameters})
    assert isinstance(source, ParquetSource)
    return source


def names(source: ParquetSource) -> list[str]:
    return [source.name(index) for index in range(len(source))]


def test_structs_of_bytes_and_path_are_read(tmp_path: Path):
    source = opened(table(tmp_path / "a.parquet", {"image": images(3), "label": [7, 2, 7]}))
    assert list(source.classes) == ["2", "7"]
    assert source.labels.tolist() == [1, 0, 1]
    assert [source.encoded(index) for index in range(3)] == [picture(number) for number in range(3)]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_binary_values_are_read(tmp_path: Path, kind: pa.DataType):
    column = pa.array([picture(0), picture(1)], kind)
    source = opened(table(tmp_path / "a.parquet", {"jpg": column, "identity": ["Bo", "Ana"]}))
    assert list(source.classes) == ["Ana", "Bo"]
    assert [source.encoded(index) for index in range(2)] == [picture(0), picture(1)]
    assert names(source) == ["Bo/000000000.jpg", "Ana/000000001.jpg"]


@pytest.mark.parametrize(
    "labels",
    [
        pa.array(["b", "a", "b"]),
        pa.array(["b", "a", "b"], pa.large_string()),
        pa.array(["b", "a", "b"]).dictionary_encode(),
        pa.array([5, 3, 5], pa.uint8()),
        pa.array([5, 3, 5], pa.int64()),
        pa.array(["5", "3", "5"]),
    ],
    ids=lambda array: str(array.type)[:20],
)
def test_labels_of_any_integer_or_text_type_are_read(tmp_path: Path, labels: pa.Array):
    assert opened(table(tmp_path / "a.parquet", {"image": images(3), "label": labels})).labels.tolist() == [1, 0, 1]


def test_the_files_of_a_folder_are_read_in_the_order_of_their_names(tmp_path: Path):
    for number in (2, 0, 1):
        columns = {"image": images(4, start=4 * number), "label": [4 * number + row for row in range(4)]}
        table(tmp_path / f"train-{number:05d}-of-00003.parquet", columns, group=3)
    source = opened(tmp_path)
    assert source.labels.tolist() == list(range(12))
    order = random.Random(0).sample(range(12), 12)
    assert [source.encoded(index) for index in order] == [picture(number) for number in order]
    assert source.describe(7) == f"{tmp_path}/train-00001-of-00003.parquet:row 3"
    assert source.describe(8) == f"{tmp_path}/train-00002-of-00003.parquet:row 0"


def test_class_names_come_from_the_metadata_of_hugging_face(tmp_path: Path):
    columns = {"image": images(3), "label": [2, 0, 2]}
    assert list(opened(table(tmp_path / "a.parquet", columns, names=["Ana", "Bo", "Ćiro"])).classes) == ["Ana", "Ćiro"]


@pytest.mark.parametrize("metadata", [b"", b"{", b"[" * 100_000, b"3", b'{"info": {"features": []}}', b"\xff\xfe"])
def test_other_metadata_name_no_classes(tmp_path: Path, metadata: bytes):
    content = pa.table({"image": images(2), "label": [0, 1]}).replace_schema_metadata({b"huggingface": metadata})
    pq.write_table(content, tmp_path / "a.parquet")
    assert list(opened(tmp_path).classes) == ["0", "1"]


def test_images_are_named_by_identity_and_file(tmp_path: Path):
    paths: list[str | None] = ["/home/x/1.jpg", "2.jpg", None, "..", "C:\\faces\\5.png"]
    source = opened(table(tmp_path / "a.parquet", {"image": images(5, paths), "label": ["a", "b", "a", "b", "a"]}))
    assert names(source) == ["a/1.jpg", "b/2.jpg", "a/000000002.jpg", "b/000000003.jpg", "a/5.png"]


def test_file_names_that_repeat_within_an_identity_get_the_row(tmp_path: Path):
    source = opened(
        table(tmp_path / "a.parquet", {"image": images(3, ["x/1.jpg", "y/1.jpg", "1.jpg"]), "label": [0, 0, 1]})
    )
    assert names(source) == ["0/1-000000000.jpg", "0/1-000000001.jpg", "1/1-000000002.jpg"]


def test_the_extension_of_unnamed_images_is_that_of_the_first(tmp_path: Path):
    columns = {"image": pa.array([picture(0, "PNG"), picture(1, "PNG")]), "label": [0, 1]}
    assert names(opened(table(tmp_path / "a.parquet", columns))) == ["0/000000000.png", "1/000000001.png"]


def test_columns_are_found_by_type_and_then_by_name(tmp_path: Path):
    columns = {"raw": images(2), "age": [3, 4], "image": images(2, start=5), "note": ["x", "y"], "label": [0, 1]}
    source = opened(table(tmp_path / "a.parquet", columns))
    assert source.encoded(0) == picture(5)
    assert list(source.classes) == ["0", "1"]


def test_columns_may_be_chosen(tmp_path: Path):
    columns = {"raw": images(2), "age": [3, 4], "image": images(2, start=5), "label": [0, 1]}
    source = opened(table(tmp_path / "a.parquet", columns), image_column="raw", label_column="age")
    assert source.encoded(0) == picture(0)
    assert list(source.classes) == ["3", "4"]


@pytest.mark.parametrize(
    ("columns", "parameters", "complaint"),
    [
        ({"x": 2, "y": 2, "label": 1}, {}, r"several columns could be the images.*data\.image_column=.*x \(struct.*y"),
        (
            {"image": 2, "age": 1, "height": 1},
            {},
            r"several columns could be the labels.*data\.label_column=.*age \(int64",
        ),
        ({"label": 1}, {}, r"no column can be the images.*label \(int64\)"),
        ({"image": 2}, {}, r"no column can be the labels"),
        (
            {"image": 2, "label": 1},
            {"image_column": "img"},
            r"data\.image_column=img: no such column; there are: image",
        ),
        ({"image": 2, "label": 1}, {"label_column": "image"}, r"data\.label_column=image: expected integers or texts"),
    ],
)
def test_columns_that_cannot_be_told_are_an_error_that_lists_them(
    tmp_path: Path, columns: dict[str, int], parameters: dict[str, str], complaint: str
):
    path = table(tmp_path / "a.parquet", {name: images(2) if kind == 2 else [0, 1] for name, kind in columns.items()})
    with pytest.raises(DataError, match=complaint):
        opened(path, **parameters)


def test_a_file_with_other_columns_is_an_error_that_names_it(tmp_path: Path):
    table(tmp_path / "a.parquet", {"image": images(2), "label": [0, 1]})
    table(tmp_path / "b.parquet", {"image": images(2), "label": ["x", "y"]})
    with pytest.raises(DataError, match=r"b\.parquet: column label is missing or of another type than in a\.parquet"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        ([0, None, 1], "1 rows have no label in column label"),
        ([0, -1, 1], "has the label -1"),
        (["a", "../b", "c"], "'../b' cannot be the name of an identity"),
        ([4, 4, 4], "identities: 1, images: 3, but two identities are needed"),
    ],
)
def test_labels_that_cannot_be_trained_on_are_told(tmp_path: Path, labels: list[Any], complaint: str):
    with pytest.raises(DataError, match=complaint):
        opened(table(tmp_path / "a.parquet", {"image": images(3), "label": labels}))


def test_an_image_without_bytes_is_told_when_read(tmp_path: Path):
    column = pa.array([{"bytes": None, "path": "x.jpg"}, None, {"bytes": b"", "path": None}], images(1).type)
    source = opened(table(tmp_path / "a.parquet", {"image": column, "label": [0, 1, 1]}))
    for index in range(2):
        with pytest.raises(ImageError, match=rf"a\.parquet:row {index}: has no bytes"):
            source.encoded(index)
    with pytest.raises(ImageError, match="is empty"):
        source.image(2)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"not a table at all"])
def test_what_is_no_table_is_told_by_name(tmp_path: Path, content: bytes):
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet: is damaged, or no Parquet file"):
        opened(tmp_path)


def test_missing_folders_and_folders_without_tables_are_told(tmp_path: Path):
    with pytest.raises(DataError, match="nowhere: no such folder or parquet file"):
        opened(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"has no parquet files: expected .*\*\.parquet"):
        opened(tmp_path)


def test_file_names_may_be_of_any_bytes(tmp_path: Path):
    path = table(tmp_path / "a.parquet", {"image": images(2), "label": [0, 1]}).rename(tmp_path / "caf\udce9.parquet")
    assert opened(path).encoded(1) == picture(1)


def test_without_pyarrow_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = table(tmp_path / "a.parquet", {"image": images(2), "label": [0, 1]})
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"pip install 'frtrain\[parquet\]'"):
        opened(path)


def test_kept_row_groups_stay_within_their_bytes(tmp_path: Path):
    path = table(tmp_path / "a.parquet", {"image": images(60), "label": list(range(60))}, group=5)
    files = ParquetFiles([path], None, None, cache_bytes=3 * 5 * len(picture(0)) + 2000)
    order = random.Random(0).choices(range(60), k=200)
    assert [files.image(row) for row in order] == [picture(row) for row in order]
    assert 1 <= len(files._here.groups) <= 3


def test_one_row_group_is_kept_whatever_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = table(tmp_path / "a.parquet", {"image": images(4), "label": [0, 1, 2, 3]})
    files = ParquetFiles([path], None, None, cache_bytes=1)
    files.image(0)
    monkeypatch.delattr(ParquetFiles, "_read_group")
    assert files.image(3) == picture(3)


def test_wasteful_row_groups_are_told_with_their_size(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    columns = {"image": pa.array([random.Random(row).randbytes(8192) for row in range(512)]), "label": list(range(512))}
    opened(table(tmp_path / "large.parquet", columns, group=256), cache_mebibytes=64)
    opened(table(tmp_path / "small.parquet", columns, group=100), cache_mebibytes=1)
    assert not caplog.text
    opened(tmp_path / "large.parquet", cache_mebibytes=1)
    assert "row groups hold 256 images (2.0 MiB) on average" in caplog.text
    assert "python -m frtrain convert" in caplog.text


def test_the_fingerprint_changes_with_labels_and_images(tmp_path: Path):
    prints = {
        opened(table(tmp_path / "a.parquet", {"image": images(3, start=start), "label": labels})).fingerprint
        for labels in ([0, 1, 1], [0, 1, 0])
        for start in (0, 0)
    }
    assert len(prints) == 2


_source: ParquetSource


def digest(seed: int) -> str:
    order = random.Random(seed).sample(range(len(_source)), len(_source))
    contents = {index: _source.encoded(index) for index in order}
    return hashlib.sha256(b"".join(contents[index] for index in range(len(_source)))).hexdigest()


def test_forked_processes_read_the_same_bytes_at_once(tmp_path: Path):
    global _source
    path = table(tmp_path / "a.parquet", {"image": images(30), "label": list(range(30))}, group=4)
    _source = opened(path, cache_mebibytes=1)
    _source.encoded(0)  # opened before the fork
    with multiprocessing.get_context("fork").Pool(4) as pool:
        digests = set(pool.map(digest, range(8), chunksize=1))
    assert digests == {hashlib.sha256(b"".join(picture(number) for number in range(30))).hexdigest()}


def test_a_pickled_source_reads_on_its_own(tmp_path: Path):
    source = opened(table(tmp_path / "a.parquet", {"image": images(3), "label": [0, 1, 1]}))
    source.encoded(0)
    again = pickle.loads(pickle.dumps(source))
    assert [again.encoded(index) for index in range(3)] == [picture(number) for number in range(3)]
