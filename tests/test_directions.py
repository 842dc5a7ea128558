import torch

from frtrain.directions import SHORTEST, inverse_length


def test_inverse_length_is_one_over_the_length_of_each_row():
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.5]], dtype=torch.float64)
    assert inverse_length(vectors).tolist() == [0.2, 2.0]
    assert inverse_length(vectors[None]).shape == (1, 2)


def test_vector_without_direction_has_inverse_length_zero_and_no_gradient():
    short = torch.tensor([[0.0, 0.0], [SHORTEST / 2, 0.0]], dtype=torch.float64, requires_grad=True)
    inverse = inverse_length(short)
    inverse.sum().backward()
    assert inverse.tolist() == [0, 0]
    assert not short.grad.any()
