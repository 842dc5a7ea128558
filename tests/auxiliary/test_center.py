import pytest
import torch

from frtrain.auxiliary import AUXILIARIES
from frtrain.commands.composition import group_defaults
from frtrain.errors import ConfigError


def center(classes=6, size=8, seed=1, **changes):
    auxiliary = AUXILIARIES.build({**group_defaults("auxiliary", "center"), **changes})
    torch.manual_seed(seed)
    auxiliary.set_up(classes, size)
    return auxiliary


@pytest.fixture
def faces():
    """Embeddings `[5, 8]` in float64, labels with a class twice and one face of nobody."""
    embedding = torch.randn(5, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return embedding.requires_grad_(), torch.tensor([4, 1, -1, 4, 0])


@pytest.fixture
def golden():
    """Embeddings `[4, 8]`, centres `[6, 8]` in float64 and labels `[4]`, from integer formulas."""
    integers = [[((5 * j * j + 2 * k + 3 * j * k + k * k) % 13) - 6 for k in range(8)] for j in range(6)]
    noise = [[((7 * i + 3 * k * k + 5 * i * k) % 11) - 5 for k in range(8)] for i in range(4)]
    centres, labels = torch.tensor(integers, dtype=torch.float64), torch.tensor([0, 2, 5, 3])
    own = torch.tensor([1.0, 0.35, 0.05, -1.0], dtype=torch.float64)[:, None]
    other = torch.tensor([0.5, 0.8, 1.0, 0.15], dtype=torch.float64)[:, None]
    return (own * centres[labels] + other * torch.tensor(noise, dtype=torch.float64)) / 5, centres / 5, labels


def by_hand(auxiliary, embedding, labels, normalised=False):
    """Loss and next centres of the paper, in plain loops."""
    weight, alpha, centres = auxiliary.weight, auxiliary.alpha, auxiliary.centres.detach().double()
    samples = [
        (x / x.norm() if normalised else x, y) for x, y in zip(embedding, labels.tolist(), strict=True) if y >= 0
    ]
    loss = sum(weight / 2 * (x - centres[y]).square().sum() for x, y in samples) / len(samples)
    moved = centres.clone()
    for j in range(len(centres)):
        own = [x for x, y in samples if y == j]
        moved[j] -= alpha * sum((centres[j] - x for x in own), torch.zeros(8)) / (1 + len(own))
    return loss, moved


def test_golden_value(golden):
    embedding, centres, labels = golden
    auxiliary = center(weight=1.0).double()
    auxiliary.centres.data = centres.clone()
    assert auxiliary(embedding, labels).item() == pytest.approx(2.691475, abs=1e-6)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_loss_gradient_and_centres_are_those_of_the_paper(normalised, alpha, faces):
    embedding, labels = faces
    auxiliary = center(weight=0.3, alpha=alpha, normalised=normalised).double()
    expected, moved = by_hand(auxiliary, embedding, labels, normalised)
    loss = auxiliary(embedding, labels)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, embedding)[0] for value in (loss, expected)))
    auxiliary.advance()
    torch.testing.assert_close(auxiliary.centres.detach(), moved.detach())


def test_centres_are_only_moved_by_a_step_that_was_taken(faces):
    embedding, labels = faces
    auxiliary = center()
    before = auxiliary.centres.detach().clone()
    auxiliary(embedding * 100, labels)  # a step that is skipped
    auxiliary(embedding, labels)
    assert torch.equal(auxiliary.centres, before)
    auxiliary.advance()
    _, moved = by_hand(center(), embedding, labels)
    torch.testing.assert_close(auxiliary.centres.detach(), moved.detach().float())
    after = auxiliary.centres.detach().clone()
    auxiliary.advance()
    assert torch.equal(auxiliary.centres, after)


def test_centres_do_not_move_in_evaluation(faces):
    auxiliary = center().eval()
    before = auxiliary.centres.detach().clone()
    auxiliary(*faces)
    auxiliary.advance()
    assert torch.equal(auxiliary.centres, before)


def test_centres_of_the_paper_are_not_trained_but_saved(faces):
    auxiliary = center()
    auxiliary(*faces).backward()
    assert auxiliary.centres.grad is None
    assert not auxiliary.centres.requires_grad
    assert list(auxiliary.state_dict()) == ["centres"]
    assert list(auxiliary.buffers()) == []


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_gradient_of_solver_centres_is_the_papers_step(alpha, faces):
    embedding, labels = faces
    auxiliary = center(update="solver", alpha=alpha, weight=0.3).double()
    expected, moved = by_hand(auxiliary, embedding, labels)
    loss = auxiliary(embedding, labels)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    torch.testing.assert_close(auxiliary.centres.detach() - auxiliary.centres.grad, moved.detach())
    torch.testing.assert_close(embedding.grad, torch.autograd.grad(expected, embedding)[0])
    before = auxiliary.centres.detach().clone()
    auxiliary.advance()
    assert torch.equal(auxiliary.centres, before)


def test_face_without_identity_changes_nothing(faces):
    embedding, labels = faces
    known = labels >= 0
    all_, alone = center(), center()
    loss = all_(embedding, labels)
    torch.testing.assert_close(loss, alone(embedding[known], labels[known]))
    loss.backward()
    assert not embedding.grad[2].any()
    all_.advance()
    alone.advance()
    assert torch.equal(all_.centres, alone.centres)


@pytest.mark.parametrize("update", ["paper", "solver"])
def test_batch_without_any_identity_is_zero(update, faces):
    embedding, labels = faces
    auxiliary = center(update=update)
    before = auxiliary.centres.detach().clone()
    loss = auxiliary(embedding, torch.full_like(labels, -1))
    loss.backward()
    auxiliary.advance()
    assert loss == 0
    assert not embedding.grad.any()
    assert torch.equal(auxiliary.centres, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_embedding_has_a_finite_gradient(dtype):
    embedding = torch.zeros(2, 8, dtype=dtype, requires_grad=True)
    for normalised in (False, True):
        loss = center(normalised=normalised)(embedding, torch.tensor([0, 1]))
        loss.backward()
        assert loss.dtype == dtype
        assert embedding.grad.isfinite().all()


def test_length_does_not_matter_where_normalised(faces):
    embedding, labels = faces
    auxiliary = center(normalised=True)
    torch.testing.assert_close(auxiliary(embedding, labels), auxiliary(7 * embedding, labels))


def test_first_centres_depend_on_the_seed_alone():
    one = center(seed=3)
    torch.manual_seed(3)
    torch.randn(1000)
    other = AUXILIARIES.build(group_defaults("auxiliary", "center"))
    other.set_up(6, 8)
    assert torch.equal(one.centres, other.centres)
    assert not torch.equal(one.centres, center(seed=4).centres)
    assert center(2000, 50).centres.var().item() == pytest.approx(1 / 50, rel=0.03)


@pytest.mark.parametrize(
    ("key", "value"), [("weight", -1), ("alpha", 0), ("alpha", 1.5), ("update", "sgd"), ("normalised", "no")]
)
def test_impossible_value_is_an_error_that_names_the_key(key, value):
    with pytest.raises(ConfigError, match=rf"auxiliary\.{key}="):
        center(**{key: value})
