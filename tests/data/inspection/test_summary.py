from __future__ import annotations

import cv2
import numpy as np

from frtrain.data.inspection.scan import sample, scan
from frtrain.data.inspection.summary import PERCENTS, summarize


def flat(level: int) -> np.ndarray:
    return np.full((112, 112, 3), level, dtype=np.uint8)


def test_planted_extremes_come_first(stored, pictures, summary_of):
    images = [pictures.draw(seed) for seed in range(20)]
    images[3] = images[3] // 20
    images[5] = 255 - images[5] // 20
    images[8] = cv2.GaussianBlur(images[8], (0, 0), 12)
    images[11] = 100 + images[11] // 100
    found = {e.name: e for e in summary_of(stored({"a": [pictures.png(image) for image in images]})).extremes}
    assert found["darkest"].images[0][0] == 3
    assert found["brightest"].images[0][0] == 5
    assert found["flattest"].images[0][0] == 11
    assert {index for index, _ in found["blurriest"].images[:4]} == {3, 5, 8, 11}  # they have hardly any edges
    for extreme in found.values():
        values = [value for _, value in extreme.images]
        assert values == sorted(values, reverse=extreme.name == "brightest")
        assert len(values) == 8


def test_images_per_identity_are_counted(stored, pictures, summary_of):
    data = pictures.png(flat(3))
    source = stored({"none": [], "one": [data], "also one": [data], "four": [data] * 4, "ten": [data] * 10})
    counted = summary_of(source).per_identity
    assert (counted.empty, counted.single) == (1, 2)
    assert counted.largest == (("ten", 10), ("four", 4), ("one", 1), ("also one", 1), ("none", 0))
    assert counted.spread.percentiles == dict(zip(PERCENTS, (0, 0.04, 1, 1, 4, 9.76, 10), strict=True))
    assert counted.spread.mean == 3.2
    bars = {bar.label: bar.identities for bar in counted.histogram}
    assert list(bars) == [str(images) for images in range(11)]
    assert {label: count for label, count in bars.items() if count} == {"0": 1, "1": 2, "4": 1, "10": 1}


def test_a_wide_histogram_has_bars_that_widen(stored, summary_of):
    sizes = [2, 3, 4, 5, 49, 50, 100]
    source = stored({str(size): [b"x"] * size for size in sizes})
    bars = summary_of(source).per_identity.histogram
    assert [(bar.label, bar.identities) for bar in bars] == [
        ("2", 1),
        ("3-4", 2),
        ("5-9", 1),
        ("10-19", 0),
        ("20-49", 1),
        ("50-99", 1),
        ("100-199", 1),
    ]


def test_a_histogram_ends_where_the_largest_identity_is(stored, summary_of):
    for most in (19, 20, 49, 50, 99, 100):
        bars = summary_of(stored({"a": [b"x"], "b": [b"x"] * most})).per_identity.histogram
        assert sum(bar.identities for bar in bars) == 2
        assert bars[-1].low <= most <= bars[-1].high
        assert bars[-1].identities == 1


def test_sizes_and_formats_are_counted(stored, pictures, summary_of):
    wide = pictures.draw(0, 120)[:100]
    source = stored(
        {
            "a": [pictures.png(flat(1)), pictures.jpeg(pictures.draw(1)), pictures.jpeg(wide)],
            "b": [pictures.jpeg(wide), b"?"],
        }
    )
    summary = summary_of(source)
    assert summary.sizes == {(112, 112): 2, (120, 100): 2}
    assert summary.formats == {"JPEG": 3, "PNG": 1, "unknown": 1}
    assert summary.bytes is not None
    assert summary.bytes.total == sum(len(data) for data in source.files)
    assert (summary.looked_at, summary.readable) == (5, 4)


def test_what_training_would_refuse_is_listed_in_order(stored, pictures, summary_of):
    good, large = pictures.png(flat(1)), pictures.png(pictures.draw(0, 250))
    faults = summary_of(stored({"a": [good, large, b""], "b": [good[:60], good]})).faults
    assert [(fault.kind, fault.index) for fault in faults] == [("wrong size", 1), ("unreadable", 2), ("unreadable", 3)]
    assert faults[0].reason == "is 250x250, not an aligned 112x112 crop"


def test_grey_and_featureless_images_are_counted(stored, pictures, summary_of):
    grey = np.repeat(pictures.draw(0)[:, :, :1], 3, axis=2)
    source = stored({"a": [pictures.jpeg(grey), pictures.jpeg(pictures.draw(1)), pictures.png(flat(7))], "b": [b""]})
    summary = summary_of(source)
    assert (summary.grey, summary.featureless) == (2, 1)


def test_spread_of_brightness(stored, pictures, summary_of):
    source = stored({"a": [pictures.png(flat(level)) for level in range(101)]})
    spread = summary_of(source).measures["brightness"]
    assert list(spread.percentiles.values()) == [0, 1, 25, 50, 75, 99, 100]
    assert spread.mean == 50


def test_counting_alone_needs_no_image(stored):
    source = stored({"a": [b"junk"], "b": [b"junk"]})
    summary = summarize(source, scan(source, sample(2, 0), 0), 6)
    assert (summary.images, summary.looked_at, summary.faults, summary.measures) == (2, 0, (), {})


def test_nothing_readable_is_told_as_such(stored, summary_of):
    summary = summary_of(stored({"a": [b"junk"], "b": [b""]}))
    assert (summary.readable, len(summary.faults), summary.sizes) == (0, 2, {})
    assert all(not extreme.images for extreme in summary.extremes)
