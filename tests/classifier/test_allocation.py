"""Memory of large gradients is used again, and only when nobody else uses it."""

import copy

import pytest
import torch

from frtrain.classifier import allocation
from frtrain.classifier.allocation import GradientMemory


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    monkeypatch.setattr(allocation, "LARGE", 1)


def test_memory_is_used_again_once_the_gradient_is_gone():
    memory, weight = GradientMemory(), torch.empty(6, 4)
    first = memory.empty_like(weight)
    address = first.data_ptr()
    del first
    assert memory.empty_like(weight).data_ptr() == address


def test_gradient_that_is_still_held_keeps_its_memory():
    memory, weight = GradientMemory(), torch.empty(6, 4)
    first = memory.empty_like(weight).fill_(1)
    view = first[2:4]
    del first
    second = memory.empty_like(weight).fill_(2)
    assert (view == 1).all()
    assert (second == 2).all()


@pytest.mark.parametrize("other", [torch.empty(6, 5), torch.empty(6, 4, dtype=torch.float64)])
def test_another_shape_or_type_gets_memory_of_its_own(other):
    memory = GradientMemory()
    memory.empty_like(torch.empty(6, 4))
    given = memory.empty_like(other)
    assert given.shape == other.shape
    assert given.dtype == other.dtype


def test_half_precision_is_left_to_torch():
    assert GradientMemory().empty_like(torch.empty(6, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_gradients_of_two_steps_do_not_share_memory_while_both_are_held(engine):
    classifier = engine("cosface", "chunked")
    labels = torch.tensor([1, 4])
    gradients = []
    for seed in (1, 2):
        classifier.zero_grad()
        embedding = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        classifier(embedding, labels)[0].backward()
        gradients.append(classifier.centres.grad)
    assert gradients[0].data_ptr() != gradients[1].data_ptr()
    assert not torch.equal(*gradients)


def test_gradient_is_the_memory_itself_and_no_copy(engine):
    classifier = engine("cosface", "chunked")
    classifier(torch.randn(2, 6, dtype=torch.float64), torch.tensor([1, 4]))[0].backward()
    assert classifier.centres.grad.data_ptr() == classifier._memory._array.ctypes.data


def test_copies_of_a_classifier_do_not_share_memory(engine):
    classifier = engine("cosface", "chunked")
    assert copy.deepcopy(classifier)._memory is not classifier._memory
