"""The state of a loss over skipped steps of a run."""

import torch

from frtrain.classifier.dense import DenseClassifier
from frtrain.losses import LOSSES
from frtrain.training.length import RunLength
from frtrain.training.optimization import Optimization
from frtrain.training.optimizers import parameter_groups, sgd
from frtrain.training.schedule import SCHEDULERS


def make(loss_spec):
    torch.manual_seed(0)
    head = LOSSES.build(loss_spec("curricularface"))
    classifier = DenseClassifier(head, 5, 4, init_std=0.1)
    backbone = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    modules = {"backbone": backbone, "classifier": classifier}
    groups = parameter_groups(modules)
    schedule = SCHEDULERS.build(
        {"name": "polynomial", "warmup": 0.0, "warmup_unit": "steps", "power": 1.0, "final": 0.0},
        length=RunLength(10, 1.0, 1),
    )
    optimizer = sgd(groups, lr=0.1, momentum=0.9, nesterov=False, weight_decay=0.0, fused=False)
    return backbone, classifier, Optimization(modules, optimizer, schedule, 1, None, 10)


def step(parts, number, poison=False):
    backbone, classifier, optimization = parts
    faces = torch.randn(6, 4, generator=torch.Generator().manual_seed(number))
    loss, _ = classifier(backbone(faces), torch.tensor([0, 1, 2, 3, 4, 0]))
    optimization.backward(loss * torch.nan if poison else loss)
    if optimization.step(number):
        classifier.advance()
        return True
    return False


def test_skipped_step_keeps_the_state_of_the_step_before(loss_spec):
    parts = make(loss_spec)
    assert step(parts, 0)
    assert step(parts, 1)
    before = parts[1].head.t.clone()
    statistics = parts[0][1].running_mean.clone()
    assert before != 0
    assert not step(parts, 2, poison=True)
    assert torch.equal(parts[1].head.t, before)
    assert torch.equal(parts[0][1].running_mean, statistics)
