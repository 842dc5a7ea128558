"""What blocks are for: little memory, narrow products, a sample of the classes."""

import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from frtrain.classifier import CLASSIFIERS
from frtrain.classifier.selection import Shard, block_size, sample_classes
from frtrain.errors import ConfigError
from frtrain.losses import Head


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    numel = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def batch(count=64, size=4, classes=500):
    generator = torch.Generator().manual_seed(3)
    embedding = torch.randn(count, size, generator=generator, dtype=torch.float64)
    return embedding.requires_grad_(), torch.randint(classes, (count,), generator=generator)


def test_never_more_than_one_block_is_alive(every_loss, engine):
    classifier = engine(every_loss, "chunked", classes=500, embedding_size=4, chunk=10)
    per_class = classifier.head.centres_per_class
    embedding, labels = batch()
    with Largest() as largest:
        classifier(embedding, labels)[0].backward()
    gradient_of_centres = 500 * 4 * per_class
    assert largest.numel <= gradient_of_centres < 64 * 500


def test_kept_similarities_stay_within_their_budget(engine):
    classifier = engine("cosface", "chunked", classes=500, embedding_size=4, chunk=10, keep_mib=64 * 25 * 8 / 2**20)
    loss, _ = classifier(*batch())
    step = loss.grad_fn
    kept = find_step(step).kept
    assert sorted(kept) == [0, 10]
    loss.backward()
    assert not kept


def find_step(node):
    """The record that the passes of a step share, found in the graph of a loss."""
    todo = [node]
    while todo:
        node = todo.pop()
        if hasattr(node, "step"):
            return node.step
        todo += [parent for parent, _ in node.next_functions if parent is not None]
    raise AssertionError("no blockwise pass in the graph")


@pytest.mark.parametrize(("matmul", "of_loss", "of_gradient"), [("bf16_gradients", 1e-6, 0.01), ("bf16", 0.01, 0.03)])
def test_narrow_products_stay_within_their_stated_bound(every_loss, matmul, of_loss, of_gradient, engine):
    generator = torch.Generator().manual_seed(7)
    embedding, labels = torch.randn(64, 128, generator=generator), torch.randint(4000, (64,), generator=generator)
    found = {}
    for precision in ("float32", matmul):
        classifier = engine(every_loss, "chunked", classes=4000, embedding_size=128, matmul=precision).float()
        own = classifier.centres[labels * classifier.head.centres_per_class].detach()
        leaf = (3 * own + embedding).requires_grad_()  # near their centres, as in training
        value, _ = classifier(leaf, labels)
        value.backward()
        found[precision] = (value.detach(), leaf.grad, classifier.centres.grad)
    wide, narrow = found["float32"], found[matmul]
    assert abs(narrow[0] - wide[0]) <= of_loss * abs(wide[0])
    for ours, exact in zip(narrow[1:], wide[1:], strict=True):
        assert (ours - exact).norm() <= of_gradient * exact.norm()


def test_accumulated_gradients_add_up(engine):
    classifier = engine("sv_softmax", "chunked", chunk=4)
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randn(5, 6, dtype=torch.float64, generator=generator) for _ in range(2))
    labels = torch.tensor([1, 4, 12, 7, 3])
    each = []
    for embedding in (first, second):
        classifier.zero_grad()
        classifier(embedding, labels)[0].backward()
        each.append(classifier.centres.grad)
    classifier.zero_grad()
    losses = [classifier(embedding, labels)[0] for embedding in (first, second)]  # both before any backward
    sum(losses).backward()
    torch.testing.assert_close(classifier.centres.grad, each[0] + each[1])


def test_centres_in_half_precision_are_widened_block_by_block(engine):
    generator = torch.Generator().manual_seed(1)
    embedding, labels = torch.randn(5, 6, generator=generator), torch.tensor([1, 4, 12, 7, 3])
    blockwise, dense = engine("cosface", "chunked", chunk=4).bfloat16(), engine("cosface", "dense").bfloat16()
    results = [classifier(embedding, labels)[0] for classifier in (blockwise, dense)]
    torch.testing.assert_close(*results)
    for result in results:
        result.backward()
    assert blockwise.centres.grad.dtype == torch.bfloat16
    torch.testing.assert_close(blockwise.centres.grad, dense.centres.grad, rtol=0.02, atol=1e-3)


def test_loss_that_needs_all_classes_is_refused():
    class Whole(Head):
        geometry = "cosine"
        dense_only = True

        def target(self, similarity, row):
            return similarity

    spec = {"name": "chunked", "init_std": 0.1, "chunk": "auto", "keep_mib": 0.0, "matmul": "float32"}
    with pytest.raises(ConfigError, match="use classifier=dense"):
        CLASSIFIERS.build(spec, head=Whole(), classes=4, embedding_size=5)


@pytest.mark.parametrize(
    ("key", "value"),
    [("chunk", 0), ("chunk", "small"), ("keep_mib", -1.0), ("matmul", "fp8"), ("rate", 0.0), ("rate", 1.5)],
)
def test_impossible_setting_names_its_key(key, value):
    spec = {
        "name": "sampled",
        "init_std": 0.1,
        "chunk": "auto",
        "keep_mib": 0.0,
        "matmul": "float32",
        "rate": 0.5,
        key: value,
    }
    with pytest.raises(ConfigError, match=rf"^classifier\.{key}="):
        CLASSIFIERS.check(spec, "head", "classes", "embedding_size", "processes")


def test_automatic_block_suits_batch_and_device():
    assert block_size(7, 128, 1, torch.device("cpu")) == 7
    assert block_size("auto", 128, 1, torch.device("cpu")) == 2048
    assert block_size("auto", 128, 4, torch.device("cpu")) == 512
    assert block_size("auto", 10**9, 1, torch.device("cpu")) == 16


@pytest.mark.parametrize(("classes", "count"), [(13, 3), (2, 3), (12, 4), (1, 1)])
def test_shards_cover_all_classes_once(classes, count):
    shards = [Shard.of(classes, rank, count) for rank in range(count)]
    assert [number for shard in shards for number in range(shard.first, shard.last)] == list(range(classes))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def sampled(engine, loss="cosface", rate=0.3, **changes):
    return engine(loss, "sampled", classes=200, rate=rate, **changes)


def test_sample_holds_every_label_and_the_share_of_classes_that_was_asked_for(engine):
    labels = torch.tensor([5, 199, -1, 5, 0])
    selection = sampled(engine).select(labels)
    assert selection.count == 5 + math.ceil(0.3 * 195)
    assert len(set(selection.index.tolist())) == selection.count
    assert {0, 5, 199} <= set(selection.index.tolist())
    assert selection.index.tolist() == sorted(selection.index.tolist())


def test_sample_is_the_same_until_a_step_is_taken(engine):
    classifier, labels = sampled(engine), torch.tensor([5, 199])
    first = classifier.select(labels).index
    assert torch.equal(classifier.select(labels).index, first)
    classifier.advance()
    assert not torch.equal(classifier.select(labels).index, first)


def test_sample_goes_on_after_a_checkpoint_where_it_stopped(engine):
    first, second = sampled(engine), sampled(engine)
    first.advance()
    second.load_state_dict(first.state_dict())
    labels = torch.tensor([5, 199])
    assert torch.equal(first.select(labels).index, second.select(labels).index)


def test_more_labels_than_the_share_are_all_taken_and_others_besides(engine):
    selection = sampled(engine, rate=0.01).select(torch.arange(50))
    assert set(range(50)) < set(selection.index.tolist())
    assert selection.count == 52


def test_classes_that_were_not_drawn_get_no_gradient(engine):
    classifier = sampled(engine)
    embedding, labels = batch(count=8, size=6, classes=200)
    index = classifier.select(labels).index
    classifier(embedding, labels)[0].backward()
    moved = classifier.centres.grad.abs().sum(dim=1) > 0
    assert set(moved.nonzero().flatten().tolist()) == set(index.tolist())


def test_drawn_classes_are_spread_evenly(engine):
    classifier, counts = sampled(engine, rate=0.1), torch.zeros(200)
    for _ in range(1000):
        counts[classifier.select(torch.tensor([-1])).index] += 1
        classifier.draws += 1
    assert counts.sum() == 21_000
    assert (counts - 105).abs().max() < 45  # a binomial deviation of 9.7


@pytest.mark.parametrize("faces", [8, 60], ids=["few_labels", "more_labels_than_the_share"])
@pytest.mark.parametrize("loss", ["sface", "uniface", "p2sgrad", "sphereface2"])
def test_sum_over_a_sample_is_on_average_the_sum_over_all(loss, faces, engine):
    embedding, _ = batch(count=faces, size=6, classes=200)
    labels = torch.arange(faces) * 3
    whole = engine(loss, "chunked", classes=200)
    expected = whole(embedding, labels)[0]
    classifier = sampled(engine, loss, rate=0.2)
    classifier.load_state_dict(whole.state_dict(), strict=False)
    losses = []
    for _ in range(400):
        losses.append(classifier(embedding, labels)[0].item())
        classifier.draws += 1
    losses = torch.tensor(losses)
    assert abs(losses.mean() - expected) < 4 * losses.std() / 20
    assert losses.std() > 0


def test_survey_of_a_sample_is_on_average_that_of_all(engine):
    embedding, _ = batch(count=60, size=6, classes=200)
    labels = torch.arange(60) * 3
    expected = engine("adacos", "chunked", classes=200)(embedding, labels)[1].diagnostics["scale"]
    classifier, scales = sampled(engine, "adacos", rate=0.2), []
    for _ in range(100):
        scales.append(classifier(embedding, labels)[1].diagnostics["scale"].item())
        classifier.draws += 1
    assert torch.tensor(scales).mean().item() == pytest.approx(expected.item(), rel=0.01)


def test_weights_stand_for_the_classes_that_were_left_out():
    selection = sample_classes(torch.arange(10), torch.tensor([0, 1, -1]), 6)
    assert selection.index.tolist() == [0, 1, 6, 7, 8, 9]
    assert selection.weight.tolist() == [1, 1, 2, 2, 2, 2]
    assert selection.positions(torch.tensor([0, 1, -1])).tolist() == [0, 1, -1]
