from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frtrain.data import SOURCES, Source
from frtrain.data.encoded import EncodedSource
from frtrain.errors import ConfigError, DataError, ImageError


def folder(root: Path, **parameters: object) -> Source:
    return SOURCES.build({"name": "folder", "root": str(root), "layout": "auto", "links": "inside", **parameters})


def put(path: Path, size: int = 112) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (9, 90, 200)).save(path)
    return path


def put_all(root: Path, *names: str) -> Path:
    for name in names:
        put(root / name)
    return root


def names(source: Source) -> list[str]:
    assert isinstance(source, EncodedSource)
    return [source.name(index) for index in range(len(source))]


def test_identities_are_counted_and_labelled_in_the_order_of_their_names(tmp_path: Path):
    source = folder(put_all(tmp_path, "b/1.jpg", "a/2.png", "a/1.jpg"))
    assert source.classes == ["a", "b"]
    assert source.labels.tolist() == [0, 0, 1]
    assert source.describe(1).endswith(f"a{os.sep}2.png")


def test_folders_below_an_identity_belong_to_it(tmp_path: Path):
    source = folder(put_all(tmp_path, "a/s/1.jpg", "a/s.jpg", "a/r/1.jpg", "b/1.jpg", "a-b/1.jpg"))
    assert source.classes == ["a", "a-b", "b"]
    assert source.labels.tolist() == [0, 0, 0, 1, 2]
    assert names(source) == ["a/r/1.jpg", "a/s.jpg", "a/s/1.jpg", "a-b/1.jpg", "b/1.jpg"]


def test_the_parent_folder_layout_names_identities_by_their_whole_path(tmp_path: Path):
    put_all(tmp_path, "set1/a/1.jpg", "set2/a/1.jpg")
    assert folder(tmp_path, layout="parent_folder").classes == ["set1/a", "set2/a"]


def test_a_flat_folder_takes_identities_from_file_names(tmp_path: Path):
    source = folder(put_all(tmp_path, "Bo_0001.jpg", "Ann_Lee_0002.jpg", "Ann_Lee_0001.jpg"))
    assert source.classes == ["Ann_Lee", "Bo"]
    assert names(source) == ["Ann_Lee_0001.jpg", "Ann_Lee_0002.jpg", "Bo_0001.jpg"]


def test_unicode_names_and_upper_case_extensions_are_read(tmp_path: Path):
    source = folder(put_all(tmp_path, "Łukasz Żółć/фото 1.JPG", "山田/1.jpeg"))
    assert source.classes == ["Łukasz Żółć", "山田"]
    assert source.image(0).shape == (112, 112, 3)


def test_names_that_are_no_unicode_are_read(tmp_path: Path):
    put_all(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "a" / "1.jpg").rename(tmp_path / "a" / os.fsdecode(b"caf\xe9\n.jpg"))
    source = folder(tmp_path)
    assert names(source)[0].encode("utf-8", "surrogateescape") == b"a/caf\xe9\n.jpg"
    assert source.image(0).shape == (112, 112, 3)


def test_links_within_the_root_are_followed_and_loops_end(tmp_path: Path):
    root = put_all(tmp_path / "root", "a/1.jpg", ".store/1.jpg")
    (root / "a" / "link.jpg").symlink_to(root / ".store" / "1.jpg")
    (root / "b").symlink_to(root / ".store", target_is_directory=True)
    (root / "a" / "loop").symlink_to(root, target_is_directory=True)
    (root / "a" / "itself.jpg").symlink_to("itself.jpg")
    source = folder(root)
    assert names(source) == ["a/1.jpg", "a/itself.jpg", "a/link.jpg", "b/1.jpg"]
    with pytest.raises(ImageError, match="cannot be read"):
        source.image(1)


def test_a_folder_keeps_its_own_name_beside_links_to_it(tmp_path: Path):
    put_all(tmp_path, "b/1.jpg", "c/1.jpg")
    (tmp_path / "a").symlink_to("b", target_is_directory=True)
    assert folder(tmp_path).classes == ["b", "c"]


@pytest.mark.parametrize("target", ["1.jpg", ""], ids=["file", "folder"])
def test_a_link_that_leads_outside_is_refused_unless_it_is_asked_for(tmp_path: Path, target: str):
    root = put_all(tmp_path / "root", "a/1.jpg", "b/1.jpg")
    put(tmp_path / "root2" / "c" / "1.jpg")  # its path begins as the root's
    link = root / "b" / (target or "folder")
    if target:
        link.unlink()
    link.symlink_to(tmp_path / "root2" / "c" / target)
    with pytest.raises(DataError, match=rf"b/{link.name}: is a link .* to .*root2/c.*data\.links=follow"):
        folder(root)
    assert len(folder(root, links="follow")) == (2 if target else 3)


def test_a_link_to_a_link_out_of_the_root_is_refused(tmp_path: Path):
    root = put_all(tmp_path / "root", "a/1.jpg", "b/1.jpg", ".store/x.jpg")
    put(tmp_path / "elsewhere.jpg")
    (root / ".store" / "link").symlink_to(tmp_path / "elsewhere.jpg")
    (root / "a" / "2.jpg").symlink_to("../.store/link")
    with pytest.raises(DataError, match=r"2\.jpg: is a link that leads outside"):
        folder(root)


def test_a_root_that_is_a_link_itself_is_no_link_outside(tmp_path: Path):
    put_all(tmp_path / "real", "a/1.jpg", "b/1.jpg")
    (tmp_path / "real" / "a" / "2.jpg").symlink_to(tmp_path / "real" / "b" / "1.jpg")
    (tmp_path / "root").symlink_to("real", target_is_directory=True)
    assert len(folder(tmp_path / "root")) == 3


def test_links_that_are_no_images_may_lead_anywhere(tmp_path: Path):
    put_all(tmp_path / "root", "a/1.jpg", "b/1.jpg")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "root" / "README.txt").symlink_to(tmp_path / "notes.txt")
    assert len(folder(tmp_path / "root")) == 2


def test_hidden_files_and_other_files_are_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    put_all(tmp_path, "a/1.jpg", "b/1.jpg", "a/._1.jpg", ".hidden/1.jpg")
    (tmp_path / "a" / "notes.txt").write_text("hello")
    assert len(folder(tmp_path)) == 2
    assert "1 .txt" in caplog.text


def test_images_outside_identity_folders_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert len(folder(put_all(tmp_path, "a/1.jpg", "b/1.jpg", "stray.jpg"))) == 2
    assert "stray.jpg" in caplog.text


def test_a_root_that_is_a_folder_too_high_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for part in ("train", "test"):
        for number in range(50):
            path = tmp_path / part / f"person {number}" / "1.jpg"
            path.parent.mkdir(parents=True)
            path.touch()
    assert len(folder(tmp_path).classes) == 2
    assert "2 identities (test, train) have 100 folders of images" in caplog.text
    caplog.clear()
    assert len(folder(tmp_path, layout="parent_folder").classes) == 100
    assert not caplog.text


def test_a_missing_folder_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(DataError, match=r"data\.root=.*nowhere: no such folder"):
        folder(tmp_path / "nowhere")


def test_an_empty_folder_is_an_error_that_shows_what_is_expected(tmp_path: Path):
    with pytest.raises(DataError, match=r"has no images: expected .*<identity>/<image>"):
        folder(tmp_path)


def test_one_identity_alone_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match=r"1 identity \(a\) with 2 images, but two are needed"):
        folder(put_all(tmp_path, "a/1.jpg", "a/2.jpg"))


def test_which_identities_are_used_is_no_longer_a_key_of_the_folder(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"data\.identities: unknown key"):
        folder(tmp_path, identities="people.txt")


def test_a_photograph_that_is_no_crop_is_an_error_that_names_align(tmp_path: Path):
    put(tmp_path / "a/1.jpg", size=250)
    put(tmp_path / "b/1.jpg")
    with pytest.raises(ImageError, match=r"is 250x250, not an aligned 112x112 crop.*frtrain align"):
        folder(tmp_path).image(0)


def test_the_fingerprint_is_that_of_the_paths(tmp_path: Path):
    source = folder(put_all(tmp_path, "b/1.jpg", "a/1.jpg"))
    digest = hashlib.sha256(b"a/1.jpg\nb/1.jpg").hexdigest()[:16]
    assert source.fingerprint == f"folder:2 images:2 identities:{digest}"


def test_the_fingerprint_changes_when_an_image_is_added(crops_folder: Callable[..., Path]):
    root = crops_folder(identities=2, images=2)
    before = folder(root).fingerprint
    assert before == folder(root).fingerprint
    put(root / "person_000" / "new.jpg")
    assert folder(root).fingerprint != before


def test_images_come_as_they_are_in_the_files(crops_folder: Callable[..., Path]):
    source = folder(crops_folder(identities=2, images=1))
    assert isinstance(source, EncodedSource)
    path = Path(source.describe(1))
    assert np.array_equal(source.image(1), np.asarray(Image.open(path)))
    assert source.encoded(1) == path.read_bytes()
    assert source.name(1) == "person_001/0.png"


def test_a_source_can_be_sent_to_another_process(crops_folder: Callable[..., Path]):
    source = folder(crops_folder(identities=2, images=1))
    again = pickle.loads(pickle.dumps(source))
    assert names(again) == names(source)
