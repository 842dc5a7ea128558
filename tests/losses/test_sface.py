import math

import pytest
import torch

from frtrain.errors import ConfigError
from frtrain.losses import LOSSES


def loss_and_gradients(head, batch, dense):
    embedding, centres, labels = batch
    embedding = embedding.clone().requires_grad_()
    classifier = dense(head, centres)
    loss, facts = classifier(embedding, labels)
    loss.backward()
    return loss.item(), embedding.grad, classifier.centres.grad, facts.diagnostics


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def weights_by_hand(batch, scale, k, a, b):
    """r_intra (of the own class) and r_inter (of the others) of every pair, with arccos, as nested lists."""
    embedding, centres, labels = batch
    cosines = torch.nn.functional.cosine_similarity(embedding[:, None], centres[None], dim=2).tolist()
    return cosines, [
        [scale * sigmoid(k * (math.acos(c) - a) if j == label else -k * (math.acos(c) - b)) for j, c in enumerate(row)]
        for row, label in zip(cosines, labels.tolist(), strict=True)
    ]


def test_mean_loss_and_gradient_are_the_golden_values(golden, make_head, dense):
    loss, to_embedding, _, _ = loss_and_gradients(make_head("sface"), golden, dense)
    assert loss == pytest.approx(43.437474, abs=1e-6)
    assert to_embedding.norm().item() == pytest.approx(20.80, abs=0.005)


SETTINGS = [
    {"scale": 64, "k": 80, "a": 0.87, "b": 1.2},
    {"scale": 32, "k": 80, "a": 0.9, "b": 1.25},
    {"scale": 1, "k": 5, "a": 1.5, "b": 1.0},
]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("batch", ["golden", "faces"])
def test_loss_is_the_formula_of_the_paper(setting, batch, request, make_head, dense):
    embedding, centres, labels = request.getfixturevalue(batch)
    cosines, weights = weights_by_hand((embedding, centres, labels), **setting)
    expected = 0.0
    for row, weight, label in zip(cosines, weights, labels.tolist(), strict=True):
        for j, (cosine, r) in enumerate(zip(row, weight, strict=True)):
            expected += (-r if j == label else r) * cosine / len(labels)
    loss, *_ = loss_and_gradients(make_head("sface", **setting), (embedding, centres, labels), dense)
    assert loss == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("setting", SETTINGS)
def test_gradient_is_the_weighted_sum_of_the_gradients_of_the_cosines(setting, faces, make_head, dense):
    embedding, centres, labels = faces
    cosines, weights = weights_by_hand(faces, **setting)
    to_embedding, to_centres = torch.zeros_like(embedding), torch.zeros_like(centres)
    for i, label in enumerate(labels.tolist()):
        for j in range(len(centres)):
            r = (-1 if j == label else 1) * weights[i][j] / len(labels)
            x, w = embedding[i] / embedding[i].norm(), centres[j] / centres[j].norm()
            to_embedding[i] += r * (w - cosines[i][j] * x) / embedding[i].norm()
            to_centres[j] += r * (x - cosines[i][j] * w) / centres[j].norm()
    _, *found, _ = loss_and_gradients(make_head("sface", **setting), faces, dense)
    torch.testing.assert_close(found, [to_embedding, to_centres])


def test_pull_and_push_are_half_at_their_angles_and_fade_on_the_side_of_success(make_head, make_samples):
    head = make_head("sface")
    own = torch.tensor([0.77, 0.87, 0.97], dtype=torch.float64).cos()
    others = torch.tensor([[1.1, 1.2, 1.3]], dtype=torch.float64).cos()
    faded = sigmoid(-8)
    assert head.row(make_samples(own)).pull.tolist() == pytest.approx([faded, 0.5, 1 - faded])
    assert head.push(others)[0].tolist() == pytest.approx([1 - faded, 0.5, faded])


def test_along_the_angle_the_pull_has_size_r_times_sine(make_head, make_samples):
    head = make_head("sface")
    theta = torch.tensor([0.5, 0.9, 2.0], dtype=torch.float64, requires_grad=True)
    cosine = theta.cos()
    (64 * head.target(cosine, head.row(make_samples(cosine)))).sum().backward()
    expected = [64 * sigmoid(80 * (angle - 0.87)) * math.sin(angle) for angle in (0.5, 0.9, 2.0)]
    assert theta.grad.tolist() == pytest.approx(expected)


def test_face_on_its_centre_gives_a_finite_loss_without_pull(make_head, dense):
    centres = torch.nn.functional.normalize(torch.randn(200, 64, generator=torch.Generator().manual_seed(1)))
    batch = (centres.clone(), centres, torch.arange(200))
    loss, to_embedding, to_centres, diagnostics = loss_and_gradients(make_head("sface"), batch, dense)
    assert math.isfinite(loss)
    assert to_embedding.isfinite().all()
    assert to_centres.isfinite().all()
    assert diagnostics["intra_weight"] < 1e-20


def test_mean_weights_are_told(faces, make_head, dense):
    _, weights = weights_by_hand(faces, 1, 5, 0.87, 1.2)
    labels = faces[2].tolist()
    intra = [row[label] for row, label in zip(weights, labels, strict=True)]
    inter = [r for row, label in zip(weights, labels, strict=True) for j, r in enumerate(row) if j != label]
    *_, diagnostics = loss_and_gradients(make_head("sface", k=5), faces, dense)
    assert diagnostics["intra_weight"].item() == pytest.approx(sum(intra) / len(intra))
    assert diagnostics["inter_weight"].item() == pytest.approx(sum(inter) / len(inter))


def test_each_data_set_of_the_authors_has_its_values(loss_spec):
    chosen = {config: loss_spec(config) for config in ("sface", "sface_vggface2", "sface_ms1m")}
    assert {config: (spec["a"], spec["b"]) for config, spec in chosen.items()} == {
        "sface": (0.87, 1.2),
        "sface_vggface2": (0.88, 1.25),
        "sface_ms1m": (0.9, 1.2),
    }
    assert {(spec["name"], spec["scale"], spec["k"]) for spec in chosen.values()} == {("sface", 64, 80)}


@pytest.mark.parametrize(("key", "value"), [("scale", 0), ("k", 0), ("a", -0.1), ("a", 49.8), ("b", 68.8)])
def test_impossible_value_is_an_error_that_names_the_key(key, value, loss_spec):
    with pytest.raises(ConfigError, match=rf"^loss\.{key}="):
        LOSSES.build({**loss_spec("sface"), key: value})
