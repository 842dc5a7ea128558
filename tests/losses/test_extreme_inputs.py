"""Every loss configuration on inputs at the edge of what can happen, in float32, through a whole step and the next one.

A loss is covered by having a configuration; a case by being a function in CASES. Single cosines at +-1 and single zero
embeddings are in test_head_properties.py.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

STRANGER = -1
SIZE = 16

Batch = tuple[Tensor, Tensor, Tensor]
"""Embeddings `[B, d]`, one direction per class `[C, d]` and labels `[B]`."""


def directions(classes: int) -> Tensor:
    return normalize(torch.randn(classes, SIZE, generator=torch.Generator().manual_seed(classes)))


def ordinary(classes: int, samples: int) -> Batch:
    generator = torch.Generator().manual_seed(samples)
    labels = torch.arange(samples) % classes
    noise = torch.randn(samples, SIZE, generator=generator)
    return 10 * normalize(directions(classes)[labels] + 0.3 * noise), directions(classes), labels


def along_every_axis() -> Batch:
    """Cosines that are exactly 1, 0 and -1."""
    axes = torch.eye(SIZE)
    return 7 * torch.cat([axes, -axes]), axes, torch.arange(2 * SIZE) % SIZE


def along_a_wrong_centre() -> Batch:
    _, centres, labels = ordinary(8, 8)
    return 10 * centres.roll(1, dims=0), centres, labels


def of_length(length: float) -> Batch:
    embedding, centres, labels = ordinary(8, 12)
    return length / 10 * embedding, centres, labels


def zero_embeddings() -> Batch:
    embedding, centres, labels = ordinary(8, 12)
    return torch.zeros_like(embedding), centres, labels


def lengths_from_tiny_to_huge() -> Batch:
    embedding, centres, labels = ordinary(8, 12)
    return embedding * torch.logspace(-5, 3, 12)[:, None], centres, labels


def collapsed_embeddings() -> Batch:
    embedding, centres, labels = ordinary(8, 12)
    return embedding[:1].repeat(12, 1), centres, labels


def collapsed_centres() -> Batch:
    embedding, centres, labels = ordinary(8, 12)
    return embedding, centres[:1].repeat(8, 1), labels


def everything_in_one_point() -> Batch:
    _, centres, labels = ordinary(8, 12)
    return 10 * centres[:1].repeat(12, 1), centres[:1].repeat(8, 1), labels


def zero_centre() -> Batch:
    embedding, centres, labels = ordinary(8, 12)
    return embedding, centres * (torch.arange(8) > 0)[:, None], labels


def one_sample() -> Batch:
    return ordinary(8, 1)


def two_classes() -> Batch:
    return ordinary(2, 6)


def two_opposite_classes() -> Batch:
    centres = directions(1) * torch.tensor([[1.0], [-1.0]])
    return 10 * torch.cat([centres, -centres]), centres, torch.tensor([0, 1, 0, 1])


def one_sample_on_the_wrong_side_of_two_classes() -> Batch:
    embedding, centres, labels = two_opposite_classes()
    return embedding[2:3], centres, labels[2:3]


def one_class_in_the_batch() -> Batch:
    embedding, centres, labels = ordinary(8, 12)
    return embedding, centres, torch.full_like(labels, 3)


def only_strangers() -> Batch:
    embedding, centres, labels = ordinary(8, 12)
    return embedding, centres, torch.full_like(labels, STRANGER)


def one_identity_among_strangers() -> Batch:
    embedding, centres, labels = only_strangers()
    return embedding, centres, labels.index_fill(0, torch.tensor([5]), 2)


def zero_embeddings_of_strangers() -> Batch:
    embedding, centres, labels = ordinary(8, 12)
    nobody = torch.arange(12) % 2 == 0
    return embedding * ~nobody[:, None], centres, labels.masked_fill(nobody, STRANGER)


CASES: dict[str, Callable[[], Batch]] = {
    case.__name__: case
    for case in (
        along_every_axis,
        along_a_wrong_centre,
        zero_embeddings,
        lengths_from_tiny_to_huge,
        collapsed_embeddings,
        collapsed_centres,
        everything_in_one_point,
        zero_centre,
        one_sample,
        two_classes,
        two_opposite_classes,
        one_sample_on_the_wrong_side_of_two_classes,
        one_class_in_the_batch,
        only_strangers,
        one_identity_among_strangers,
        zero_embeddings_of_strangers,
    )
} | {f"of_length_{length:g}": lambda length=length: of_length(length) for length in (1e-4, 1e4)}


@pytest.mark.parametrize("case", CASES)
def test_step_is_finite(loss_config, case, make_head, dense):
    embedding, centres, labels = CASES[case]()
    head = make_head(loss_config)
    classifier = dense(head, sub_centres(centres, head.centres_per_class))
    for step in ("first step", "step after it"):
        classifier.zero_grad()
        leaf = embedding.clone().requires_grad_()
        outcome, facts = classifier(leaf, labels)
        outcome.backward()
        classifier.advance()
        found = {
            "loss": outcome,
            "gradient of the embedding": leaf.grad,
            **{f"gradient of {name}": parameter.grad for name, parameter in classifier.named_parameters()},
            **{f"state {name}": buffer for name, buffer in classifier.named_buffers()},
            **{f"diagnostic {name}": value for name, value in facts.diagnostics.items()},
        }
        broken = [name for name, tensor in found.items() if tensor is None or not tensor.isfinite().all()]
        assert not broken, f"{step}: {broken}"


def sub_centres(centres: Tensor, per_class: int) -> Tensor:
    """The first sub-centre of a class is its direction; the others stand around it."""
    if per_class == 1:
        return centres
    noise = torch.randn(len(centres), per_class, SIZE, generator=torch.Generator().manual_seed(9))
    return (centres[:, None] + 0.2 * noise * (torch.arange(per_class) > 0)[:, None]).flatten(0, 1)
