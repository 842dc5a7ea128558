from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from frtrain.errors import ConfigError, DataError, ImageError
from frtrain.evaluation.references import PixelEmbedder
from frtrain.evaluation.suites import SUITES, Suite

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "suite"


def suite(name: str, **changes: Any) -> Suite:
    spec = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    return SUITES.build({**spec, "resamples": 0, **changes})


@pytest.mark.parametrize("name", SUITES.names())
def test_every_suite_has_a_configuration_of_its_name(name):
    spec = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert spec["name"] == name
    SUITES.check(spec)


def test_pixels_tell_easy_faces_apart_in_view_2(faces, view2):
    report = suite("lfw_view2", crops=str(faces), pairs=str(view2)).run(PixelEmbedder().embed, 112, 8)
    assert report.verification.accuracy.mean == 1
    assert report.verification.accuracy.per_fold == (1, 1)


def test_scores_of_the_report_are_those_of_its_pairs(faces, view1):
    report = suite("lfw_view1", crops=str(faces), pairs=str(view1), flip=False).run(PixelEmbedder().embed, 112, 8)
    pair = 15
    crops = [
        np.asarray(Image.open(faces / f"{name}.png")) for name in (report.pairs.left[pair], report.pairs.right[pair])
    ]
    left, right = PixelEmbedder().embed(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)).double()
    assert report.scores[pair] == pytest.approx(float(torch.cosine_similarity(left, right, dim=0)), abs=1e-6)


def test_each_image_is_embedded_once(faces, view2):
    counts: list[int] = []
    ready = suite("lfw_view2", crops=str(faces), pairs=str(view2))
    ready.run(PixelEmbedder().embed, 112, 8, counts.append)
    assert sum(counts) == ready.images() == 24


def test_crops_may_have_any_image_extension(faces, view1):
    png = faces / "Person_C" / "Person_C_0001.png"
    Image.open(png).save(png.with_suffix(".JPEG"))
    png.unlink()
    suite("lfw_view1", crops=str(faces), pairs=str(view1)).check()


@pytest.mark.parametrize("key", ["pairs", "crops"])
def test_unset_path_is_asked_for_by_key(faces, view1, key):
    paths = {"crops": str(faces), "pairs": str(view1), key: None}
    with pytest.raises(ConfigError, match=rf"suite\.{key}: .* e\.g\. suite\.{key}="):
        suite("lfw_view1", **paths).check()


@pytest.mark.parametrize(("name", "other"), [("lfw_view1", "lfw_view2"), ("lfw_view2", "lfw_view1")])
def test_list_of_the_other_view_is_refused_with_the_right_suite(faces, view1, view2, name, other):
    wrong = view2 if name == "lfw_view1" else view1
    with pytest.raises(DataError, match=f"use suite={other}"):
        suite(name, crops=str(faces), pairs=str(wrong)).check()


def test_missing_images_are_counted_and_named(faces, view1):
    (faces / "Person_A" / "Person_A_0001.png").unlink()
    (faces / "Person_B" / "Person_B_0002.png").unlink()
    with pytest.raises(DataError, match=r"2 of 24 images .* \(Person_A/Person_A_0001, Person_B/Person_B_0002\)"):
        suite("lfw_view1", crops=str(faces), pairs=str(view1)).check()


def test_missing_images_can_be_skipped_and_are_counted(faces, view1):
    (faces / "Person_A" / "Person_A_0001.png").unlink()
    ready = suite("lfw_view1", crops=str(faces), pairs=str(view1), missing="skip")
    report = ready.run(PixelEmbedder().embed, 112, 8)
    assert (len(report.pairs), report.pairs_in_list, report.missing) == (22, 24, ("Person_A/Person_A_0001",))


def test_skipping_everything_is_refused(tmp_path, view1):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="too few pairs are left"):
        suite("lfw_view1", crops=str(tmp_path / "empty"), pairs=str(view1), missing="skip").check()


def test_absent_crops_folder_is_refused_by_name(tmp_path, view1):
    with pytest.raises(DataError, match=r"suite\.crops=.*/nowhere: is not a folder"):
        suite("lfw_view1", crops=str(tmp_path / "nowhere"), pairs=str(view1)).check()


def test_crop_of_another_size_points_to_align(faces, view1):
    Image.new("RGB", (250, 250)).save(faces / "Person_D" / "Person_D_0001.png")
    with pytest.raises(DataError, match=r"Person_D_0001\.png: is 250x250 .* 112x112; .* frtrain align"):
        suite("lfw_view1", crops=str(faces), pairs=str(view1)).run(PixelEmbedder().embed, 112, 8)


def test_damaged_crop_is_named(faces, view1):
    (faces / "Person_D" / "Person_D_0001.png").write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"Person_D_0001\.png: is not an image"):
        suite("lfw_view1", crops=str(faces), pairs=str(view1)).run(PixelEmbedder().embed, 112, 8)


def test_wrong_policy_names_the_key():
    with pytest.raises(ConfigError, match=r"suite\.missing='ignore'"):
        suite("lfw_view1", missing="ignore")


def test_false_accept_rate_above_one_names_the_key():
    with pytest.raises(ConfigError, match=r"suite\.far\.0=2\.0"):
        suite("lfw_view1", far=[2.0])


def test_pixel_embedding_does_not_change_with_brightness():
    images = torch.randint(0, 200, (3, 3, 112, 112), dtype=torch.uint8)
    torch.testing.assert_close(PixelEmbedder().embed(images), PixelEmbedder().embed(images + 40), atol=1e-3, rtol=0)
