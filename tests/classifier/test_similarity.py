import pytest
import torch
import torch.nn.functional as F

from frtrain.classifier.similarity import nearest_sub_centre, prepare, similarity


def vectors(count, size, seed, dtype=torch.float64):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def of(geometry, embedding, centres, bias=None):
    return similarity(geometry, prepare(geometry, embedding), centres, bias)


PLAIN = {
    "cosine": lambda x, w: F.normalize(x) @ F.normalize(w).T,
    "inner_product": lambda x, w: x @ w.T,
    "euclidean": lambda x, w: -(x[:, None] - w[None]).square().sum(dim=2),
}


@pytest.mark.parametrize("geometry", PLAIN)
def test_value_and_gradients_are_those_of_the_plain_formula(geometry):
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    results = []
    for function in (PLAIN[geometry], lambda x, w: of(geometry, x, w)):
        embedding, centres = vectors(4, 5, 1), vectors(6, 5, 2)
        value = function(embedding, centres)
        results.append((value, *torch.autograd.grad((value * weight).sum(), (embedding, centres))))
    for plain, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("geometry", PLAIN)
def test_blocks_of_centres_give_the_columns_of_the_whole(geometry):
    embedding, centres = vectors(4, 5, 1), vectors(6, 5, 2)
    blocks = [of(geometry, embedding, block) for block in centres.split(2)]
    torch.testing.assert_close(torch.cat(blocks, dim=1), of(geometry, embedding, centres))


def test_bias_is_added_to_inner_products():
    embedding, centres = vectors(4, 5, 1), vectors(6, 5, 2)
    bias = torch.arange(6, dtype=torch.float64)
    torch.testing.assert_close(of("inner_product", embedding, centres, bias), embedding @ centres.T + bias)


def test_vector_without_direction_has_cosine_zero_and_no_gradient():
    embedding, centres = vectors(3, 5, 1, torch.float32), vectors(4, 5, 2, torch.float32)
    with torch.no_grad():
        embedding[1] = 0
        centres[2] = 1e-8
    cosine = of("cosine", embedding, centres)
    cosine.sum().backward()
    assert not cosine[1].any()
    assert not cosine[:, 2].any()
    assert not embedding.grad[1].any()
    assert not centres.grad[2].any()
    assert embedding.grad.isfinite().all()
    assert centres.grad.isfinite().all()


@pytest.mark.parametrize("length", [1e-4, 1e4])
def test_cosine_does_not_depend_on_length_in_float32(length):
    embedding, centres = vectors(3, 5, 1, torch.float32), vectors(4, 5, 2, torch.float32)
    torch.testing.assert_close(of("cosine", embedding * length, centres / length), of("cosine", embedding, centres))


def test_gradient_of_a_cosine_is_orthogonal_to_the_centre():
    embedding, centres = vectors(3, 5, 1), vectors(4, 5, 2)
    of("cosine", embedding, centres)[0].sum().backward()
    torch.testing.assert_close((centres.grad * centres).sum(dim=1), torch.zeros(4, dtype=torch.float64))


def test_squared_distance_keeps_its_digits_far_from_the_origin():
    embedding = vectors(4, 512, 1, torch.float64) + 1000
    centres = embedding + 0.1 * vectors(4, 512, 2, torch.float64)
    exact = PLAIN["euclidean"](embedding, centres)
    single = of("euclidean", embedding.float(), centres.float())
    torch.testing.assert_close(single.double(), exact, rtol=1e-3, atol=1e-3)


def test_similarity_to_a_class_is_that_to_its_nearest_sub_centre():
    to_centres = torch.tensor([[0.1, 0.5, -0.3, -0.7, 0.2, 0.9]])
    assert nearest_sub_centre(to_centres, 2).tolist() == [pytest.approx([0.5, -0.3, 0.9])]
    assert nearest_sub_centre(to_centres, 1) is to_centres
