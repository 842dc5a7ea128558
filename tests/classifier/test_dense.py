"""The engine with heads made for the test: it must serve any head that keeps the contract."""

from typing import NamedTuple

import pytest
import torch

from frtrain.classifier import CLASSIFIERS
from frtrain.classifier.dense import DenseClassifier
from frtrain.errors import ConfigError
from frtrain.losses import Head


class Own(NamedTuple):
    own: torch.Tensor


class Plain(Head[tuple[()]]):
    geometry = "cosine"

    def target(self, similarity, row):
        return similarity


class Hinge(Head[Own]):
    """max(0, d_y^2 - d_j^2 + 1), summed over wrong classes; its row carries gradient."""

    geometry = "euclidean"
    reduction = "sum"

    def row(self, samples):
        return Own(samples.similarity)

    def target(self, similarity, row):
        return torch.zeros_like(similarity)

    def others(self, similarity, row):
        return (similarity - row.own[:, None] + 1).clamp(min=0)


class SubCentre(Plain):
    centres_per_class = 3


class Penalised(Plain):
    def penalty(self, norm):
        return 10 / norm


class Reporting(Plain):
    def row(self, samples):
        return Own(torch.arange(len(samples.similarity), dtype=samples.similarity.dtype))

    def diagnostics(self, row):
        return {"state": torch.tensor(7.0), "per_sample": row.own}

    def class_diagnostics(self, similarity, row):
        return {"positive": similarity > 0}


class Counting(Plain):
    """Its buffer holds the running maximum of the target similarity."""

    def __init__(self):
        super().__init__(scale=4)
        self.register_buffer("best", torch.tensor(-1.0))

    def row(self, samples):
        self.propose(best=torch.maximum(self.best, samples.similarity.max()))
        return ()


def classifier_of(head, classes=6, size=5, seed=0):
    torch.manual_seed(seed)
    return DenseClassifier(head, classes, size, init_std=0.1).double()


def batch(count=4, size=5, classes=6):
    generator = torch.Generator().manual_seed(4)
    embedding = torch.randn(count, size, generator=generator, dtype=torch.float64)
    return embedding.requires_grad_(), torch.randint(0, classes, (count,), generator=generator)


def test_sum_of_hinges_on_squared_distances():
    classifier, (embedding, labels) = classifier_of(Hinge()), batch()
    loss, _ = classifier(embedding, labels)
    expected = 0.0
    for vector, label in zip(embedding, labels, strict=True):
        squares = (vector - classifier.centres).square().sum(dim=1)
        expected += sum((squares[label] - squares[j] + 1).clamp(min=0) for j in range(6) if j != label) / 4
    torch.testing.assert_close(loss, expected)
    ours = torch.autograd.grad(loss, (embedding, classifier.centres))
    theirs = torch.autograd.grad(expected, (embedding, classifier.centres))
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right)


def test_class_with_sub_centres_is_as_near_as_its_nearest():
    classifier, (embedding, labels) = classifier_of(SubCentre(scale=8)), batch()
    assert classifier.centres.shape == (18, 5)
    cosine = torch.nn.functional.cosine_similarity(embedding[:, None], classifier.centres[None], dim=2)
    nearest = torch.stack([cosine[:, 3 * j : 3 * j + 3].max(dim=1).values for j in range(6)], dim=1)
    loss, facts = classifier(embedding, labels)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(8 * nearest, labels))
    torch.testing.assert_close(facts.target_similarity, nearest[torch.arange(4), labels])


def test_penalty_is_averaged_over_known_faces_and_not_scaled():
    embedding, labels = batch()
    labels[1] = -1
    penalised, _ = classifier_of(Penalised(scale=8))(embedding, labels)
    plain, _ = classifier_of(Plain(scale=8))(embedding, labels)
    known = torch.tensor([0, 2, 3])
    torch.testing.assert_close(penalised - plain, (10 / embedding.norm(dim=1))[known].mean())


def test_diagnostics_are_averaged_over_known_faces_and_wrong_classes():
    classifier, (embedding, labels) = classifier_of(Reporting()), batch()
    labels[1] = -1
    _, facts = classifier(embedding, labels)
    cosine = torch.nn.functional.cosine_similarity(embedding[:, None], classifier.centres[None], dim=2)
    positive = [(cosine[i, j] > 0).item() for i in (0, 2, 3) for j in range(6) if j != labels[i]]
    values = {name: value.item() for name, value in facts.diagnostics.items()}
    expected = {"state": 7, "per_sample": 5 / 3, "positive": sum(positive) / len(positive)}
    assert values == pytest.approx({**expected, "scale": 1, "effective_margin": 0})


def test_diagnostics_of_wrong_classes_are_left_out_where_nobody_watches():
    classifier = classifier_of(Reporting())
    classifier.watch = False
    _, facts = classifier(*batch())
    assert facts.diagnostics.keys() == {"state", "per_sample", "scale", "effective_margin"}


def test_effective_margin_is_what_the_target_lost():
    class Margined(Plain):
        def target(self, similarity, row):
            return similarity - 0.35

    _, facts = classifier_of(Margined(scale=16))(*batch())
    assert facts.diagnostics["effective_margin"].item() == pytest.approx(0.35)
    assert facts.diagnostics["scale"] == 16


def test_state_advances_only_when_told():
    classifier, (embedding, labels) = classifier_of(Counting()), batch()
    classifier(embedding, labels)
    assert classifier.head.best == -1
    _, facts = classifier(embedding, labels)
    classifier.advance()
    assert classifier.head.best == facts.target_similarity.max()


def test_state_does_not_advance_in_evaluation():
    classifier, (embedding, labels) = classifier_of(Counting()), batch()
    classifier.eval()
    classifier(embedding, labels)
    classifier.advance()
    assert classifier.head.best == -1


def test_advance_commits_a_proposal_once():
    classifier, (embedding, labels) = classifier_of(Counting()), batch()
    classifier(embedding, labels)
    classifier.advance()
    classifier.head.best.fill_(-0.5)
    classifier.advance()
    assert classifier.head.best == -0.5


def test_facts_come_from_unmargined_similarities():
    class Pessimist(Plain):
        def target(self, similarity, row):
            return similarity - 2

    embedding = torch.eye(3, 5, dtype=torch.float64) * torch.tensor([1.0, 2.0, 3.0])[:, None]
    classifier = classifier_of(Pessimist(), classes=3)
    classifier.centres = torch.nn.Parameter(torch.eye(3, 5, dtype=torch.float64))
    _, facts = classifier(embedding, torch.tensor([0, 1, 0]))
    assert facts.target_similarity.tolist() == [1, 1, 0]
    assert facts.embedding_norm.tolist() == [1, 2, 3]
    assert facts.accuracy.item() == pytest.approx(2 / 3)


def test_facts_carry_no_gradient():
    _, facts = classifier_of(Reporting())(*batch())
    tensors = [facts.target_similarity, facts.accuracy, facts.embedding_norm, *facts.diagnostics.values()]
    assert not any(tensor.requires_grad for tensor in tensors)


def test_collapsed_embedding_is_not_called_accurate():
    _, facts = classifier_of(Plain())(torch.zeros(6, 5), torch.arange(6))
    assert facts.accuracy == 0


def test_float64_embedding_is_computed_in_float64():
    embedding, labels = batch()
    classifier = classifier_of(Plain()).float()
    loss, _ = classifier(embedding, labels)
    assert loss.dtype == torch.float64
    assert classifier(embedding.float(), labels)[0].dtype == torch.float32


def test_centres_in_half_precision_are_widened():
    embedding, labels = batch()
    classifier = classifier_of(Plain()).bfloat16()
    assert classifier(embedding.bfloat16(), labels)[0].dtype == torch.float32


def test_centres_start_normal_with_the_given_deviation():
    torch.manual_seed(0)
    classifier = DenseClassifier(Plain(), 1000, 64, init_std=0.02)
    assert classifier.centres.std().item() == pytest.approx(0.02, rel=0.02)
    assert classifier.centres.mean().item() == pytest.approx(0, abs=3e-4)


def test_seed_decides_the_first_centres():
    assert torch.equal(classifier_of(Plain(), seed=3).centres, classifier_of(Plain(), seed=3).centres)


def test_one_identity_is_refused():
    with pytest.raises(ConfigError, match="at least two identities"):
        CLASSIFIERS.build({"name": "dense", "init_std": 0.01}, head=Plain(), classes=1, embedding_size=5)


def test_impossible_deviation_names_the_key():
    with pytest.raises(ConfigError, match=r"^classifier\.init_std="):
        CLASSIFIERS.build({"name": "dense", "init_std": 0}, head=Plain(), classes=4, embedding_size=5)


def test_checkpoint_of_the_classifier_holds_the_state_of_its_head():
    first, second = classifier_of(Counting()), classifier_of(Counting(), seed=9)
    first(*batch())
    first.advance()
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.head.best, first.head.best)
    assert torch.equal(second.centres, first.centres)
