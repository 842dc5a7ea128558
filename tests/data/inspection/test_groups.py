from __future__ import annotations

import numpy as np

from frtrain.data.inspection.groups import find_duplicates
from frtrain.data.inspection.scan import sample, scan


def test_planted_duplicates_are_found_by_kind(stored, pictures, duplicates_of):
    image = [pictures.draw(seed) for seed in range(6)]
    exact, recompressed, shifted, brighter = (pictures.jpeg(image[seed]) for seed in range(4))
    source = stored(
        {
            "a": [exact, recompressed, shifted, brighter, pictures.png(image[4], 1)],
            "b": [
                exact,
                pictures.jpeg(image[1], 60),
                pictures.jpeg(np.roll(image[2], 1, axis=0)),
                pictures.jpeg(image[3] + np.uint8(5)),
                pictures.png(image[4], 9),
                pictures.jpeg(image[5]),
            ],
        }
    )
    found = duplicates_of(source)
    assert {group.images: group.kind for group in found.groups} == {
        (0, 5): "file",
        (1, 6): "near",
        (2, 7): "near",
        (3, 8): "near",
        (4, 9): "pixels",
    }
    assert [(level.kind, level.groups, level.images, level.surplus) for level in found.levels] == [
        ("file", 1, 2, 1),
        ("pixels", 2, 4, 2),
        ("near", 5, 10, 5),
    ]
    assert all(group.identities == 2 for group in found.groups)


def test_groups_within_and_between_identities_are_told_apart(stored, pictures, duplicates_of):
    one, two, other = (pictures.jpeg(pictures.draw(seed)) for seed in range(3))
    source = stored({"a": [one, one, one, other], "b": [two], "c": [two]})
    level = duplicates_of(source).levels[0]
    assert (level.groups, level.within, level.between, level.surplus) == (2, 1, 1, 3)
    assert [group.images for group in duplicates_of(source).groups] == [(4, 5), (0, 1, 2)]


def test_a_group_of_mixed_kinds_is_one_group(stored, pictures, duplicates_of):
    image = pictures.draw(0)
    source = stored({"a": [pictures.jpeg(image), pictures.jpeg(image)], "b": [pictures.jpeg(image, 50)]})
    (group,) = duplicates_of(source).groups
    assert (group.kind, group.images, group.identities) == ("near", (0, 1, 2), 2)


def test_thousands_of_identical_black_images_are_one_group(stored, pictures, duplicates_of):
    black = pictures.png(np.zeros((112, 112, 3), dtype=np.uint8))
    source = stored({"a": [black] * 1500, "b": [black] * 1500})
    found = duplicates_of(source)
    assert [(level.groups, level.surplus, level.between) for level in found.levels] == [(1, 2999, 1)] * 3
    assert len(found.groups[0].images) == 3000


def test_featureless_images_are_not_nearly_the_same(stored, pictures, duplicates_of):
    rng = np.random.default_rng(0)
    frames = [pictures.png(rng.integers(0, 3, (112, 112, 3), dtype=np.uint8)) for _ in range(60)]
    frames += [pictures.png(np.full((112, 112, 3), level, dtype=np.uint8)) for level in (10, 200)]
    assert duplicates_of(stored({"a": frames, "b": [pictures.jpeg(pictures.draw(0))]})).groups == ()


def test_unreadable_images_are_nobodys_duplicates(stored, pictures, duplicates_of):
    assert duplicates_of(stored({"a": [b"junk", b"junk"], "b": [pictures.jpeg(pictures.draw(0))]})).groups == ()


def test_nothing_read_means_no_groups(stored):
    source = stored({"a": [b"junk"], "b": [b"junk"]})
    found = find_duplicates(scan(source, sample(2, None), 0), source.labels, 6)
    assert found.groups == ()
    assert all(level.groups == 0 for level in found.levels)
    assert find_duplicates(scan(source, sample(2, 0), 0), source.labels, 6).groups == ()


def test_near_duplicates_are_left_out_when_not_asked_for(stored, pictures):
    image = pictures.draw(0)
    source = stored({"a": [pictures.jpeg(image)] * 2, "b": [pictures.jpeg(image, 50)]})
    found = find_duplicates(scan(source, sample(3, None), 0), source.labels, None)
    assert [level.kind for level in found.levels] == ["file", "pixels"]
    assert [group.images for group in found.groups] == [(0, 1)]
