from __future__ import annotations

import numpy as np
import pytest

from frtrain.data.soundness import check_source
from frtrain.data.subset import hold_out_identities, identity_subset
from frtrain.errors import ConfigError, DataError


class Names:
    """A source whose images are their own index."""

    def __init__(self, images_per_identity: list[int]):
        self.classes = [f"person {label}" for label in range(len(images_per_identity))]
        self.labels = np.repeat(np.arange(len(images_per_identity)), images_per_identity)
        self.fingerprint = f"names {images_per_identity}"

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> np.ndarray:
        return np.full((1, 1, 3), index, dtype=np.uint8)

    def describe(self, index: int) -> str:
        return f"image {index}"


def test_a_subset_is_labelled_anew_and_keeps_names_and_pixels():
    subset = identity_subset(Names([2, 3, 1]), np.array([1, 2]))
    assert subset.classes == ["person 1", "person 2"]
    assert subset.labels.tolist() == [0, 0, 0, 1]
    assert [int(subset.image(index)[0, 0, 0]) for index in range(4)] == [2, 3, 4, 5]
    assert subset.describe(3) == "image 5"


def test_labels_of_a_subset_are_in_the_order_asked_for():
    subset = identity_subset(Names([1, 1, 1]), np.array([2, 0]))
    assert subset.classes == ["person 2", "person 0"]
    assert subset.labels.tolist() == [1, 0]


def test_a_subset_of_a_subset_reaches_the_right_images():
    source = Names([2, 2, 2, 2])
    inner = identity_subset(identity_subset(source, np.array([1, 2, 3])), np.array([2]))
    assert [inner.describe(index) for index in range(len(inner))] == ["image 6", "image 7"]
    assert inner.classes == ["person 3"]
    assert inner.source is source


def test_no_identity_is_on_both_sides_of_the_split():
    training, held_out = hold_out_identities(Names([3] * 40), 0.25, seed=0)
    assert held_out is not None
    assert len(held_out.classes) == 10
    assert set(training.classes).isdisjoint(held_out.classes)
    assert len(training) + len(held_out) == 120


def test_the_split_depends_on_the_seed_alone():
    source = Names([3] * 40)
    splits = [hold_out_identities(source, 0.25, seed)[1] for seed in (0, 0, 1)]
    assert splits[0].classes == splits[1].classes != splits[2].classes
    assert splits[0].fingerprint != splits[2].fingerprint


def test_identities_with_one_image_are_never_held_out():
    _, held_out = hold_out_identities(Names([1] * 30 + [2] * 10), 0.2, seed=0)
    assert held_out is not None
    assert len(held_out) == 2 * len(held_out.classes)


def test_a_fraction_of_nothing_holds_nobody_out():
    source = Names([2, 2])
    assert hold_out_identities(source, 0.0, seed=0) == (source, None)


def test_a_fraction_that_leaves_nobody_to_train_on_is_told():
    with pytest.raises(ConfigError, match=r"validation\.fraction=1\.0: .*leaves 0 to train on"):
        hold_out_identities(Names([2] * 10), 1.0, seed=0)


@pytest.mark.parametrize(
    ("label", "message"), [(7, r"image 3: label 7 is outside the 3 classes"), (-1, r"image 3: label -1 is outside")]
)
def test_a_label_outside_the_classes_names_the_image(label: int, message: str):
    source = Names([2, 2, 2])
    source.labels[3] = label
    with pytest.raises(DataError, match=message):
        check_source(source)


def test_as_many_labels_as_images_are_needed():
    source = Names([2, 2])
    source.labels = source.labels[:3]
    source.__class__ = type("Longer", (Names,), {"__len__": lambda self: 4})
    with pytest.raises(DataError, match="4 images but 3 labels"):
        check_source(source)


def test_two_identities_are_needed():
    with pytest.raises(DataError, match=r"one identity \(person 0\), but two are needed"):
        check_source(Names([4]))
