"""Runs that meet images which cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from gloo_processes import of_each_rank

from frtrain.data.corrupt import CorruptImages
from frtrain.errors import DataError
from frtrain.processes import ALONE, Processes
from frtrain.training.observers.corrupt_images import CorruptImagesFile
from frtrain.training.run_folder import RunFolder

SmallRun = Callable[..., tuple[int, RunFolder]]


def damage(tmp_path: Path, *names: str) -> None:
    for name in names:
        (tmp_path / "crops" / name).write_bytes(b"no image")


def counted(folder: RunFolder) -> list[float]:
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [line["data/corrupt_images"] for line in lines if "data/corrupt_images" in line]


def listed(folder: RunFolder) -> list[str]:
    return sorted(Path(line.rpartition(": ")[0]).name for line in folder.corrupt_images.read_text().splitlines())


@pytest.mark.parametrize("on_corrupt", ["skip", "replace"])
def test_a_run_goes_on_without_images_that_cannot_be_read_and_lists_them(
    small_run: SmallRun, tmp_path: Path, on_corrupt: str
):
    damage(tmp_path, "person_000/1.png", "person_004/5.png")
    status, folder = small_run("run", f"trainer.on_corrupt={on_corrupt}", "trainer.max_steps=13", "trainer.workers=1")
    assert status == 0
    assert listed(folder) == ["1.png", "5.png"]
    assert counted(folder)[-1] == 2
    log = folder.log.read_text()
    assert log.count("person_000/1.png: is not an image; training goes on without it") == 1


def test_nothing_is_counted_or_listed_where_images_are_errors(small_run: SmallRun):
    _, folder = small_run("run")
    assert not counted(folder)
    assert not folder.corrupt_images.exists()


def test_by_default_an_unreadable_image_ends_the_run(small_run: SmallRun, tmp_path: Path):
    damage(tmp_path, "person_003/2.png")
    with pytest.raises(DataError, match=r"person_003/2\.png: is not an image"):
        small_run("run", "trainer.max_steps=12")


def test_a_resumed_run_lists_an_image_no_second_time(small_run: SmallRun, tmp_path: Path):
    damage(tmp_path, "person_000/1.png")
    _, folder = small_run("run", "trainer.on_corrupt=skip", "trainer.max_steps=7")
    damage(tmp_path, "person_001/1.png")
    small_run("run", "trainer.on_corrupt=skip", "trainer.max_steps=21")
    assert len(folder.corrupt_images.read_text().splitlines()) == 2
    assert counted(folder)[-1] == 2


def test_validation_goes_on_with_another_image_of_the_identity(small_run: SmallRun, tmp_path: Path):
    damage(tmp_path, *(f"person_00{number}/1.png" for number in range(8)))
    held_out = ("validation.fraction=0.3", "validation.pairs=24", "trainer.max_steps=12")
    status, folder = small_run("run", "trainer.on_corrupt=skip", *held_out)
    assert status == 0
    assert len(folder.corrupt_images.read_text().splitlines()) == 8


def test_names_with_line_breaks_and_other_bytes_take_one_line(tmp_path: Path):
    path, met = tmp_path / "corrupt_images.txt", CorruptImages()
    met.add(["a\nb.jpg: is empty", "\udcff.jpg: is empty"])
    assert CorruptImagesFile(path, met, ALONE).collect() == 2
    assert path.read_text().split("\n") == ["a\\nb.jpg: is empty", "\\udcff.jpg: is empty", ""]
    met = CorruptImages()
    met.add(["a\nb.jpg: is empty"])
    assert CorruptImagesFile(path, met, ALONE).collect() == 2
    assert len(path.read_text().splitlines()) == 2


def test_a_list_that_cannot_be_written_is_told_once_and_written_later(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    met, path = CorruptImages(), tmp_path / "taken" / "corrupt_images.txt"
    file = CorruptImagesFile(path, met, ALONE)
    path.parent.write_text("a file in the way")
    for name in ("a.jpg", "b.jpg"):
        met.add([f"{name}: is empty"])
        file.collect()
    assert caplog.text.count("corrupt_images.txt: cannot be written") == 1
    path.parent.unlink()
    assert file.collect() == 2
    assert path.read_text() == "a.jpg: is empty\nb.jpg: is empty\n"


def collecting(rank: int, path: Path) -> list[int]:
    met = CorruptImages()
    file = CorruptImagesFile(path, met, Processes.current())
    counts = [file.collect()]
    met.add([["a"], ["b" * 500, "a", "\udcff"]][rank])
    counts.append(file.collect())
    met.add([["c"], []][rank])
    counts.append(file.collect())
    return counts


@pytest.mark.slow
def test_process_0_lists_what_all_processes_have_met(tmp_path: Path):
    counts, _ = of_each_rank(collecting, 2, tmp_path, tmp_path / "corrupt_images.txt")
    assert counts == [0, 3, 4]
    assert (tmp_path / "corrupt_images.txt").read_text() == f"a\n{'b' * 500}\n\\udcff\nc\n"
