"""What is computed with one thread and with several is the same to the bit."""

from types import SimpleNamespace

import pytest
import torch

from opinion_sae.delta.directions import dense_directions, latent_directions
from opinion_sae.delta.reading import ReadingOffset
from opinion_sae.losses import reconstruction
from opinion_sae.threads import one_thread, softmax


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def gradient_of_softmax() -> torch.Tensor:
    scores = drawn(18, 15, 95).requires_grad_()
    (gradient,) = torch.autograd.grad((softmax(scores) * drawn(18, 15, 95).flip(0)).sum(), scores)
    return gradient


def scores_of_two_questions() -> torch.Tensor:
    offset = SimpleNamespace(weigh=lambda read: read, a=drawn(4, 3, 256))
    return ReadingOffset.scores(offset, drawn(2, 256))


SQUARE = drawn(300, 300) @ drawn(300, 300).T / 300


@pytest.mark.parametrize(
    "computed",
    [
        gradient_of_softmax,
        scores_of_two_questions,
        lambda: reconstruction(drawn(2048, 576), drawn(2048, 576).flip(0)),
        lambda: dense_directions(SQUARE, drawn(2, 300)),
        lambda: latent_directions(SQUARE, drawn(2, 300), drawn(512, 300), steps=3),
    ],
    ids=["softmax", "scores", "reconstruction", "dense", "latents"],
)
def test_one_thread_and_several_give_the_same_bits(computed):
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(computed())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_softmax_is_that_of_torch_with_its_gradient(dtype):
    scores, weights = drawn(3, 5, 7).to(dtype).requires_grad_(), drawn(3, 5, 7).flip(1)
    (softmax(scores) * weights).sum().backward()
    ours, scores.grad = scores.grad, None
    expected = scores.softmax(-1, dtype=torch.float32)
    (expected * weights).sum().backward()
    assert torch.equal(softmax(scores), expected) and ours.dtype == dtype
    torch.testing.assert_close(ours, scores.grad, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


def test_softmax_of_a_row_with_one_key_that_is_not_masked_has_no_gradient():
    scores = torch.tensor([[3.0, torch.finfo(torch.float32).min]], requires_grad=True)
    softmax(scores)[0, 0].backward()
    assert scores.grad.tolist() == [[0.0, 0.0]]


def test_the_threads_of_before_come_back_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="once"), one_thread():
        assert torch.get_num_threads() == 1
        raise ValueError("once")
    assert torch.get_num_threads() == before
