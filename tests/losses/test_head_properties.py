"""What every registered loss promises; a new loss is covered by being registered."""

import pytest
import torch

STOPS_GRADIENT = {
    "sface", "circle", "arcneg", "adaface", "npcface", "adacos", "curricularface", "amm_softmax",
}  # fmt: skip
"""Losses that treat a part of their formula as a constant: their gradient is not that of their value. Their own tests check it."""

USES_LENGTH = {"sphereface", "sphereface_r", "adaface", "magface"}
"""Losses on cosines that also look at the length of the embedding."""

FLOAT32_ENDS = [-1 - 4e-7, -1.0, -1 + 6e-8, 0.0, 1 - 6e-8, 1.0, 1 + 4e-7]


@pytest.fixture
def make_head(make_head, loss_spec):
    """The same with one centre per class, as the centres of these tests are. More have tests of their own."""

    def make(config, **changes):
        single = {"sub_centres": 1} if "sub_centres" in loss_spec(config) else {}
        return make_head(config, **{**single, **changes})

    return make


def run(classifier, embedding, labels):
    embedding = embedding.detach().clone().requires_grad_()
    loss, facts = classifier(embedding, labels)
    loss.backward()
    return loss.detach(), embedding.grad, classifier.centres.grad, facts


def test_gradient_is_that_of_the_loss(loss, faces, make_head, dense):
    if loss in STOPS_GRADIENT:
        pytest.skip("stops the gradient of a part of its formula")
    embedding, centres, labels = faces
    classifier = dense(make_head(loss), centres).double()
    parameters = [parameter for name, parameter in classifier.named_parameters() if name != "centres"]

    def of(embedding, centres, *_):
        return torch.func.functional_call(classifier, {"centres": centres}, (embedding, labels))[0]

    inputs = (embedding.requires_grad_(), centres.requires_grad_(), *parameters)
    assert torch.autograd.gradcheck(of, inputs)


def test_ends_of_the_cosine_are_finite_in_float32(loss, make_head, surveyed_row):
    head = make_head(loss)
    if head.geometry != "cosine":
        pytest.skip("no end")
    own = torch.tensor(FLOAT32_ENDS, requires_grad=True)
    similarity = torch.tensor(FLOAT32_ENDS).repeat(len(own), 1).requires_grad_()
    row = surveyed_row(head, similarity, own)
    target, others = head.target(own, row), head.others(similarity, row)
    (target.sum() + others.sum()).backward()
    for tensor in (target, others, own.grad, similarity.grad):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("direction", [1.0, -1.0])
@pytest.mark.parametrize("length", [1e-4, 1.0, 1e4])
def test_embedding_along_its_centre_is_finite_in_float32(loss, direction, length, make_head, dense):
    centres = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
    embedding = direction * length * torch.nn.functional.normalize(centres)
    outcome, to_embedding, to_centres, _ = run(dense(make_head(loss), centres), embedding, torch.arange(64))
    for tensor in (outcome, to_embedding, to_centres):
        assert tensor.isfinite().all()


def test_zero_embedding_is_finite(loss, faces, make_head, dense):
    embedding, centres, labels = faces
    embedding[0] = 0
    outcome, to_embedding, to_centres, _ = run(dense(make_head(loss), centres.float()), embedding.float(), labels)
    assert outcome.isfinite()
    assert to_embedding.abs().max() < 1e3
    assert to_centres.isfinite().all()


def test_order_of_classes_does_not_matter(loss, faces, make_head, dense):
    embedding, centres, labels = faces
    order = torch.tensor([4, 2, 6, 0, 3, 1, 5])
    before = run(dense(make_head(loss), centres), embedding, labels)
    after = run(dense(make_head(loss), centres[order]), embedding, order.argsort()[labels])
    torch.testing.assert_close(after[0], before[0])
    torch.testing.assert_close(after[1], before[1])
    torch.testing.assert_close(after[2], before[2][order])


def test_length_of_the_embedding_does_not_matter_to_a_cosine(loss, faces, make_head, dense):
    embedding, centres, labels = faces
    head = make_head(loss)
    if head.geometry != "cosine" or loss in USES_LENGTH:
        pytest.skip("length matters")
    short, long = (dense(head, centres)(embedding * length, labels)[0] for length in (1e-4, 1e4))
    torch.testing.assert_close(short, long)


def test_float32_agrees_with_float64(loss, golden, make_head, dense):
    embedding, centres, labels = golden
    double = run(dense(make_head(loss), centres), embedding, labels)
    single = run(dense(make_head(loss), centres.float()), embedding.float(), labels)
    for narrow, wide in zip(single[:3], double[:3], strict=True):
        assert narrow.dtype == torch.float32
        torch.testing.assert_close(narrow.double(), wide, rtol=1e-4, atol=1e-4)


def test_faces_without_identity_contribute_nothing(loss, faces, make_head, dense):
    embedding, centres, labels = faces
    strangers = torch.randn(3, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    alone = run(dense(make_head(loss), centres), embedding, labels)
    crowd = run(
        dense(make_head(loss), centres), torch.cat([strangers, embedding]), torch.cat([torch.full((3,), -1), labels])
    )
    torch.testing.assert_close(crowd[0], alone[0])
    torch.testing.assert_close(crowd[1], torch.cat([torch.zeros(3, 5, dtype=torch.float64), alone[1]]))
    torch.testing.assert_close(crowd[2], alone[2])
    assert crowd[3].accuracy == alone[3].accuracy
    torch.testing.assert_close(crowd[3].diagnostics, alone[3].diagnostics)


def test_batch_without_any_identity_has_zero_loss_and_gradient(loss, faces, make_head, dense):
    embedding, centres, _ = faces
    outcome, to_embedding, to_centres, facts = run(dense(make_head(loss), centres), embedding, torch.full((6,), -1))
    assert outcome == 0
    assert not to_embedding.any()
    assert not to_centres.any()
    assert facts.accuracy == 0


def test_block_of_classes_is_treated_like_the_whole(loss, make_head, surveyed_row):
    head = make_head(loss)
    similarity = torch.rand(4, 9, generator=torch.Generator().manual_seed(5)) * 2 - 1
    row = surveyed_row(head, similarity, similarity[:, 0])
    blocks = [head.others(block, row) for block in similarity.split(2, dim=1)]
    # Vectorised functions round differently at the ends of a block.
    torch.testing.assert_close(torch.cat(blocks, dim=1), head.others(similarity, row))


def test_similarities_are_not_written_to(loss, make_head, surveyed_row):
    head = make_head(loss)
    similarity = torch.rand(4, 9, generator=torch.Generator().manual_seed(5)) * 2 - 1
    before = similarity.clone()
    row = surveyed_row(head, similarity, similarity[:, 0])
    head.target(similarity[:, 0], row)
    head.others(similarity, row)
    assert torch.equal(similarity, before)


def test_state_waits_for_the_step_to_be_taken(loss, faces, make_head, dense):
    embedding, centres, labels = faces
    classifier = dense(make_head(loss), centres)
    before = {name: tensor.clone() for name, tensor in classifier.head.state_dict().items()}
    first = classifier(embedding, labels)[0]
    repeated = classifier(embedding, labels)[0]
    assert torch.equal(first, repeated)
    for name, tensor in classifier.head.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_half_precision_around_the_loss_does_not_reach_it(loss, faces, make_head, dense):
    embedding, centres, labels = faces
    classifier = dense(make_head(loss), centres.float())
    plain, _ = classifier(embedding.float(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast, facts = classifier(embedding.float(), labels)
    assert torch.equal(under_autocast, plain)
    assert facts.target_similarity.dtype == torch.float32


def test_half_precision_embedding_is_widened(loss, faces, make_head, dense):
    embedding, centres, labels = faces
    classifier = dense(make_head(loss), centres.float())
    narrow = embedding.bfloat16()
    assert torch.equal(classifier(narrow, labels)[0], classifier(narrow.float(), labels)[0])


def test_loss_and_gradient_repeat_bit_for_bit(loss, faces, make_head, dense):
    embedding, centres, labels = faces
    first, second = (run(dense(make_head(loss), centres.float()), embedding.float(), labels) for _ in range(2))
    for left, right in zip(first[:3], second[:3], strict=True):
        assert torch.equal(left, right)
