"""What runs over classes, traced for a compiler, computes what it computes without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from frtrain.classifier import Classifier
from frtrain.classifier.compilation import compiled

Engine = Callable[..., Classifier]
Faces = tuple[Tensor, Tensor]
COMPILE = torch.compile


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Traced and differentiated as for every backend; C++ compilers would tell of torch alone."""
    monkeypatch.setattr(torch, "compile", partial(COMPILE, backend="aot_eager"))
    compiled.cache_clear()
    torch.compiler.reset()
    counters.clear()
    yield
    compiled.cache_clear()
    torch.compiler.reset()


def steps_of(classifier: Classifier, faces: Faces, by_compiler: bool, steps: int = 1) -> dict[str, Tensor]:
    """Loss, facts and gradients of some steps."""
    classifier.compiled = by_compiler
    embedding, labels = faces[0].clone().requires_grad_(), faces[1]
    found: dict[str, Tensor] = {}
    for number in range(steps):
        classifier.zero_grad()
        embedding.grad = None
        loss, facts = classifier(embedding, labels)
        loss.backward()
        classifier.advance()
        named = {name: parameter.grad for name, parameter in classifier.named_parameters()}
        values = {"loss": loss.detach(), "accuracy": facts.accuracy, "embedding": embedding.grad}
        values |= facts.diagnostics | named
        found |= {f"{number} {name}": value.clone() for name, value in values.items() if value is not None}
    return found


def assert_computes_the_same(engine: Engine, faces: Faces, *of: Any, steps: int = 1, **changes: Any) -> None:
    theirs, ours = (steps_of(engine(*of, **changes), faces, by_compiler, steps) for by_compiler in (False, True))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(
            ours[name], value, rtol=1e-10, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert counters["stats"]["unique_graphs"] > 0
    assert not counters["graph_break"]


def test_every_loss_traced_in_one_piece_computes_the_same(every_loss: str, engine: Engine, faces: Faces):
    dense_only = engine(every_loss, "dense").head.dense_only
    assert_computes_the_same(engine, faces, every_loss, "dense" if dense_only else "chunked")


@pytest.mark.parametrize("loss", ["sv_softmax", "amm_softmax", "sface", "l2_softmax", "margin_loss"])
def test_dense_too(loss: str, engine: Engine, faces: Faces):
    assert_computes_the_same(engine, faces, loss, "dense")


@pytest.mark.parametrize("modifier", [{"label_smoothing": 0.1}, {"interclass_filter": 0.5}, {"margin_warmup_steps": 9}])
def test_modified_losses_too(modifier: dict[str, float], engine: Engine, faces: Faces):
    assert_computes_the_same(engine, faces, "arcface", "chunked", modifiers=modifier)


@pytest.mark.parametrize(("name", "changes"), [("chunked", {}), ("sampled", {"rate": 0.5})])
def test_blocks_of_another_size_are_compiled_once_for_all_sizes(
    name: str, changes: dict[str, float], engine: Engine, faces: Faces
):
    assert_computes_the_same(engine, faces, "sface", name, classes=23, chunk=5, steps=3, **changes)
    assert 0 < counters["stats"]["unique_graphs"] <= 4  # forward and backward, of the first size and of any


@pytest.mark.parametrize(
    ("loss", "modifiers"), [("curricularface", {}), ("adaface", {}), ("arcface", {"margin_warmup_steps": 9})]
)
def test_losses_that_change_from_step_to_step_are_compiled_once(
    loss: str, modifiers: dict[str, float], engine: Engine, faces: Faces
):
    assert_computes_the_same(engine, faces, loss, "chunked", steps=4, modifiers=modifiers)
    assert counters["stats"]["unique_graphs"] == 2  # forward and backward


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["dense", "chunked"])
def test_gpus_compile_it(name: str, engine: Engine, faces: Faces, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "compile", COMPILE)
    on_gpu = faces[0].cuda(), faces[1].cuda()
    theirs, ours = (steps_of(engine("sv_softmax", name).cuda(), on_gpu, by_compiler) for by_compiler in (False, True))
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-10, atol=1e-12)
