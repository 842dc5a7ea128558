import pytest
import torch
import torch.nn.functional as F

from frtrain.modifiers import InterclassFilter

THRESHOLD = 0.3


@pytest.fixture
def cosines(crowd):
    embedding, centres, _ = crowd
    return F.linear(F.normalize(embedding), F.normalize(centres))


def near_wrong_classes(cosines, labels):
    """Written again, one by one."""
    return [
        (i, j) for i, row in enumerate(cosines.tolist()) for j, c in enumerate(row) if j != labels[i] and c > THRESHOLD
    ]


def test_filtered_loss_is_that_of_cosines_at_a_right_angle(loss, make_head, crowd, cosines, given):
    if make_head(loss).geometry != "cosine":
        pytest.skip("refused")
    embedding, _, labels = crowd
    plain = cosines.clone()
    for i, j in near_wrong_classes(cosines, labels):
        plain[i, j] = 0
    assert not torch.equal(plain, cosines)
    plain.requires_grad_()
    filtered = cosines.clone().requires_grad_()
    expected, _ = given(make_head(loss), plain)(embedding, labels)
    found, _ = given(InterclassFilter(make_head(loss), THRESHOLD), filtered)(embedding, labels)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    for i, j in near_wrong_classes(cosines, labels):
        plain.grad[i, j] = 0
    torch.testing.assert_close(filtered.grad, plain.grad)


def test_own_class_is_never_filtered(make_head, given):
    cosines = torch.tensor([[0.9, 0.1, -0.2]], dtype=torch.float64)
    embedding, labels = torch.ones(1, 5, dtype=torch.float64), torch.tensor([0])
    plain, _ = given(make_head("cosface"), cosines)(embedding, labels)
    assert torch.equal(given(InterclassFilter(make_head("cosface"), THRESHOLD), cosines)(embedding, labels)[0], plain)


def test_share_of_filtered_classes_is_told(make_head, crowd, cosines, given):
    embedding, _, labels = crowd
    _, facts = given(InterclassFilter(make_head("sv_softmax"), THRESHOLD), cosines)(embedding, labels)
    filtered = [(i, j) for i, j in near_wrong_classes(cosines, labels) if labels[i] >= 0]
    assert facts.diagnostics["filtered_classes"].item() == pytest.approx(len(filtered) / (10 * 6))
    assert "support_vectors" in facts.diagnostics


def test_accuracy_does_not_know_of_the_filter(make_head, crowd, cosines, given):
    embedding, _, labels = crowd
    accuracy = [
        given(head, cosines)(embedding, labels)[1].accuracy
        for head in (make_head("cosface"), InterclassFilter(make_head("cosface"), -0.9))
    ]
    assert accuracy[0] == accuracy[1]


@pytest.mark.parametrize(("config", "way"), [("softmax", "inner product"), ("euclidean_margin", "euclidean distance")])
def test_loss_that_does_not_compare_by_cosine_is_refused_in_words(config, way, make_head):
    with pytest.raises(ValueError, match=rf"losses that compare by cosine, and loss={config} compares by {way}$"):
        InterclassFilter(make_head(config), THRESHOLD)
