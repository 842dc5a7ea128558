import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from frtrain.classifier.similarity import prepare
from frtrain.classifier.similarity import similarity as similarity_to
from frtrain.errors import ConfigError
from frtrain.losses import LOSSES
from frtrain.losses.base import Samples

VARIANTS = [
    {"kind": kind, "average": average, "normalised": normalised, "with_softmax": with_softmax}
    for kind, average in [("hinge", "active"), ("hinge", "none"), ("hardest", "none"), ("smooth", "none")]
    for normalised, with_softmax in itertools.product([False, True], repeat=2)
]
variants = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(str(value) for value in v.values()))


def loss_of(head, batch, dense):
    embedding, centres, labels = batch
    return dense(head, centres)(embedding, labels)[0]


@pytest.mark.parametrize(
    ("changes", "expected"), [({"kind": "hinge", "average": "none"}, 10.969), ({"kind": "hardest"}, 3.966)]
)
def test_mean_loss_is_the_golden_value_of_the_reconstruction(changes, expected, golden, make_head, dense):
    head = make_head("euclidean_margin", with_softmax=False, **changes)
    assert loss_of(head, golden, dense).item() == pytest.approx(expected, abs=1e-6)


def unit(vector):
    length = math.hypot(*vector)
    return [value / length for value in vector]


def formula(batch, kind, average, normalised, with_softmax, margin, scale, weight):
    """Softmax and margin straight from squared distances, with loops."""
    embedding, centres, labels = (part.tolist() for part in batch)
    if normalised:
        embedding, centres = [unit(x) for x in embedding], [unit(w) for w in centres]
    total = 0.0
    for x, label in zip(embedding, labels, strict=True):
        squares = [sum((a - b) ** 2 for a, b in zip(x, w, strict=True)) for w in centres]
        wrong = [square for j, square in enumerate(squares) if j != label]
        violations = [squares[label] - square + margin for square in wrong]
        active = [violation for violation in violations if violation > 0]
        if kind == "hinge":
            part = sum(active) / (max(len(active), 1) if average == "active" else 1)
        elif kind == "hardest":
            part = max(0, squares[label] - min(wrong) + margin)
        else:
            part = math.log(1 + sum(math.exp(scale * violation) for violation in violations))
        softmax = math.log(sum(math.exp(-scale / 2 * (square - squares[label])) for square in squares))
        total += softmax + weight * part if with_softmax else part
    return total / len(labels)


@variants
@pytest.mark.parametrize("batch", ["golden", "faces"])
@pytest.mark.parametrize(
    "setting", [{"margin": 1.0, "scale": 1.0, "weight": 0.1}, {"margin": 0.3, "scale": 4.0, "weight": 2.0}]
)
def test_loss_is_the_formula_in_squared_distances(variant, batch, setting, request, make_head, dense):
    batch = request.getfixturevalue(batch)
    loss = loss_of(make_head("euclidean_margin", **variant, **setting), batch, dense)
    assert loss.item() == pytest.approx(formula(batch, **variant, **setting), rel=1e-9)


@variants
def test_gradient_is_that_of_the_loss(variant, faces, make_head, dense):
    embedding, centres, labels = faces
    classifier = dense(make_head("euclidean_margin", scale=1.5, weight=0.7, **variant), centres)

    def of(embedding, centres):
        return torch.func.functional_call(classifier, {"centres": centres}, (embedding, labels))[0]

    assert torch.autograd.gradcheck(of, (embedding.requires_grad_(), centres.requires_grad_()))


@variants
def test_classes_may_come_in_blocks(variant, faces, make_head):
    embedding, centres, labels = faces
    head = make_head("euclidean_margin", weight=0.7, **variant)
    similarity = similarity_to(head.geometry, prepare(head.geometry, embedding), centres)
    wrong = F.one_hot(labels, 7) == 0
    own = similarity[~wrong].requires_grad_()
    samples = Samples(own, torch.ones(6), labels)
    found = {}
    for name, kind in head.surveys.items():
        values = head.survey(similarity, samples)[name]
        reduce = {"sum": torch.sum, "max": torch.amax, "logsumexp": torch.logsumexp}[kind]
        found[name] = reduce(values.double().where(wrong, 0 if kind == "sum" else -torch.inf), dim=1)
    row = head.row(Samples(own, torch.ones(6), labels, found))
    of_block = head.other_terms if head.terms else head.others
    blocks = torch.cat([of_block(part, row) for part in similarity.split([3, 1, 3], dim=1)], dim=1)
    torch.testing.assert_close(blocks, of_block(similarity, row))


@variants
def test_ends_of_the_cosine_are_finite_in_float32(variant, make_head, surveyed_row):
    ends = [-1 - 4e-7, -1.0, -1 + 6e-8, 0.0, 1 - 6e-8, 1.0, 1 + 4e-7]
    head = make_head("euclidean_margin", scale=64, **variant)
    own = torch.tensor(ends, requires_grad=True)
    similarity = torch.tensor(ends).repeat(len(own), 1).requires_grad_()
    row = surveyed_row(head, similarity, own)
    found = [head.target(own, row), head.others(similarity, row)]
    if head.terms:
        found += [head.target_term(own, row), head.other_terms(similarity, row)]
    sum(part.sum() for part in found).backward()
    for tensor in (*found, own.grad, similarity.grad):
        assert tensor.isfinite().all()


@variants
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e2])
def test_face_on_its_centre_is_finite_in_float32(variant, size, make_head, dense):
    centres = size * torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
    embedding = centres.clone().requires_grad_()
    loss = loss_of(make_head("euclidean_margin", **variant), (embedding, centres, torch.arange(64)), dense)
    loss.backward()
    assert loss.isfinite()
    assert embedding.grad.isfinite().all()


@variants
def test_faces_without_identity_contribute_nothing(variant, faces, make_head, dense):
    embedding, centres, labels = faces
    strangers = torch.randn(2, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    crowd = torch.cat([strangers, embedding]).requires_grad_()
    head = make_head("euclidean_margin", **variant)
    loss = loss_of(head, (crowd, centres, torch.cat([torch.tensor([-1, -1]), labels])), dense)
    loss.backward()
    torch.testing.assert_close(loss.detach(), loss_of(head, faces, dense).detach())
    assert not crowd.grad[:2].any()


def test_softmax_is_the_linear_classifier_whose_bias_is_tied_to_its_centre(faces, make_head, dense):
    embedding, centres, labels = faces
    logits = embedding @ centres.T - centres.square().sum(dim=1) / 2
    for kind in ("hinge", "hardest", "smooth"):
        loss = loss_of(make_head("euclidean_margin", kind=kind, weight=0), faces, dense)
        torch.testing.assert_close(loss, F.cross_entropy(logits, labels))


def test_softmax_on_the_sphere_is_normface(faces, make_head, dense):
    ours = make_head("euclidean_margin", normalised=True, weight=0, scale=20)
    theirs = make_head("normface", scale=20, learn_scale=False)
    torch.testing.assert_close(loss_of(ours, faces, dense), loss_of(theirs, faces, dense))


@pytest.mark.parametrize(("scale", "margin"), [(1.0, 0.8), (16.0, 0.5)])
def test_smooth_margin_on_the_sphere_is_cosface(scale, margin, golden, make_head, dense):
    sphere = {"kind": "smooth", "normalised": True, "scale": scale, "margin": margin}
    cosface = dense(make_head("cosface", scale=2 * scale, margin=margin / 2), golden[1])(golden[0], golden[2])
    alone = dense(make_head("euclidean_margin", with_softmax=False, **sphere), golden[1])(golden[0], golden[2])
    torch.testing.assert_close(alone[0], cosface[0])
    for name in ("scale", "effective_margin"):
        torch.testing.assert_close(alone[1].diagnostics[name], cosface[1].diagnostics[name])


def test_smooth_margin_beside_the_softmax_is_cosface_beside_normface(golden, make_head, dense):
    embedding, centres, labels = golden
    both = make_head("euclidean_margin", kind="smooth", normalised=True, scale=8, margin=0.6, weight=0.3)
    parts = [
        (make_head("normface", scale=8, learn_scale=False), 1.0),
        (make_head("cosface", scale=16, margin=0.3), 0.3),
    ]
    vectors = embedding.clone().requires_grad_()
    loss = loss_of(both, (vectors, centres, labels), dense)
    expected = sum(weight * loss_of(head, (vectors, centres, labels), dense) for head, weight in parts)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, vectors), torch.autograd.grad(expected, vectors))


def test_smooth_margin_zero_is_softmax_on_squared_distances(faces, make_head, dense):
    embedding, centres, labels = faces
    loss = loss_of(make_head("euclidean_margin", kind="smooth", with_softmax=False, margin=0), faces, dense)
    torch.testing.assert_close(loss, F.cross_entropy(-torch.cdist(embedding, centres).square(), labels))


def test_hinge_pulls_to_the_own_centre_and_pushes_from_those_inside_the_margin(make_head, dense):
    centres = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.2], [9.0, 9.0]], dtype=torch.float64)
    embedding = torch.tensor([[0.3, 0.2]], dtype=torch.float64, requires_grad=True)
    classifier = dense(make_head("euclidean_margin", with_softmax=False), centres)
    loss, facts = classifier(embedding, torch.tensor([0]))
    loss.backward()
    # d_y^2 = 0.13, d_1^2 = 0.53, d_2^2 = 1.09, d_3^2 far: two terms inside the margin of 1.
    assert loss.item() == pytest.approx(((0.13 - 0.53 + 1) + (0.13 - 1.09 + 1)) / 2)
    assert facts.diagnostics["support_vectors"].item() == pytest.approx(2 / 3)
    x = embedding[0].detach()
    pushes = [2 * (x - centres[0]) - 2 * (x - centres[j]) for j in (1, 2)]
    torch.testing.assert_close(embedding.grad[0], (pushes[0] + pushes[1]) / 2)
    torch.testing.assert_close(classifier.centres.grad[0], -2 * (x - centres[0]))
    torch.testing.assert_close(classifier.centres.grad[1], 2 * (x - centres[1]) / 2)
    assert not classifier.centres.grad[3].any()


@pytest.mark.parametrize("kind", ["hinge", "hardest"])
def test_nothing_is_left_to_learn_outside_the_margin(kind, make_head, dense):
    centres = 3 * torch.eye(4)
    embedding = centres.clone().requires_grad_()
    loss = loss_of(
        make_head("euclidean_margin", kind=kind, with_softmax=False), (embedding, centres, torch.arange(4)), dense
    )
    loss.backward()
    assert loss == 0
    assert not embedding.grad.any()


def test_hardest_looks_at_the_nearest_wrong_centre_only(faces, make_head, dense):
    embedding, centres, labels = faces
    classifier = dense(make_head("euclidean_margin", kind="hardest", with_softmax=False, margin=100), centres)
    classifier(embedding[:1], labels[:1])[0].backward()
    nearest = torch.cdist(embedding[:1], centres)[0].argsort().tolist()
    nearest.remove(labels[0].item())
    moved = {j for j, gradient in enumerate(classifier.centres.grad) if gradient.any()}
    assert moved == {labels[0].item(), nearest[0]}


@pytest.mark.parametrize(("normalised", "margin", "scale"), [(False, 1.0, 1.0), (True, 0.8, 30.0)])
def test_values_left_open_suit_the_distance(normalised, margin, scale, faces, make_head, dense):
    left_open = make_head("euclidean_margin", normalised=normalised)
    given = make_head("euclidean_margin", normalised=normalised, margin=margin, scale=scale)
    assert torch.equal(loss_of(left_open, faces, dense), loss_of(given, faces, dense))
    assert left_open.geometry == ("cosine" if normalised else "euclidean")


@variants
def test_margin_warms_up(variant, faces, make_head, dense):
    head = make_head("euclidean_margin", margin=0.8, **variant)
    head.warm_up_margin(4)
    head.advance()
    quarter = make_head("euclidean_margin", margin=0.2, **variant)
    torch.testing.assert_close(loss_of(head, faces, dense), loss_of(quarter, faces, dense))


def test_names_of_the_paper_are_the_same_loss(loss_spec):
    for alias in ("margin_loss", "margin_loss_spl2018"):
        assert LOSSES.get(alias) is LOSSES.get("euclidean_margin")
        assert loss_spec(alias) == {**loss_spec("euclidean_margin"), "name": alias}


def test_it_is_marked_as_a_reconstruction():
    entry = LOSSES.get("euclidean_margin")
    assert entry.factory.reconstructed
    assert "reconstruction" in entry.factory.__doc__


@pytest.mark.parametrize(
    ("key", "value"),
    [("kind", "triplet"), ("margin", -0.1), ("average", "mean"), ("weight", -1), ("scale", 0), ("normalised", "yes")],
)
def test_impossible_value_is_an_error_that_names_the_key(key, value, loss_spec):
    with pytest.raises(ConfigError, match=rf"^loss\.{key}="):
        LOSSES.build({**loss_spec("euclidean_margin"), key: value})
