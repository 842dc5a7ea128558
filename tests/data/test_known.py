"""Named data sets: what is published of them, and how a copy compares."""

from __future__ import annotations

from typing import Any, cast

import pytest

from frtrain.config_files import completed, config_folder, option_values
from frtrain.data import SOURCES, Source
from frtrain.data.known import compare_with_known, known_of
from frtrain.errors import ConfigError

NAMED = sorted(
    path.stem for path in (config_folder() / "data").glob("*.yaml") if option_values("data", path.stem).get("known")
)


class Counted(list[None]):
    """A source of so many images and identities."""

    def __init__(self, identities: int, images: int):
        super().__init__([None] * images)
        self.classes = range(identities)


def told(name: str, identities: int, images: int) -> list[str]:
    source = cast("Source", Counted(identities, images))
    return compare_with_known(source, known_of(option_values("data", name)))


def test_the_data_sets_of_the_field_have_names():
    assert {
        "casia_webface",
        "ms1mv2",
        "ms1mv3",
        "glint360k",
        "webface4m",
        "webface12m",
        "webface42m",
        "vggface2",
    } == set(NAMED)


@pytest.mark.parametrize("name", NAMED)
def test_every_named_data_set_is_a_sound_configuration(name: str):
    spec = completed("data", {"name": name, "root": "x"})
    known = SOURCES.check(spec)["known"]
    assert known == known_of(spec)
    assert known.images > 10 * known.identities
    assert option_values("data", name)["root"] == "???"


def test_a_complete_copy_is_told_in_one_sentence():
    assert told("casia_webface", 10572, 490623) == [
        "CASIA-WebFace: all 10,572 identities and 490,623 images, as published"
    ]


def test_missing_images_are_counted():
    assert told("casia_webface", 10572, 490600) == [
        "CASIA-WebFace: all 10,572 identities, as published",
        "CASIA-WebFace: 490,600 images, 23 fewer (less than 0.1 %) than the published 490,623",
        "A small difference is usual where the images were packed or aligned anew",
    ]


def test_a_part_is_told_as_one():
    lines = told("casia_webface", 5286, 245311)
    assert "CASIA-WebFace: 5,286 identities, 5,286 fewer (50.0 %) than the published 10,572" in lines
    assert lines[-1].startswith("The copy may be cut short or a part")


def test_the_uncleaned_casia_is_recognised_by_its_count():
    lines = told("casia_webface", 10575, 494414)
    assert lines[0] == "CASIA-WebFace: 10,575 identities, 3 more (less than 0.1 %) than the published 10,572"
    assert any("0166921, 1056413, 1193098" in line for line in lines)
    assert "494,414 images are the original release" in lines


def test_one_identity_too_many_has_an_explanation():
    assert told("casia_webface", 10573, 490624)[-1].startswith("One identity too many is often")


def test_nothing_is_said_where_nothing_is_known():
    assert compare_with_known(cast("Source", Counted(2, 3)), known_of(option_values("data", "folder"))) == []


def test_what_is_known_can_be_given_by_a_user():
    values: dict[str, Any] = {
        **option_values("data", "webface4m")["known"],
        "identities": 2,
        "images": 3,
        "title": "Mine",
    }
    assert compare_with_known(cast("Source", Counted(2, 3)), known_of({"known": values})) == [
        "Mine: all 2 identities and 3 images, as published"
    ]
    with pytest.raises(ConfigError, match=r"data\.known\.images=0: must be greater than 0"):
        known_of({"known": {**values, "images": 0}})
