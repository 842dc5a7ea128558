from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from frtrain.classifier.dense import Matrix
from frtrain.losses.base import Head, Samples
from frtrain.modifiers import LabelSmoothing


@pytest.mark.parametrize("epsilon", [0.05, 0.1, 0.5])
def test_smoothed_loss_is_that_of_torch_on_the_full_logits(loss, epsilon, make_head, crowd, given):
    head = make_head(loss)
    if head.reduction != "cross_entropy":
        pytest.skip("refused")
    embedding, centres, labels = crowd
    similarity = F.linear(F.normalize(embedding), F.normalize(centres)).requires_grad_()
    smoothed = LabelSmoothing(make_head(loss), epsilon)
    ours, _ = given(smoothed, similarity)(embedding, labels)
    plain, _ = given(make_head(loss), similarity)(embedding, labels)

    matrix = Matrix(similarity, labels)
    samples = Samples(matrix.own, embedding.norm(dim=1), labels)
    head.double()
    row = head.row(replace(samples, surveyed=matrix.survey(head, samples)))
    scale = head.scale_of(row)
    column = scale[:, None] if isinstance(scale, torch.Tensor) and scale.dim() else scale
    own = F.one_hot(labels.clamp(min=0), 7).bool()
    logits = torch.where(own, (scale * head.target(matrix.own, row))[:, None], column * head.others(similarity, row))
    without, theirs = (
        head.sample_losses(F.cross_entropy(logits, labels.clamp(min=0), reduction="none", label_smoothing=e), samples)
        for e in (0, epsilon)
    )
    without, theirs = samples.mean(without), samples.mean(theirs)
    torch.testing.assert_close(ours - plain, theirs - without)  # a penalty is in neither difference
    for left, right in zip(
        torch.autograd.grad(ours - plain, similarity), torch.autograd.grad(theirs - without, similarity), strict=True
    ):
        torch.testing.assert_close(left, right)


def test_smoothed_cosface_is_that_of_torch(golden, make_head, outcome):
    embedding, centres, labels = golden
    logits = 64 * F.linear(F.normalize(embedding), F.normalize(centres))
    logits = logits - 64 * 0.35 * F.one_hot(labels, 6)
    head = LabelSmoothing(make_head("cosface"), 0.1)
    torch.testing.assert_close(outcome(head, golden).loss, F.cross_entropy(logits, labels, label_smoothing=0.1))


def test_terms_of_the_loss_itself_are_kept(golden, make_head, outcome):
    once = outcome(LabelSmoothing(make_head("cosface"), 0.1), golden)
    plain = outcome(make_head("cosface"), golden)
    twice = outcome(LabelSmoothing(LabelSmoothing(make_head("cosface"), 0.1), 0.1), golden)
    torch.testing.assert_close(twice.loss - plain.loss, 2 * (once.loss - plain.loss))
    torch.testing.assert_close(twice.embedding - plain.embedding, 2 * (once.embedding - plain.embedding))


def test_loss_without_smoothing_has_no_terms(make_head):
    assert LabelSmoothing(make_head("cosface"), 0.1).terms
    assert not make_head("cosface").terms
    assert not Head.terms
