from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frtrain.commands.application import run_verb
from frtrain.commands.composition import compose_plain
from frtrain.data import SOURCES, Source
from frtrain.data.encoded import EncodedSource
from frtrain.data.source import Preparable
from frtrain.errors import ConfigError, DataError


def put_all(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (112, 112), (number, len(str(root)) % 256, 9)).save(path)
    return root


def concat(*sources: Path | dict[str, Any], classes: str = "offset") -> Source:
    specs = [{"name": "folder", "root": str(source)} if isinstance(source, Path) else source for source in sources]
    return SOURCES.build({"name": "concat", "sources": specs, "classes": classes})


def names(source: Source) -> list[str]:
    assert isinstance(source, EncodedSource)
    return [source.name(index) for index in range(len(source))]


SMALL_SYNTHETIC = {"name": "synthetic", "identities": 3, "images_per_identity": 2, "cache": None}


def test_images_come_one_source_after_the_other_and_identities_keep_their_names(tmp_path: Path):
    one = put_all(tmp_path / "one", "Ana/1.png", "Bo/1.png", "Bo/2.png")
    two = put_all(tmp_path / "second", "Cy/1.png", "Di/1.png")
    source = concat(one, two)
    assert list(source.classes) == ["Ana", "Bo", "Cy", "Di"]
    assert source.labels.tolist() == [0, 1, 1, 2, 3]
    assert names(source) == ["Ana/1.png", "Bo/1.png", "Bo/2.png", "Cy/1.png", "Di/1.png"]
    for index, path in enumerate(
        [one / "Ana/1.png", one / "Bo/1.png", one / "Bo/2.png", two / "Cy/1.png", two / "Di/1.png"]
    ):
        assert source.describe(index) == str(path)
        assert source.encoded(index) == path.read_bytes()
        assert np.array_equal(source.image(index), np.asarray(Image.open(path)))


def test_names_that_clash_get_the_number_of_their_source(tmp_path: Path):
    one = put_all(tmp_path / "one", "Ana/1.png", "Bo/1.png")
    two = put_all(tmp_path / "two", "Ana/1.png", "Cy/1.png")
    source = concat(one, two)
    assert list(source.classes) == ["0_Ana", "0_Bo", "1_Ana", "1_Cy"]
    assert source.labels.tolist() == [0, 1, 2, 3]
    assert names(source) == ["0_Ana/1.png", "0_Bo/1.png", "1_Ana/1.png", "1_Cy/1.png"]


def test_names_of_which_one_lies_in_the_other_clash(tmp_path: Path):
    one = put_all(tmp_path / "one", "a/b/1.png", "c/1.png")
    two = put_all(tmp_path / "two", "a/b/1.png", "d/1.png")
    source = concat(one, {"name": "folder", "root": str(two), "layout": "parent_folder"})
    assert list(source.classes) == ["0_a", "0_c", "1_a/b", "1_d"]
    assert len(set(names(source))) == 4


def test_equal_names_can_be_one_identity(tmp_path: Path):
    one = put_all(tmp_path / "one", "Ana/1.png", "Bo/1.png")
    two = put_all(tmp_path / "two", "Ana/1.png", "Cy/1.png")
    source = concat(one, two, classes="shared")
    assert list(source.classes) == ["Ana", "Bo", "Cy"]
    assert source.labels.tolist() == [0, 1, 0, 2]
    assert names(source) == ["Ana/0_1.png", "Bo/1.png", "Ana/1_1.png", "Cy/1.png"]


def test_shared_identities_of_flat_folders_keep_apart(tmp_path: Path):
    one = put_all(tmp_path / "one", "Ana_1.png", "Bo_1.png")
    two = put_all(tmp_path / "two", "Ana_1.png", "Cy_1.png")
    assert names(concat(one, two, classes="shared")) == ["Ana/0_Ana_1.png", "Bo_1.png", "Ana/1_Ana_1.png", "Cy_1.png"]


def test_the_fingerprint_tells_sources_order_and_classes_apart(tmp_path: Path):
    one = put_all(tmp_path / "one", "Ana/1.png", "Bo/1.png")
    two = put_all(tmp_path / "two", "Cy/1.png", "Di/1.png")
    prints = [concat(one, two), concat(two, one), concat(one, two, classes="shared"), concat(one)]
    assert len({source.fingerprint for source in prints}) == 4
    assert concat(one, two).fingerprint == prints[0].fingerprint


def test_what_is_not_given_is_as_in_the_yaml_of_the_source(tmp_path: Path):
    crops = put_all(tmp_path / "crops", "Ana/1.png", "Bo/1.png")
    (crops / "Bo" / "2.png").symlink_to(put_all(tmp_path / "elsewhere", "1.png") / "1.png")
    with pytest.raises(DataError, match=r"data\.sources\.0\.links=follow"):
        concat(crops, crops)
    linked = {"name": "folder", "root": str(crops), "links": "follow"}
    assert len(concat(linked, linked, classes="shared")) == 6


def test_sources_of_a_concatenation_may_be_concatenations(tmp_path: Path):
    one = put_all(tmp_path / "one", "Ana/1.png", "Bo/1.png")
    inner = {"name": "concat", "sources": [{"name": "folder", "root": str(one)}]}
    assert len(concat(one, inner)) == 4
    broken = {"name": "concat", "sources": [{"name": "folder", "root": str(one), "layot": "auto"}]}
    with pytest.raises(ConfigError, match=r"data\.sources\.1\.sources\.0\.layot: unknown key; did you mean 'layout'"):
        concat(one, broken)


def test_drawn_faces_and_stored_ones_go_together(tmp_path: Path):
    crops = put_all(tmp_path / "crops", "Ana/1.png", "Bo/1.png")
    source = concat(crops, SMALL_SYNTHETIC)
    assert not isinstance(source, EncodedSource)
    assert not hasattr(source, "encoded")
    assert len(source.classes) == 5
    assert source.image(7).shape == (112, 112, 3)
    counts: list[int] = []
    assert isinstance(source, Preparable)
    assert source.prepare(0, counts.append) == 0
    assert not isinstance(concat(crops), Preparable)


def test_drawn_faces_among_the_sources_are_prepared(tmp_path: Path):
    source = concat({**SMALL_SYNTHETIC, "cache": str(tmp_path)}, put_all(tmp_path / "crops", "Ana/1.png", "Bo/1.png"))
    counts: list[int] = []
    assert isinstance(source, Preparable)
    assert source.prepare(0, counts.append) == 6
    assert sum(counts) == len(source)
    assert source.prepare(0) == 0


def test_a_concatenation_can_be_sent_to_another_process(tmp_path: Path):
    source = concat(put_all(tmp_path / "one", "Ana/1.png", "Bo/1.png"))
    assert names(pickle.loads(pickle.dumps(source))) == ["Ana/1.png", "Bo/1.png"]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], r"data\.sources=\[\]: List should have at least 1 item"),
        ([{"name": "folder", "root": "x"}, {"name": "folder"}], r"data\.sources\.1\.root: a value is required"),
        ([{"name": "foldr", "root": "x"}], r"data\.sources\.0\.name=foldr: unknown data; did you mean 'folder'"),
        ([{"root": "x"}], r"data\.sources\.0\.name: a name is required"),
        ([{"name": "folder", "root": "x", "layout": "odd"}], r"data\.sources\.0\.layout='odd': must be"),
        ([{"name": "folder", "root": "x", "rot": "y"}], r"data\.sources\.0\.rot: unknown key; did you mean 'root'"),
        (["folder"], r"data\.sources\.0='folder': must be a valid dictionary"),
    ],
)
def test_a_wrong_specification_is_an_error_that_names_the_key(sources: list[Any], message: str):
    with pytest.raises(ConfigError, match=message):
        SOURCES.check({"name": "concat", "sources": sources, "classes": "offset"})


def test_a_source_that_is_not_there_is_named_by_its_number(tmp_path: Path):
    with pytest.raises(DataError, match=r"^data\.sources\.1\.root=.*/nowhere: no such folder"):
        concat(put_all(tmp_path / "one", "Ana/1.png", "Bo/1.png"), tmp_path / "nowhere")


def test_the_command_line_takes_a_list_of_sources(
    tmp_path: Path, crops_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    one, two = crops_folder(identities=2, images=3, name="one"), crops_folder(identities=3, images=1, name="two")
    sources = f"data.sources=[{{name: folder, root: {one}}}, {{name: auto, root: {two}}}]"
    assert run_verb(["inspect", "data=concat", sources]) == 0
    assert "9 of 9 images can be read" in capsys.readouterr().out
    assert run_verb(["data=concat", f"data.sources=[{{name: folder, root: {one}}}, {{name: folder, rot: {two}}}]"]) == 2
    assert "data.sources.1" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"data\.sources: a value is required"):
        compose_plain("train", ["data=concat"])


def test_one_source_twice_makes_no_two_people_of_each(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    one = put_all(tmp_path / "one", "Ana/1.png", "Bo/1.png")
    with pytest.raises(DataError, match=r"data\.sources\.1: is the same as data\.sources\.0"):
        concat(one, one)
    assert len(concat(one, one, classes="shared")) == 4
    assert "its images count twice" in caplog.text


def test_sources_of_equal_names_in_other_places_are_two(tmp_path: Path):
    one, two = (put_all(tmp_path / name, "0/1.png", "1/1.png") for name in ("one", "two"))
    assert list(concat(one, two).classes) == ["0_0", "0_1", "1_0", "1_1"]
