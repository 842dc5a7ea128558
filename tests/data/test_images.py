from __future__ import annotations

import os
import pickle
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frtrain.data import images
from frtrain.data.images import read_file, read_image, write_png_or_jpeg
from frtrain.errors import ImageError

RED = (200, 30, 40)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_a_colour_png_is_read_as_rgb(tmp_path: Path):
    assert read_image(saved(tmp_path / "a.png", Image.new("RGB", (5, 4), RED)))[2, 3].tolist() == list(RED)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp"])
def test_every_format_gives_height_width_three(tmp_path: Path, suffix: str):
    image = read_image(saved(tmp_path / f"a.{suffix}", Image.new("RGB", (50, 40), RED)))
    assert image.shape == (40, 50, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - RED).max() < 12


def test_grey_becomes_three_equal_channels(tmp_path: Path):
    assert read_image(saved(tmp_path / "a.png", Image.new("L", (3, 3), 77)))[0, 0].tolist() == [77, 77, 77]


def test_alpha_is_dropped_and_colours_stay(tmp_path: Path):
    assert read_image(saved(tmp_path / "a.png", Image.new("RGBA", (3, 3), (*RED, 10))))[0, 0].tolist() == list(RED)


def test_cmyk_jpeg_keeps_its_colour(tmp_path: Path):
    image = read_image(saved(tmp_path / "a.jpg", Image.new("RGB", (32, 32), RED).convert("CMYK")))
    assert np.abs(image[16, 16].astype(int) - RED).max() < 12


def test_sixteen_bit_grey_keeps_white_white_and_middle_middle(tmp_path: Path):
    values = np.array([[0, 32768, 65535]], dtype=np.uint16)
    image = read_image(saved(tmp_path / "a.png", Image.fromarray(values)))
    assert image[0, :, 0].tolist() == [0, 128, 255]


def test_a_palette_image_is_read_as_rgb(tmp_path: Path):
    palette = Image.new("RGB", (8, 8), RED).convert("P", palette=Image.Palette.ADAPTIVE)
    assert np.abs(read_image(saved(tmp_path / "a.png", palette))[0, 0].astype(int) - RED).max() < 5


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path):
    frames = [Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), (0, 0, 255))]
    path = saved(tmp_path / "a.webp", frames[0], save_all=True, append_images=frames[1:], lossless=True)
    assert read_image(path)[0, 0].tolist() == list(RED)


def test_exif_orientation_is_applied(tmp_path: Path):
    image = Image.new("RGB", (6, 3), RED)
    exif = image.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees
    assert read_image(saved(tmp_path / "a.jpg", image, exif=exif)).shape == (6, 3, 3)


def test_a_truncated_jpeg_is_an_error_that_names_the_file(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path / "cut.jpg", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ImageError, match=r"cut\.jpg: is damaged"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b"hello, I am a text file", "is not an image"), (b"\xff\xd8", "is not|damaged")],
)
def test_what_is_no_image_is_an_error_that_says_so(tmp_path: Path, content: bytes, reason: str):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=reason):
        read_image(path)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="is not a regular file"):
        read_image(tmp_path / "pipe.jpg")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_a_file_whose_size_is_not_known_beforehand_is_read_whole():
    assert read_file("/proc/self/status").endswith(b"\n")
    assert len(read_file("/proc/self/status")) > 100


def test_an_exif_block_of_rubbish_is_ignored(tmp_path: Path):
    path = saved(tmp_path / "a.jpg", Image.new("RGB", (8, 8), RED), exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff")
    assert read_image(path).shape == (8, 8, 3)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(ImageError, match=r"gone\.jpg: cannot be read"):
        read_image(tmp_path / "gone.jpg")


def test_an_enormous_image_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    with pytest.raises(ImageError, match="is enormous"):
        read_image(saved(tmp_path / "a.png", Image.new("RGB", (10, 10))))


def test_an_image_error_survives_the_way_out_of_a_worker_process():
    error = pickle.loads(pickle.dumps(ImageError("a.jpg", "is empty")))
    assert (error.path, error.reason, str(error)) == ("a.jpg", "is empty", "a.jpg: is empty")


def test_writing_leaves_no_half_file_when_it_fails(tmp_path: Path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # fails within a file, as a full disk does
    try:
        with pytest.raises(OSError, match="File too large"):
            write_png_or_jpeg(tmp_path / "a.jpg", np.zeros((4, 4, 3), np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
