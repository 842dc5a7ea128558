from __future__ import annotations

import numpy as np
import pytest

from frtrain.data.inspection.scan import choose_processes, sample, scan
from frtrain.data.synthetic.source import SyntheticFaces


@pytest.mark.parametrize(("total", "wanted"), [(10, 3), (10, 10), (10, 11), (7, 1), (1000, 999), (5_000_000, 12_345)])
def test_a_sample_is_evenly_spread(total: int, wanted: int):
    positions = sample(total, wanted)
    assert len(positions) == min(total, wanted)
    assert 0 <= positions[0] < positions[-1] + 1 <= total
    gaps = np.diff(positions)
    assert len(gaps) == 0 or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)
    assert abs(positions[0] - (total - 1 - positions[-1])) <= 1


def test_none_and_all():
    assert len(sample(9, 0)) == 0
    assert sample(4, None).tolist() == [0, 1, 2, 3]


def test_unreadable_images_have_a_reason_and_readable_ones_of_any_size_are_measured(stored, pictures):
    sound = pictures.jpeg(pictures.draw(0))
    source = stored(
        {"a": [sound, sound[: len(sound) // 2], b"not an image"], "b": [b"", pictures.png(pictures.draw(1, 250))]}
    )
    found = scan(source, sample(5, None), 0)
    assert found.measures["readable"].tolist() == [True, False, False, False, True]
    assert set(found.reasons) == {1, 2, 3}
    assert "damaged" in found.reasons[1]
    assert found.reasons[2] == "is not an image"
    assert found.reasons[3] == "is empty (0 bytes)"
    assert found.measures["width"].tolist() == [112, 0, 0, 0, 250]
    assert found.measures["bytes"].tolist() == [len(data) for data in source.files]


def test_only_the_asked_images_are_looked_at(stored, pictures):
    source = stored({"a": [pictures.png(np.full((112, 112, 3), level, dtype=np.uint8)) for level in range(20)]})
    found = scan(source, np.array([3, 7, 19]), 0)
    assert found.measures["brightness"].tolist() == [3, 7, 19]


def test_a_source_without_stored_files_is_measured_by_its_pixels():
    found = scan(SyntheticFaces(2, 2, 0, cache=None), sample(4, None), 0)
    assert found.measures["readable"].all()
    assert not found.measures["bytes"].any()


def test_progress_counts_every_image(stored, pictures):
    source = stored({"a": [pictures.png(pictures.draw(0)[:20, :20])] * 600})
    counted = []
    scan(source, sample(600, None), 0, counted.append)
    assert sum(counted) == 600
    assert len(counted) > 1


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(crops_folder, tmp_path):
    from frtrain.commands.composition import compose_plain
    from frtrain.data import SOURCES

    root = crops_folder(identities=30, images=20)
    (root / "person_003" / "4.png").write_bytes(b"")
    source = SOURCES.build(compose_plain("inspect", ["data=folder", f"data.root={root}"])["data"])
    alone, together = (scan(source, sample(len(source), None), workers) for workers in (0, 2))
    assert alone.measures.tobytes() == together.measures.tobytes()
    assert alone.reasons == together.reasons
    assert len(alone.reasons) == 1


def test_processes_are_started_for_many_images_only():
    assert choose_processes(13_000, 8) == 0
    assert choose_processes(60_000, 8) == 3
    assert choose_processes(5_000_000, 8) == 8
    assert choose_processes(5_000_000, 1) == 0
