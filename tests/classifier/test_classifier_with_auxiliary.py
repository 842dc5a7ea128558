"""What a classifier does with a further loss on the embedding."""

import torch
from torch import nn

from frtrain.auxiliary import Auxiliary
from frtrain.classifier.dense import DenseClassifier
from frtrain.commands.composition import group_defaults
from frtrain.losses import LOSSES


class Length(Auxiliary):
    """The mean length, times a parameter."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(3.0))
        self.advanced = 0

    def forward(self, embedding, labels):
        return self.factor * embedding.norm(dim=1)[labels >= 0].mean()

    def advance(self, applied=None):
        self.advanced += 1


def classifier(auxiliary=None):
    torch.manual_seed(1)
    made = DenseClassifier(LOSSES.build(group_defaults("loss", "arcface")), 6, 5, init_std=0.1)
    made.auxiliary = auxiliary
    return made


def batch():
    embedding = torch.randn(4, 5, generator=torch.Generator().manual_seed(4)).requires_grad_()
    return embedding, torch.tensor([2, -1, 5, 0])


def test_auxiliary_loss_is_added_and_told():
    embedding, labels = batch()
    plain, before = classifier()(embedding, labels)
    total, facts = classifier(Length())(embedding, labels)
    term = 3 * embedding.norm(dim=1)[[0, 2, 3]].mean()
    torch.testing.assert_close(total, plain + term)
    torch.testing.assert_close(facts.diagnostics["auxiliary"], term.detach())
    assert not facts.diagnostics["auxiliary"].requires_grad
    assert "auxiliary" not in before.diagnostics
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, embedding, retain_graph=True)[0] for loss in (total, plain + term))
    )


def test_parameters_of_the_auxiliary_are_those_of_the_classifier():
    made = classifier(Length())
    assert "auxiliary.factor" in dict(made.named_parameters())
    assert "auxiliary.factor" in made.state_dict()
    assert "auxiliary.factor" not in classifier().state_dict()


def test_auxiliary_is_computed_in_float32_under_autocast():
    class Probe(Auxiliary):
        def forward(self, embedding, labels):
            self.seen = (embedding @ embedding.T).dtype
            return embedding.sum()

    probe = Probe()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        classifier(probe)(*batch())
    assert probe.seen == torch.float32


def test_auxiliary_advances_with_the_head():
    made = classifier(Length())
    made(*batch())
    assert made.auxiliary.advanced == 0
    made.advance()
    assert made.auxiliary.advanced == 1
