from __future__ import annotations

import errno
import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import yaml

from frtrain.data.source import SOURCES, Source
from frtrain.data.synthetic import source as module
from frtrain.data.synthetic.conditions import draw_conditions
from frtrain.data.synthetic.identity import draw_person
from frtrain.data.synthetic.photograph import render_crop
from frtrain.data.synthetic.source import SyntheticFaces
from frtrain.errors import ConfigError

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "data" / "synthetic.yaml"


def must_not_render(*_: object) -> np.ndarray:
    raise AssertionError("rendered although the crop was cached")


def test_the_shipped_configuration_builds_the_source(tmp_path: Path):
    source = SOURCES.build({**yaml.safe_load(CONFIG.read_text()), "cache": str(tmp_path)})
    assert isinstance(source, Source)
    assert len(source) == len(source.labels) > len(source.classes) > 1


def test_a_source_without_people_is_refused_by_key():
    with pytest.raises(ConfigError, match=r"data\.identities"):
        SOURCES.check({"name": "synthetic", "identities": 0, "images_per_identity": 2, "seed": 0})


def test_labels_and_classes_follow_the_numbers():
    source = SyntheticFaces(3, 2, seed=0, first_identity=40, cache=None)
    assert source.classes == ["person-00040", "person-00041", "person-00042"]
    assert source.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert source.labels.dtype == np.int64


def test_a_person_looks_the_same_in_every_source_that_has_them():
    whole, part = SyntheticFaces(3, 2, 0, cache=None), SyntheticFaces(1, 4, 0, first_identity=2, cache=None)
    assert np.array_equal(whole.image(5), part.image(1))


def test_every_parameter_that_changes_the_data_changes_the_fingerprint():
    variants = [(3, 2, 0, 0), (4, 2, 0, 0), (3, 3, 0, 0), (3, 2, 1, 0), (3, 2, 0, 1)]
    prints = {SyntheticFaces(*variant, cache=None).fingerprint for variant in variants}
    assert len(prints) == len(variants)


def test_description_names_person_photograph_and_seed():
    assert SyntheticFaces(2, 3, seed=9, cache=None).describe(4) == "synthetic person-00001, photograph 1, seed 9"


def test_an_index_beyond_the_end_is_an_error():
    with pytest.raises(IndexError):
        SyntheticFaces(2, 2, 0, cache=None).image(4)


def test_pickling_for_workers_takes_no_pixels_along(tmp_path: Path):
    source = SyntheticFaces(4, 2, 0, cache=str(tmp_path))
    expected = source.image(3)
    data = pickle.dumps(source)
    assert len(data) < 10_000
    assert np.array_equal(pickle.loads(data).image(3), expected)


def test_a_crop_is_rendered_once_and_then_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = SyntheticFaces(2, 2, 0, cache=str(tmp_path)).image(3)
    monkeypatch.setattr(module, "render_crop", must_not_render)
    assert np.array_equal(SyntheticFaces(2, 2, 0, cache=str(tmp_path)).image(3), first)


def test_changing_a_returned_image_leaves_the_cache_alone(tmp_path: Path):
    source = SyntheticFaces(1, 1, 0, cache=str(tmp_path))
    source.image(0)
    source.image(0)[:] = 0
    assert source.image(0).any()


@pytest.mark.parametrize("offset", [2, 5000])
def test_a_damaged_record_is_rendered_again(tmp_path: Path, offset: int):
    expected = SyntheticFaces(1, 2, 0, cache=str(tmp_path)).image(0)
    (file,) = tmp_path.glob("*.crops")
    data = bytearray(file.read_bytes())
    data[offset] ^= 0xFF
    file.write_bytes(data)
    assert np.array_equal(SyntheticFaces(1, 2, 0, cache=str(tmp_path)).image(0), expected)


def test_a_cache_cut_short_is_completed(tmp_path: Path):
    source = SyntheticFaces(1, 2, 0, cache=str(tmp_path))
    expected = source.image(1)
    (file,) = tmp_path.glob("*.crops")
    os.truncate(file, file.stat().st_size - 100)
    assert np.array_equal(SyntheticFaces(1, 2, 0, cache=str(tmp_path)).image(1), expected)


def test_an_unusable_folder_warns_once_and_renders(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        source = SyntheticFaces(1, 2, 0, cache=str(blocked))
        images = [source.image(0), pickle.loads(pickle.dumps(source)).image(1)]
    assert [image.shape for image in images] == [(112, 112, 3)] * 2
    assert len(caplog.records) == 1
    assert "data.cache" in caplog.text


def test_a_full_disk_warns_once_and_renders(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    source = SyntheticFaces(1, 2, 0, cache=str(tmp_path))
    monkeypatch.setattr(os, "pwrite", full)
    with caplog.at_level(logging.WARNING):
        source.image(0)
        source.image(1)
    assert caplog.text.count("No space left") == 1


def test_the_default_cache_follows_the_xdg_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    SyntheticFaces(1, 1, 0).image(0)
    assert len(list((tmp_path / "frtrain").glob("*.crops"))) == 1


@pytest.mark.slow
def test_preparing_in_processes_fills_the_cache_with_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = SyntheticFaces(6, 2, 3, cache=str(tmp_path))
    expected = render_crop(draw_person(3, 4), draw_conditions(3, 4, 1))
    source.image(0)
    seen: list[int] = []
    assert source.prepare(workers=2, progress=seen.append) == 11
    assert sum(seen) == 12
    assert source.prepare(workers=0) == 0
    monkeypatch.setattr(module, "render_crop", must_not_render)
    assert np.array_equal(source.image(9), expected)


def test_preparing_without_a_cache_does_nothing():
    assert SyntheticFaces(2, 2, 0, cache=None).prepare(workers=0) == 0
