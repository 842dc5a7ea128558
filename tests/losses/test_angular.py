import math

import pytest
import torch

from frtrain.losses.angular import add_angle, angle, sine, subtract_angle

RULES = ["continuous", "classic", "clip", "none", "easy"]
ANGLES = torch.linspace(0.05, math.pi - 0.05, 101, dtype=torch.float64)


def boundary(margin: float) -> torch.Tensor:
    return torch.tensor(math.cos(math.pi - margin), dtype=torch.float64)


@pytest.mark.parametrize("rule", RULES)
def test_before_the_boundary_every_rule_is_the_cosine_of_the_sum(rule):
    angles = ANGLES[(math.pi / 2 if rule == "easy" else math.pi - 0.5) > ANGLES]
    torch.testing.assert_close(add_angle(angles.cos(), 0.5, rule, "exact"), (angles + 0.5).cos())


def test_without_a_rule_the_sum_goes_on_beyond_pi():
    torch.testing.assert_close(add_angle(ANGLES.cos(), 0.5, "none", "exact"), (ANGLES + 0.5).cos())


@pytest.mark.parametrize(("margin", "value"), [(0.35, -1.0594), (0.5, -1.1173), (0.8, -1.2706)])
def test_classic_rule_jumps_to_its_published_value(margin, value):
    just_beyond = boundary(margin) - 1e-12
    assert add_angle(just_beyond, margin, "classic", "exact").item() == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("rule", ["continuous", "clip", "none"])
@pytest.mark.parametrize("margin", [0.35, 0.5, 0.8])
def test_rule_meets_the_curve_in_minus_one(rule, margin):
    around = boundary(margin) + torch.tensor([-1e-9, 0.0, 1e-9], dtype=torch.float64)
    torch.testing.assert_close(add_angle(around, margin, rule, "exact"), torch.full((3,), -1.0, dtype=torch.float64))


def test_continuous_rule_falls_all_the_way_to_pi():
    values = add_angle(ANGLES.cos(), 0.5, "continuous", "exact")
    assert (values.diff() < 0).all()


def test_clip_rule_has_no_gradient_beyond_the_boundary():
    cosine = torch.tensor([-0.99], requires_grad=True)
    add_angle(cosine, 0.5, "clip", "exact").sum().backward()
    assert cosine.grad.item() == 0


def test_easy_rule_spares_faces_beyond_a_right_angle():
    cosine = torch.tensor([-0.3, 0.0, 0.3])
    margined = add_angle(cosine, 0.5, "easy", "exact")
    assert margined[:2].tolist() == cosine[:2].tolist()
    assert margined[2] < cosine[2]


@pytest.mark.parametrize("rule", RULES)
def test_margin_zero_changes_nothing(rule):
    cosine = torch.linspace(-1, 1, 21, dtype=torch.float64)
    torch.testing.assert_close(add_angle(cosine, 0.0, rule, "exact"), cosine)


@pytest.mark.parametrize("rule", RULES)
def test_detached_and_exact_have_the_same_bits(rule):
    cosine = torch.linspace(-1, 1, 1001)
    assert torch.equal(add_angle(cosine, 0.5, rule, "detached"), add_angle(cosine, 0.5, rule, "exact"))


def test_exact_gradient_is_the_ratio_of_sines_and_detached_is_one():
    angles = ANGLES[math.pi - 0.5 > ANGLES]
    gradients = {}
    for mode in ("exact", "detached"):
        cosine = angles.cos().requires_grad_()
        add_angle(cosine, 0.5, "continuous", mode).sum().backward()
        gradients[mode] = cosine.grad
    torch.testing.assert_close(gradients["detached"], torch.ones_like(angles))
    torch.testing.assert_close(gradients["exact"], (angles + 0.5).sin() / angles.sin())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mode", ["exact", "detached"])
def test_poles_give_finite_values_and_gradients_in_float32(rule, mode):
    near = 1 - torch.finfo(torch.float32).eps / 2
    cosine = torch.tensor([1.0, near, 1 + 4e-7, -1.0, -near, -1 - 4e-7], requires_grad=True)
    value = add_angle(cosine, 0.5, rule, mode)
    value.sum().backward()
    assert value.isfinite().all()
    assert cosine.grad.abs().max() < 3000


def test_value_at_the_pole_is_exact():
    assert add_angle(torch.tensor(1.0), 0.5, "none", "exact").item() == pytest.approx(math.cos(0.5), abs=1e-7)


def test_margin_may_differ_from_sample_to_sample():
    angles = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    margins = torch.tensor([0.2, 0.6, 0.4], dtype=torch.float64, requires_grad=True)
    margined = add_angle(angles.cos(), margins, "continuous", "exact")
    expected = [math.cos(0.7), math.cos(1.6), math.cos(3.0) - (1 - math.cos(0.4))]
    assert margined.tolist() == pytest.approx(expected)
    margined.sum().backward()
    assert margins.grad.tolist() == pytest.approx([-math.sin(0.7), -math.sin(1.6), -math.sin(0.4)])


def test_sine_of_the_cosine():
    torch.testing.assert_close(sine(ANGLES.cos()), ANGLES.sin())


def test_angle_is_the_arccos_of_all_but_the_ends():
    inside = torch.linspace(-1 + 1e-4, 1 - 1e-4, 1001, dtype=torch.float64)
    torch.testing.assert_close(angle(inside), inside.acos(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("eps", [1e-4, 1e-6])
def test_angle_is_finite_at_and_beyond_the_poles_in_float32(eps):
    near = 1 - torch.finfo(torch.float32).eps / 2
    cosine = torch.tensor([1.0, near, 1 + 4e-7, -1.0, -near, -1 - 4e-7], requires_grad=True)
    theta = angle(cosine, eps)
    theta.sum().backward()
    off = math.sqrt(eps / 2)
    assert theta.tolist() == pytest.approx([off] * 3 + [math.pi - off] * 3, abs=0.5 * off)
    assert cosine.grad.tolist() == pytest.approx([-1 / math.sqrt(2 * eps)] * 6, rel=0.03)


def test_angle_falls_all_the_way_and_has_the_gradient_of_its_value():
    ends = torch.tensor([0, 2e-5, 9e-5, 1.1e-4, 2e-4, 1e-3], dtype=torch.float64)
    cosine = torch.cat([1 - ends, ends.flip(0) - 1]).requires_grad_()
    assert (angle(cosine).diff() > 0).all()
    assert torch.autograd.gradcheck(angle, cosine, eps=1e-8)


@pytest.mark.parametrize("margin", [0.06, 0.2, 1.0])
def test_subtracted_angle_is_the_cosine_of_the_difference_and_never_less_than_the_cosine(margin):
    nearer = subtract_angle(ANGLES.cos(), margin, "exact")
    torch.testing.assert_close(nearer, (ANGLES - margin).clamp(min=0).cos())
    assert (nearer >= ANGLES.cos()).all()


def test_exact_gradient_of_a_subtracted_angle_is_the_ratio_of_sines_and_nothing_once_it_is_zero():
    gradients = {}
    for mode in ("exact", "detached"):
        cosine = ANGLES.cos().requires_grad_()
        subtract_angle(cosine, 0.2, mode).sum().backward()
        gradients[mode] = cosine.grad
    torch.testing.assert_close(gradients["exact"], (ANGLES - 0.2).clamp(min=0).sin() / ANGLES.sin())
    torch.testing.assert_close(gradients["detached"], torch.ones_like(ANGLES))


def test_detached_and_exact_subtracted_angles_have_the_same_bits():
    cosine = torch.linspace(-1, 1, 1001)
    assert torch.equal(subtract_angle(cosine, 0.2, "detached"), subtract_angle(cosine, 0.2, "exact"))


@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_poles_give_finite_subtracted_angles_and_gradients_in_float32(margin):
    near = 1 - torch.finfo(torch.float32).eps / 2
    cosine = torch.tensor([1.0, near, 1 + 4e-7, -1.0, -near, -1 - 4e-7], requires_grad=True)
    nearer = subtract_angle(cosine, margin, "exact")
    nearer.sum().backward()
    assert nearer.tolist() == pytest.approx([1.0] * 3 + [-math.cos(margin)] * 3, abs=1e-3)
    assert cosine.grad.abs().max() < 3000
