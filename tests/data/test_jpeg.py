"""The fast way of decoding against Pillow's: the same pixels, and the same files accepted and refused."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image

from frtrain.data import images
from frtrain.data.images import decode_image
from frtrain.data.jpeg import decode_ordinary_jpeg, decoder, ordinary_size
from frtrain.errors import ImageError

LIMIT = 10**6

pytestmark = pytest.mark.skipif(decoder() is None, reason="this torchvision has no JPEG decoder like Pillow's")


def photograph(height: int = 112, width: int = 112) -> Image.Image:
    """Smooth shapes under noise, as a photograph has."""
    generator = np.random.default_rng(height * width)
    coarse = Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((width, height))
    return Image.fromarray(np.clip(coarse + generator.normal(0, 9, (height, width, 3)), 0, 255).astype(np.uint8))


def encoded(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


def by_pillow(data: bytes) -> np.ndarray | None:
    try:
        return images._decode_by_pillow(data, "a.jpg")
    except ImageError:
        return None


@pytest.mark.parametrize("quality", [20, 75, 95, 100])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_colour_jpegs_have_the_pixels_that_pillow_gives(quality: int, subsampling: str, progressive: bool):
    for size in ((112, 112), (96, 112), (33, 17), (1, 1)):
        data = encoded(photograph(*size), quality=quality, subsampling=subsampling, progressive=progressive)
        pixels = decode_ordinary_jpeg(data, LIMIT)
        assert pixels is not None
        assert pixels.flags.c_contiguous
        assert np.array_equal(pixels, by_pillow(data))


def test_restart_markers_and_comments_and_profiles_are_ordinary():
    data = encoded(photograph(), restart_marker_rows=1, comment=b"a face", icc_profile=b"x" * 300, optimize=True)
    assert np.array_equal(decode_ordinary_jpeg(data, LIMIT), by_pillow(data))


def test_an_rgb_jpeg_without_conversion_of_colours_is_ordinary():
    data = encoded(photograph(), keep_rgb=True)
    assert np.array_equal(decode_ordinary_jpeg(data, LIMIT), by_pillow(data))


def oriented() -> bytes:
    image = photograph(20, 30)
    exif = image.getexif()
    exif[0x0112] = 6
    return encoded(image, exif=exif)


@pytest.mark.parametrize(
    "data",
    [
        encoded(photograph().convert("L")),
        encoded(photograph().convert("CMYK")),
        oriented(),
        encoded(photograph(), xmp=b'<x tiff:Orientation="6"/>'),
        encoded(photograph(), exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff"),
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8",
        b"",
    ],
    ids=["grey", "cmyk", "exif orientation", "xmp", "exif rubbish", "png", "header alone", "empty"],
)
def test_what_is_not_ordinary_is_left_to_pillow(data: bytes):
    assert decode_ordinary_jpeg(data, LIMIT) is None


def test_an_orientation_is_still_applied():
    assert decode_image(oriented(), "a.jpg").shape == (30, 20, 3)


def test_the_limit_of_pixels_is_checked_before_anything_is_decoded():
    data = encoded(photograph())
    assert decode_ordinary_jpeg(data, 112 * 112 - 1) is None
    at = data.index(b"\xff\xc0")
    bomb = data[: at + 5] + b"\xff\xff\xff\xff" + data[at + 9 :]
    assert ordinary_size(bomb) == (65535, 65535)
    with pytest.raises(ImageError, match="is enormous"):
        decode_image(bomb, "a.jpg")


def test_without_a_decoder_pillow_decodes(monkeypatch: pytest.MonkeyPatch):
    data = encoded(photograph())
    monkeypatch.setattr("frtrain.data.jpeg.decoder", lambda: None)
    assert decode_ordinary_jpeg(data, LIMIT) is None
    assert np.array_equal(decode_image(data, "a.jpg"), by_pillow(data))


def assert_like_pillow(data: bytes) -> bool:
    """Whether it was accepted."""
    pixels, expected = decode_ordinary_jpeg(data, LIMIT), by_pillow(data)
    if pixels is not None:
        assert expected is not None, "accepted what Pillow refuses"
        assert np.array_equal(pixels, expected)
    return expected is not None


@pytest.mark.parametrize("progressive", [False, True])
def test_every_truncation_is_refused(progressive: bool):
    data = encoded(photograph(40, 40), progressive=progressive)
    assert assert_like_pillow(data)
    for length in range(len(data)):
        assert decode_ordinary_jpeg(data[:length], LIMIT) is None
    for length in range(2, len(data), 7):
        assert not assert_like_pillow(data[:length])


@pytest.mark.parametrize("progressive", [False, True])
def test_what_is_damaged_is_accepted_only_where_pillow_gives_the_same_pixels(
    progressive: bool, capfd: pytest.CaptureFixture[str]
):
    data = encoded(photograph(40, 40), progressive=progressive)
    scan = data.index(b"\xff\xda")
    chance = random.Random(0)
    accepted = 0
    for number in range(1500):
        damaged = bytearray(data)
        for _ in range(chance.choice([1, 1, 2, 5])):
            place = chance.randrange(2, scan + 12) if number % 3 == 0 else chance.randrange(len(data))
            damaged[place] = chance.choice([chance.randrange(256), 0xFF, 0xD9, 0])
        accepted += assert_like_pillow(bytes(damaged))
    assert 150 < accepted < 1450  # else nothing was tried
    capfd.readouterr()  # libjpeg's warnings


def test_trailing_bytes_and_joined_files_are_what_they_are_for_pillow():
    data = encoded(photograph(40, 40))
    for more in (b"\x00" * 100, data, data[:200]):
        assert_like_pillow(data + more)
