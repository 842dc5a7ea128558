"""What a reader may expect of every registered loss: its paper, its formula, its parameters, its margin warm-up."""

import inspect
import re
from pathlib import Path

import pytest
import torch

from frtrain.classifier.dense import DenseClassifier
from frtrain.losses import LOSSES

CONFIGS = Path(__file__).parents[2] / "configs/loss"

OLDER_THAN_PAPERS = {"softmax"}
"""The linear classifier, which nobody published first."""


def docstring(loss: str) -> str:
    return inspect.cleandoc(LOSSES.get(loss).factory.__doc__)


def section(text: str, title: str) -> list[str]:
    """The lines below `title:`, as far as they are indented."""
    lines = text.splitlines()
    if f"{title}:" not in lines:
        return []
    found = []
    for line in lines[lines.index(f"{title}:") + 1 :]:
        if line and not line.startswith(" "):
            break
        found.append(line)
    return found


def test_first_paragraph_names_the_paper_with_its_year(loss):
    if loss in OLDER_THAN_PAPERS:
        pytest.skip("no paper")
    assert re.search(r"\b(19|20)\d\d\b(?!\.)", docstring(loss).split("\n\n")[0])


def test_first_indented_block_is_the_formula(loss):
    before_arguments = docstring(loss).split("\nArgs:")[0]
    indented = re.search(r"(?m)^    \S.*(\n    .*)*", before_arguments)
    assert indented, "no indented block"
    assert re.search(r"cos|theta|z_|exp|\|", indented[0]), indented[0]
    assert "=" in before_arguments


def test_arguments_explain_every_parameter_and_no_other(loss):
    explained = [match[1] for line in section(docstring(loss), "Args") if (match := re.match(r" {4}(\w+): \S", line))]
    assert explained == list(LOSSES.get(loss).parameters())


def test_no_parameter_has_a_default_in_the_code(loss):
    for name, parameter in LOSSES.get(loss).parameters().items():
        assert parameter.default is inspect.Parameter.empty, name


def test_every_value_of_a_configuration_says_where_it_is_from(loss_config):
    lines = (CONFIGS / f"{loss_config}.yaml").read_text().splitlines()
    if "defaults:" in lines:  # a variant of another configuration says above everything what it is
        assert re.match(r"# \w", lines[0])
        return
    values = [line for line in lines if re.match(r"\w+:", line) and not line.startswith("name:")]
    assert [line for line in values if not re.search(r"\s# \S", line)] == []


def test_reconstruction_says_so_in_its_docstring_and_configuration(loss):
    factory = LOSSES.get(loss).factory
    if not factory.reconstructed:
        pytest.skip("its equations were read")
    assert "reconstruct" in docstring(loss).lower()
    assert "reconstruct" in (CONFIGS / f"{loss}.yaml").read_text().lower()


@pytest.fixture
def classifier_after(faces, make_head, dense):
    """classifier_after("arcface", taken=3, warm_up=10): a classifier as it is after so many steps without any gradient."""

    def after(loss: str, taken: int, warm_up: int = 0) -> DenseClassifier:
        head = make_head(loss)
        generator = torch.Generator().manual_seed(1)
        centres = faces[1].repeat_interleave(head.centres_per_class, dim=0)
        if head.centres_per_class > 1:
            centres = centres + 0.1 * torch.randn(centres.shape, generator=generator, dtype=centres.dtype)
        classifier = dense(head, centres)
        if warm_up:
            head.warm_up_margin(warm_up)
        for _ in range(taken):
            classifier.advance()
        return classifier

    return after


@pytest.fixture
def loss_after(faces, classifier_after):
    """loss_after("arcface", taken=3, warm_up=10): the loss after so many steps without any gradient."""
    embedding, _, labels = faces
    return lambda loss, taken, warm_up=0: classifier_after(loss, taken, warm_up)(20 * embedding, labels)[0].detach()


def needs_margin(loss: str) -> None:
    if not LOSSES.get(loss).factory.has_margin:
        pytest.skip("no margin")


def test_margin_that_warms_up_changes_the_loss_from_step_to_step(loss, loss_after):
    needs_margin(loss)
    warming = torch.stack([loss_after(loss, taken, warm_up=10) for taken in (0, 5, 9)])
    assert (warming.diff().abs() > 1e-6).all()
    assert warming[0] < loss_after(loss, 0)


def test_warmed_up_margin_is_the_margin(loss, loss_after):
    needs_margin(loss)
    for taken in (10, 11):
        torch.testing.assert_close(loss_after(loss, taken, warm_up=10), loss_after(loss, taken))


def test_margin_that_warms_up_gives_a_finite_gradient_at_its_start(loss, faces, classifier_after):
    needs_margin(loss)
    embedding, _, labels = faces
    embedding = embedding.float().requires_grad_()
    classifier_after(loss, taken=0, warm_up=10).float()(embedding, labels)[0].backward()
    assert embedding.grad.isfinite().all()
    assert embedding.grad.any()


def test_loss_without_margin_refuses_to_warm_it_up(loss, make_head):
    head = make_head(loss)
    if head.has_margin:
        pytest.skip("has a margin")
    with pytest.raises(ValueError, match="no margin"):
        head.warm_up_margin(10)


def test_step_count_of_a_warm_up_travels_in_the_state(loss, make_head):
    needs_margin(loss)
    head, resumed = make_head(loss), make_head(loss)
    for warming in (head, resumed):
        warming.warm_up_margin(10)
    head.advance()
    resumed.load_state_dict(head.state_dict())
    assert resumed.get_buffer("step") == 1
