"""`products.linear` beside torch's own: values, gradients, and the same bits whatever the number of threads."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opinion_sae.products import Linear, linear

SIZE = st.integers(1, 40)


@given(SIZE, SIZE, SIZE, st.booleans(), st.booleans(), st.integers(0, 3))
def test_values_and_gradients_are_torchs(rows, wide, width, with_bias, transposed, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, rows, wide, generator=generator, requires_grad=True)
    weight = torch.randn(*((wide, width) if transposed else (width, wide)), generator=generator)
    weight = (weight.T if transposed else weight).detach().requires_grad_()
    given_to = [x, weight, *([torch.randn(width, generator=generator, requires_grad=True)] if with_bias else [])]
    found, expected = linear(*given_to), torch.nn.functional.linear(*given_to)
    torch.testing.assert_close(found, expected)
    onto = torch.randn(expected.shape, generator=generator)
    ours, theirs = (torch.autograd.grad((one * onto).sum(), given_to) for one in (found, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_frozen_weights_get_no_gradient_and_their_input_does():
    layer = Linear(3, 2).requires_grad_(False)
    x = torch.randn(5, 3, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(5, 3))
    assert layer.weight.grad is None


def test_a_place_for_the_product_is_filled_in_parts():
    x, weight, bias, place = torch.randn(1100, 8), torch.randn(6, 8), torch.randn(6), torch.empty(1100, 6)
    assert linear(x, weight, bias, place) is place
    torch.testing.assert_close(place, x @ weight.T + bias)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_left_to_torch(dtype):
    x, weight, bias = (torch.ones(size, dtype=dtype) for size in ((3, 4), (2, 4), (2,)))
    assert torch.equal(linear(x, weight, bias), torch.full((3, 2), 5, dtype=dtype))
    assert torch.equal(linear(x, weight, bias, torch.empty(3, 2, dtype=dtype)), torch.full((3, 2), 5, dtype=dtype))
    assert torch.equal(linear(x, weight, None, torch.empty(3, 2, dtype=dtype)), torch.full((3, 2), 4, dtype=dtype))
    assert linear(torch.ones(0, 4), torch.ones(2, 4)).shape == (0, 2)


@pytest.mark.parametrize("shape", [(1, 576, 1536), (3, 1536, 576), (700, 576, 192), (64, 576, 4096)])
def test_the_number_of_threads_changes_no_bit(shape):
    rows, wide, width = shape
    generator, before, found = torch.Generator().manual_seed(0), torch.get_num_threads(), []
    x, weight = torch.randn(rows, wide, generator=generator), torch.randn(width, wide, generator=generator)
    onto = torch.randn(rows, width, generator=generator)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            parts = [some.clone().requires_grad_() for some in (x, weight)]
            product = linear(*parts)
            found.append([product.detach(), *torch.autograd.grad(product, parts, onto)])
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(map(torch.equal, found[0], others))
