import pytest
import torch
from torch.nn.functional import cosine_similarity


def test_mean_loss_is_the_golden_value(golden, make_head, dense):
    embedding, centres, labels = golden
    loss, _ = dense(make_head("p2sgrad"), centres)(embedding, labels)
    assert loss.item() == pytest.approx(0.972641, abs=1e-6)


def test_loss_is_half_the_squared_distance_to_a_one_hot_vector(faces, make_head, dense):
    embedding, centres, labels = faces
    cosines = cosine_similarity(embedding[:, None], centres, dim=2).tolist()
    expected = 0.0
    for row, label in zip(cosines, labels.tolist(), strict=True):
        for j, cosine in enumerate(row):
            expected += 0.5 * (cosine - (1 if j == label else 0)) ** 2 / len(embedding)
    assert dense(make_head("p2sgrad"), centres)(embedding, labels)[0].item() == pytest.approx(expected, abs=1e-12)


def test_gradient_to_a_cosine_is_its_distance_from_zero_or_one(make_head):
    head = make_head("p2sgrad")
    cosines = torch.tensor([-1.0, -0.3, 0.0, 0.7, 1.0], dtype=torch.float64, requires_grad=True)
    (to_own,) = torch.autograd.grad(head.target(cosines, ()).sum(), cosines)
    (to_others,) = torch.autograd.grad(head.others(cosines, ()).sum(), cosines)
    assert to_own.tolist() == pytest.approx([-2.0, -1.3, -1.0, -0.3, 0.0])
    assert to_others.tolist() == pytest.approx([-1.0, -0.3, 0.0, 0.7, 1.0])


def test_loss_is_half_of_the_number_of_classes_times_the_mean_square_of_public_code(faces, make_head, dense):
    embedding, centres, labels = faces
    one_hot = torch.nn.functional.one_hot(labels, 7).double()
    mean_square = torch.nn.functional.mse_loss(cosine_similarity(embedding[:, None], centres, dim=2), one_hot)
    torch.testing.assert_close(dense(make_head("p2sgrad"), centres)(embedding, labels)[0], mean_square * 7 / 2)


def test_perfect_embedding_has_loss_and_gradient_zero(make_head, dense):
    embedding = torch.eye(3, dtype=torch.float64, requires_grad=True)
    loss, _ = dense(make_head("p2sgrad"), torch.eye(3, dtype=torch.float64))(embedding, torch.arange(3))
    loss.backward()
    assert loss.item() == 0
    assert not embedding.grad.any()
