"""Every loss, sharded over real processes: what one process computes alone."""

import copy

import pytest
import torch
from gloo_processes import of_each_rank

from frtrain.auxiliary import AUXILIARIES
from frtrain.classifier import CLASSIFIERS
from frtrain.classifier.selection import Shard
from frtrain.commands.composition import compose_plain
from frtrain.config import ModifiersConfig
from frtrain.losses import LOSSES
from frtrain.modifiers import modified
from frtrain.processes import Processes

CLASSES, SIZE = 13, 6
BATCH = ([0, 3, 12, -1, 3, 5, 7, 12, 1], [0, 3, 12, -1, 3, 5, 7, 12, 1, 4])
"""Labels of two steps; 9 rows over 2 or 3 processes in unequal parts."""

BLOCKWISE = {"init_std": 0.3, "chunk": 4, "keep_mib": 0.0, "matmul": "float32"}


OFF = compose_plain("train", [])["modifiers"]
"""No modifier, as configs/train.yaml has it."""

MODIFIED = {
    "smoothed": ("arcface", {"label_smoothing": 0.1, "interclass_filter": 0.4, "hard_mining": 0.5}, None),
    "focal": ("curricularface", {"focal_gamma": 2.0, "margin_warmup_steps": 4}, None),
    "mined": ("sface", {"hard_mining": 0.5}, None),
    "center": ("arcface", {}, "paper"),
    "center_solver": ("adaface", {}, "solver"),
}
"""A loss, modifiers on it, and the update of a center loss beside it."""

CENTER = {"name": "center", "weight": 0.5, "alpha": 0.5, "normalised": False}


def build(spec, engine, classes, processes, modifiers=None, center=None):
    torch.manual_seed(0)
    head = modified(LOSSES.build(spec), ModifiersConfig(**{**OFF, **(modifiers or {})}))
    classifier = CLASSIFIERS.build(engine, head=head, classes=classes, embedding_size=SIZE, processes=processes)
    if center is not None:
        classifier.auxiliary = AUXILIARIES.build({**CENTER, "update": center})
        classifier.auxiliary.set_up(classes, SIZE)
    return classifier.double()


def batches():
    for number, labels in enumerate(BATCH):
        generator = torch.Generator().manual_seed(number)
        yield 2 * torch.randn(len(labels), SIZE, dtype=torch.float64, generator=generator), torch.tensor(labels)


def train(classifier, steps, rows=slice(None)):
    """Loss, gradients and state of the last of `steps`."""
    for embedding, labels in steps:
        classifier.zero_grad()
        leaf = embedding[rows].clone().requires_grad_()
        loss, facts = classifier(leaf, labels[rows])
        loss.backward()
        classifier.advance()
    found = {
        f"gradient of {name}": parameter.grad
        for name, parameter in classifier.named_parameters()
        if parameter.requires_grad
    }
    found |= {name: buffer for name, buffer in classifier.named_buffers() if name != "draws"}
    found |= {"loss": loss.detach(), "embedding": leaf.grad, "accuracy": facts.accuracy, **facts.diagnostics}
    return copy.deepcopy(found)


def cut(total, rank, count, uneven):
    """The rows of a process: neighbours; `uneven` gives the first one all but one row for each of the others."""
    if uneven:
        first = max(0, total - count + 1)
        return slice(0, first) if rank == 0 else slice(first + rank - 1, first + rank)
    part = Shard.of(total, rank, count)
    return slice(part.first, part.last)


def train_all(rank, count, specs):
    """What one of `count` processes finds, by (loss, case)."""
    torch.set_num_threads(1)
    processes = Processes.current()
    results = {}
    for loss, spec in specs.items():
        for name in ("sharded", "sampled"):
            engine = {"name": name, **BLOCKWISE, **({"rate": 1.0} if name == "sampled" else {})}
            results[loss, name] = train(
                build(spec, engine, CLASSES, processes), [(e, y) for e, y in batches()], cut(9, rank, count, False)
            )
        for case in CASES:
            results[loss, case] = special(case, spec, processes)
    for case, (loss, modifiers, center) in MODIFIED.items():
        classifier = build(specs[loss], {"name": "sharded", **BLOCKWISE}, CLASSES, processes, modifiers, center)
        results[loss, case] = train(classifier, [(e, y) for e, y in batches()], cut(9, rank, count, False))
    return results


CASES = ("few_classes", "uneven_rows", "fewer_rows_than_processes", "replicated")


def special(case, spec, processes):
    embedding, labels = next(iter(batches()))
    engine = {"name": "sharded", **BLOCKWISE}
    classes, rows = CLASSES, cut(len(labels), processes.rank, processes.count, False)
    if case == "few_classes":
        classes, labels = 2, labels % 2
    elif case == "uneven_rows":
        rows = cut(len(labels), processes.rank, processes.count, True)
    elif case == "fewer_rows_than_processes":
        embedding, labels = embedding[:1], labels[:1]
        rows = slice(0, 1) if processes.rank == processes.count - 1 else slice(0, 0)
    elif case == "replicated":
        engine["name"] = "chunked"
    return train(build(spec, engine, classes, processes), [(embedding, labels)], rows)


def expected(spec, case):
    _, modifiers, center = MODIFIED.get(case, (None, None, None))
    embedding, labels = next(iter(batches()))
    classes, steps = CLASSES, [(embedding, labels)]
    if case == "few_classes":
        classes, steps = 2, [(embedding, labels % 2)]
    elif case == "fewer_rows_than_processes":
        steps = [(embedding[:1], labels[:1])]
    elif case in ("sharded", "sampled", *MODIFIED):
        steps = [(e[:9], y[:9]) for e, y in batches()]
    return train(build(spec, {"name": "dense", "init_std": 0.3}, classes, Processes(), modifiers, center), steps)


@pytest.fixture(scope="module", params=[2, 3], ids=["two", "three"])
def of_processes(request, tmp_path_factory, loss_spec):
    """What each of the processes found, by (loss, case)."""
    folder, count = tmp_path_factory.mktemp("shards"), request.param
    specs = {name: loss_spec(name) for name in LOSSES.names()}
    return of_each_rank(train_all, count, folder, count, specs, timeout_seconds=120)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["sharded", "sampled", *CASES])
def test_processes_find_what_one_alone_finds(every_loss, case, of_processes, loss_spec):
    assert_same(every_loss, case, of_processes, loss_spec)


@pytest.mark.slow
@pytest.mark.parametrize("case", MODIFIED)
def test_modifiers_and_auxiliaries_see_the_batch_of_all_processes(case, of_processes, loss_spec):
    assert_same(MODIFIED[case][0], case, of_processes, loss_spec)


def assert_same(every_loss, case, of_processes, loss_spec):
    parts = [found[every_loss, case] for found in of_processes]
    whole = expected(loss_spec(every_loss), case)
    for name, value in whole.items():
        if name == "embedding" or (name in ("gradient of centres", "gradient of bias") and case != "replicated"):
            ours = [torch.cat([part[name] for part in parts])]
        else:
            ours = [part[name] for part in parts]  # the same on every process
        for tensor in ours:
            tolerance = 1e-9 * max(1e-6, value.double().abs().max().item())
            torch.testing.assert_close(
                tensor, value, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
            )
