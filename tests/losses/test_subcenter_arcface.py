import math

import pytest
import torch

from frtrain.errors import ConfigError


@pytest.fixture
def crowd():
    """Embeddings `[16, 12]`, three sub-centres for each of ten classes `[30, 12]` and labels `[16]`."""
    generator = torch.Generator().manual_seed(8)
    embedding = torch.randn(16, 12, generator=generator, dtype=torch.float64)
    centres = torch.randn(30, 12, generator=generator, dtype=torch.float64)
    return embedding, centres, torch.randint(0, 10, (16,), generator=generator)


def run(classifier, embedding, labels):
    embedding = embedding.clone().requires_grad_()
    loss, facts = classifier(embedding, labels)
    loss.backward()
    return loss.detach(), embedding.grad, classifier.centres.grad, facts


def test_one_sub_centre_is_arcface(faces, make_head, dense):
    embedding, centres, labels = faces
    ours = run(dense(make_head("subcenter_arcface", sub_centres=1), centres), embedding, labels)
    parent = run(dense(make_head("arcface"), centres), embedding, labels)
    assert all(torch.equal(left, right) for left, right in zip(ours[:3], parent[:3], strict=True))


def test_equal_sub_centres_are_arcface(faces, make_head, dense):
    embedding, centres, labels = faces
    ours = dense(make_head("subcenter_arcface"), centres.repeat_interleave(3, dim=0))
    parent = dense(make_head("arcface"), centres)
    torch.testing.assert_close(ours(embedding, labels)[0], parent(embedding, labels)[0])


def test_loss_is_the_formula_with_the_nearest_sub_centre_of_every_class(crowd, make_head, dense):
    embedding, centres, labels = crowd
    expected = 0.0
    for vector, label in zip(embedding.tolist(), labels.tolist(), strict=True):
        cosines = [
            sum(a * b for a, b in zip(vector, centre, strict=True)) / (math.hypot(*vector) * math.hypot(*centre))
            for centre in centres.tolist()
        ]
        angles = [math.acos(max(cosines[3 * j : 3 * j + 3])) for j in range(10)]
        angles[label] += 0.5
        logits = [64 * math.cos(angle) for angle in angles]
        assert angles[label] < math.pi
        expected += math.log(sum(math.exp(z - logits[label]) for z in logits)) / len(labels)
    loss, _ = dense(make_head("subcenter_arcface"), centres)(embedding, labels)
    assert loss.item() == pytest.approx(expected)


def test_loss_and_gradients_are_those_of_pytorch_metric_learning(crowd, make_head, dense):
    reference = pytest.importorskip("pytorch_metric_learning.losses")
    embedding, centres, labels = crowd
    theirs = reference.SubCenterArcFaceLoss(
        num_classes=10, embedding_size=12, margin=math.degrees(0.5), scale=64, sub_centers=3
    ).double()
    theirs.W = torch.nn.Parameter(centres.T.clone())
    their_embedding = embedding.clone().requires_grad_()
    their_loss = theirs(their_embedding, labels)
    their_loss.backward()

    loss, to_embedding, to_centres, _ = run(
        dense(make_head("subcenter_arcface", beyond_pi="classic"), centres), embedding, labels
    )
    torch.testing.assert_close(loss, their_loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(to_embedding, their_embedding.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(to_centres, theirs.W.grad.T, rtol=1e-4, atol=1e-6)


def test_gradient_is_that_of_the_loss(crowd, make_head, dense):
    embedding, centres, labels = crowd
    classifier = dense(make_head("subcenter_arcface"), centres)

    def of(embedding, centres):
        return torch.func.functional_call(classifier, {"centres": centres}, (embedding, labels[:4]))[0]

    assert torch.autograd.gradcheck(of, (embedding[:4].requires_grad_(), centres.requires_grad_()))


def test_order_of_the_sub_centres_of_a_class_does_not_matter(crowd, make_head, dense):
    embedding, centres, labels = crowd
    turned = centres.unflatten(0, (10, 3)).flip(1).flatten(0, 1)
    before, after = (run(dense(make_head("subcenter_arcface"), rows), embedding, labels) for rows in (centres, turned))
    assert torch.equal(before[0], after[0])
    torch.testing.assert_close(after[2].unflatten(0, (10, 3)).flip(1), before[2].unflatten(0, (10, 3)))


def test_only_the_nearest_sub_centre_of_the_own_class_is_pulled(make_head, dense):
    centres = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.1], [-1.0, -0.1]], dtype=torch.float64)
    head = make_head("subcenter_arcface", sub_centres=2)
    _, _, to_centres, facts = run(
        dense(head, centres), torch.tensor([[0.3, 2.0]], dtype=torch.float64), torch.tensor([0])
    )
    assert to_centres[1].any()
    assert not to_centres[0].any()
    assert facts.target_similarity.item() == pytest.approx(2 / math.hypot(0.3, 2))


@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_impossible_number_of_sub_centres_is_an_error_that_names_the_key(value, make_head):
    with pytest.raises(ConfigError, match=r"^loss\.sub_centres="):
        make_head("subcenter_arcface", sub_centres=value)
