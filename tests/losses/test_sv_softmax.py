import pytest
import torch


def loss_of(head, faces, dense):
    embedding, centres, labels = faces
    return dense(head, centres)(embedding, labels)[0]


@pytest.mark.parametrize(
    ("changes", "parent", "parent_changes"),
    [
        ({"margin_kind": "none"}, "normface", {"learn_scale": False}),
        ({"margin_kind": "am"}, "cosface", {}),
        ({"margin_kind": "arc", "margin": 0.5}, "arcface", {}),
    ],
)
def test_sv_softmax_with_t_one_is_its_margin_parent(changes, parent, parent_changes, faces, make_head, dense):
    with_t_one = make_head("sv_softmax", t=1, **changes)
    parent = make_head(parent, scale=32, **parent_changes)
    torch.testing.assert_close(loss_of(with_t_one, faces, dense), loss_of(parent, faces, dense))


@pytest.mark.parametrize("kind", ["am", "arc"])
def test_margin_zero_is_sv_softmax_without_margin(kind, faces, make_head, dense, others_of, make_samples):
    without = make_head("sv_softmax", margin_kind="none")
    zero = make_head("sv_softmax", margin_kind=kind, margin=0)
    torch.testing.assert_close(loss_of(zero, faces, dense), loss_of(without, faces, dense))


@pytest.fixture
def others_of(make_samples):
    def others(head, own, cosines):
        similarity = torch.tensor([cosines], dtype=torch.float64, requires_grad=True)
        own = torch.tensor([own], dtype=torch.float64)
        row = head.row(make_samples(own))
        return similarity, head.others(similarity, row)

    return others


def test_only_classes_above_the_margined_target_are_raised(make_head, others_of):
    head = make_head("sv_softmax", margin=0.25)
    _, others = others_of(head, 0.75, [0.6, 0.4, -0.2])
    assert others[0].tolist() == pytest.approx([1.2 * 0.6 + 0.2, 0.4, -0.2])


def test_class_exactly_at_the_threshold_is_no_support_vector(make_head, others_of):
    head = make_head("sv_softmax", margin=0.25)
    _, others = others_of(head, 0.75, [0.5])
    assert others.item() == 0.5


def test_hard_classes_are_never_lowered_and_keep_their_order(make_head, others_of):
    head = make_head("sv_softmax", t=1.3)
    cosines, others = others_of(head, -0.7, torch.linspace(-1, 1, 41).tolist())
    assert (others >= cosines).all()
    assert (others.diff() > 0).all()


def test_gradient_of_a_support_vector_is_t_times_larger(make_head, others_of):
    head = make_head("sv_softmax", margin=0.25)
    similarity, others = others_of(head, 0.75, [0.6, 0.4])
    others.sum().backward()
    assert similarity.grad[0].tolist() == pytest.approx([1.2, 1.0])


def test_threshold_has_no_gradient(make_head, make_samples):
    own = torch.tensor([0.5], requires_grad=True)
    row = make_head("sv_arc_softmax").row(make_samples(own))
    assert not row.threshold.requires_grad


def test_target_column_is_not_counted_as_its_own_support_vector(make_head, dense):
    centres = torch.eye(3, dtype=torch.float64)
    embedding = torch.tensor([[1.0, 0.1, 0.9]], dtype=torch.float64)
    _, facts = dense(make_head("sv_softmax"), centres)(embedding, torch.tensor([0]))
    assert facts.diagnostics["support_vectors"].item() == pytest.approx(1 / 2)


@pytest.mark.parametrize("config", ["sv_softmax", "sv_arc_softmax"])
def test_easy_margin_spares_the_target_but_not_the_threshold(config, make_head, make_samples):
    easy, strict = make_head(config, easy_margin=True), make_head(config)
    own = torch.tensor([-0.2, 0.2], dtype=torch.float64)
    easy_row, strict_row = (head.row(make_samples(own)) for head in (easy, strict))
    assert torch.equal(easy_row.threshold, strict_row.threshold)
    assert easy.target(own, easy_row)[0] == own[0]
    assert easy.target(own, easy_row)[1] == strict.target(own, strict_row)[1]


def test_shift_of_the_cosine_equals_the_papers_factor_on_the_exponential(make_head, others_of):
    s, t = 4.0, 1.2
    cosines, others = others_of(make_head("sv_softmax", scale=s, t=t), -0.9, [0.3, -0.4])
    factor = torch.exp(s * (t - 1) * (cosines + 1))
    torch.testing.assert_close(torch.exp(s * others), factor * torch.exp(s * cosines))


def test_the_largest_exponent_does_not_overflow_in_float32(make_head, dense):
    head = make_head("sv_softmax", scale=64)
    centres = torch.eye(4)
    embedding = (torch.eye(4)[:1]).requires_grad_()
    loss, _ = dense(head, centres)(embedding, torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(64 * 1.4 + 64 * 0.35, abs=1e-3)
    assert embedding.grad.isfinite().all()
