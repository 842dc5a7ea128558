from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from frtrain.errors import DataError
from frtrain.evaluation.pairs import is_view_2, pairs_from_labels, read_lfw_pairs, tenths


def test_view_2_keeps_the_folds_of_the_file(view2):
    pairs = read_lfw_pairs(view2)
    assert [int(((pairs.fold == fold) & pairs.genuine).sum()) for fold in (0, 1)] == [6, 6]
    assert [int(((pairs.fold == fold) & ~pairs.genuine).sum()) for fold in (0, 1)] == [6, 6]


def test_view_1_is_cut_into_ten_balanced_folds(tmp_path):
    lines = ["30"] + [f"A{i}\t1\t2" for i in range(30)] + [f"A{i}\t1\tB{i}\t2" for i in range(30)]
    (tmp_path / "pairsDevTest.txt").write_text("\n".join(lines))
    pairs = read_lfw_pairs(tmp_path / "pairsDevTest.txt")
    for fold in range(10):
        assert (pairs.genuine[pairs.fold == fold]).sum() == (~pairs.genuine[pairs.fold == fold]).sum() == 3


def test_image_names_are_those_of_lfw(view1):
    pairs = read_lfw_pairs(view1)
    assert (pairs.left[0], pairs.right[0]) == ("Person_A/Person_A_0001", "Person_A/Person_A_0002")
    assert (pairs.left[12], pairs.right[12]) == ("Person_A/Person_A_0001", "Person_B/Person_B_0002")


def test_indexed_pairs_point_at_their_names(view2):
    pairs = read_lfw_pairs(view2)
    rows, names = pairs.indexed(), pairs.names()
    assert [names[i] for i in rows.left] == list(pairs.left)
    assert [names[i] for i in rows.right] == list(pairs.right)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("ten\t300\n", "line 1: 'ten\\\\t300' is not the header"),
        ("1\nA\t1\t2\nA\t1\tB\n", "line 3: .* is not an impostor pair; expected name<TAB>a<TAB>other<TAB>b"),
        ("1\nA\t1\tB\t1\nA\t1\tB\t2\n", "line 2: .* is not a genuine pair; expected name<TAB>a<TAB>b"),
        ("1\nA\tone\t2\nA\t1\tB\t2\n", "line 2: .* not a positive integer"),
        ("1\nA\t0\t2\nA\t1\tB\t2\n", "line 2: .* not a positive integer"),
        ("1\nA\t2\t2\nA\t1\tB\t2\n", "line 2: .* pairs an image with itself"),
        ("1\nA\t1\t2\nA\t1\tA\t2\n", "line 3: .* pairs one person"),
        ("2\nA\t1\t2\nA\t1\tB\t2\n", "line 1 announces 4 pairs, but 2 lines follow"),
        ("1\nA\t1\t2\nA\t1\tB\t2\nA\t1\tC\t2\n", "line 1 announces 2 pairs, but 3 lines follow"),
    ],
)
def test_malformed_list_is_refused_with_file_and_line(tmp_path, text, message):
    path = tmp_path / "pairs.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_lfw_pairs(path)
    assert str(path) in str(error.value)


def test_binary_and_absent_lists_are_refused(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match="not a text file"):
        read_lfw_pairs(tmp_path / "photo.jpg")
    with pytest.raises(DataError, match=r"absent\.txt: cannot be read"):
        read_lfw_pairs(tmp_path / "absent.txt")


def test_windows_line_ends_and_byte_order_mark_are_read(tmp_path, view1):
    path = tmp_path / "windows.txt"
    path.write_bytes(b"\xef\xbb\xbf" + view1.read_bytes().replace(b"\n", b"\r\n"))
    assert read_lfw_pairs(path).left == read_lfw_pairs(view1).left


def test_tenths_differ_by_at_most_one():
    sizes = np.bincount(tenths(103))
    assert len(sizes) == 10
    assert sizes.max() - sizes.min() <= 1


LABELS = np.repeat(np.arange(40), np.random.default_rng(0).integers(1, 8, 40))


def test_drawn_pairs_are_balanced_and_labelled_rightly():
    pairs = pairs_from_labels(LABELS, 100, seed=0)
    assert pairs.genuine.sum() == (~pairs.genuine).sum() == 50
    np.testing.assert_array_equal(LABELS[pairs.left] == LABELS[pairs.right], pairs.genuine)


def test_drawn_pairs_are_distinct_and_never_an_image_with_itself():
    pairs = pairs_from_labels(LABELS, 200, seed=0)
    drawn = {frozenset(pair) for pair in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)}
    assert len(drawn) == len(pairs) == 200
    assert all(len(pair) == 2 for pair in drawn)


def test_draw_depends_on_the_seed_alone():
    first, again, other = (pairs_from_labels(LABELS, 100, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.left, again.left)
    assert (first.left != other.left).any()


def test_draw_does_not_need_labels_in_order():
    shuffled = np.random.default_rng(3).permutation(LABELS)
    pairs = pairs_from_labels(shuffled, 100, seed=0)
    np.testing.assert_array_equal(shuffled[pairs.left] == shuffled[pairs.right], pairs.genuine)


def test_no_identity_gives_a_second_genuine_pair_before_all_gave_one():
    labels = np.concatenate([np.zeros(500, int), np.repeat(np.arange(1, 20), 3)])
    pairs = pairs_from_labels(labels, 40, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[pairs.left[pairs.genuine]]), np.ones(20))


def test_more_pairs_than_exist_gives_all_genuine_ones_still_balanced():
    labels = np.repeat(np.arange(5), 3)
    pairs = pairs_from_labels(labels, 10_000, seed=0)
    assert pairs.genuine.sum() == (~pairs.genuine).sum() == 15


def test_single_images_serve_impostor_pairs_only():
    labels = np.array([0, 0, 0, 1, 2, 3])
    pairs = pairs_from_labels(labels, 6, seed=0)
    assert set(labels[pairs.left[pairs.genuine]]) == {0}
    assert set(labels[np.append(pairs.left[~pairs.genuine], pairs.right[~pairs.genuine])]) > {0}


@pytest.mark.parametrize("labels", [np.arange(10), np.zeros(10, int), np.array([], int), np.array([0, 0, 1])])
def test_labels_without_enough_pairs_are_refused(labels):
    with pytest.raises(DataError, match="verification needs at least two of each"):
        pairs_from_labels(labels, 10, seed=0)


@pytest.mark.lfw
def test_view_2_of_lfw_has_6000_pairs_in_10_folds_of_300_and_300(shared: Path):
    path = shared / "lfw/pairs.txt"
    pairs = read_lfw_pairs(path)
    assert is_view_2(path)
    assert len(pairs) == 6000
    np.testing.assert_array_equal(np.bincount(pairs.fold[pairs.genuine]), np.full(10, 300))
    np.testing.assert_array_equal(np.bincount(pairs.fold[~pairs.genuine]), np.full(10, 300))


@pytest.mark.lfw
@pytest.mark.parametrize(("name", "per_kind"), [("pairsDevTest.txt", 500), ("pairsDevTrain.txt", 1100)])
def test_view_1_of_lfw_has_balanced_tenths(shared: Path, name: str, per_kind: int):
    pairs = read_lfw_pairs(shared / "lfw" / name)
    np.testing.assert_array_equal(np.bincount(pairs.fold[pairs.genuine]), np.full(10, per_kind // 10))
    np.testing.assert_array_equal(np.bincount(pairs.fold[~pairs.genuine]), np.full(10, per_kind // 10))


@pytest.mark.lfw
def test_genuine_pairs_of_a_person_in_view_1_span_at_most_two_folds(shared: Path):
    pairs = read_lfw_pairs(shared / "lfw/pairsDevTest.txt")
    folds: dict[str, set[int]] = {}
    for index in np.flatnonzero(pairs.genuine):
        folds.setdefault(pairs.left[index].partition("/")[0], set()).add(int(pairs.fold[index]))
    assert max(map(len, folds.values())) <= 2
