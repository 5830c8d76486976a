"""Where to write: the letters' gradients against differences, and least squares that reach the wish."""

import pytest
import torch

from opinion_sae.delta.directions import Effects, dense_directions, latent_directions
from opinion_sae.model.answers import AnswerPath


class Push:
    """x_g = x + a fixed vector for each group."""

    def __init__(self, vectors):
        self.vectors = vectors

    reads = None

    def steer(self, x, read=None):
        return x[:, None] + self.vectors


@pytest.fixture(scope="module")
def answers(tiny):
    return AnswerPath(tiny.lm("llama"), tiny.questions, 1, orders=2)


def centred(logits, there):
    logits = logits.masked_fill(~there, 0.0)
    return (logits - logits.sum(-1, keepdim=True) / there.sum(-1, keepdim=True)) * there


@torch.no_grad()
@pytest.mark.parametrize("start", [0.0, 1.0])
def test_gradients_are_what_small_changes_do(answers, start):
    items, there = torch.arange(6), answers.has_option
    generator = torch.Generator().manual_seed(0)
    away, v = (torch.randn(1, 32, generator=generator) for _ in "ab")
    effects = Effects(answers, Push(start * away) if start else None, batch=4)
    x = answers.residual[:, None] + start * away
    up, down = (centred(answers.option_logits(items, x + step * v)[:, 0], there) for step in (1e-2, -1e-2))
    expected = (up - down) / 2e-2
    torch.testing.assert_close(torch.einsum("iod,d->io", effects.gradients, v[0]), expected, atol=2e-2, rtol=2e-2)


def wishes(tiny):
    """Up along the scale, for questions of 2, 4 and 3 options."""
    rows = torch.zeros(3, 1, 4)
    for row, question in zip(rows, tiny.questions, strict=True):
        row[0, : len(question.options)] = torch.linspace(-1, 1, len(question.options))
    return rows


def test_the_directions_move_the_letters_by_the_wish_and_turn_with_the_options(answers, tiny):
    effects = Effects(answers)
    train = torch.tensor([1, 2])
    square, cross = effects.normal(wishes(tiny), train)
    v = dense_directions(square, cross, 1e-5)
    moved = torch.einsum("iod,d->io", effects.gradients, v[0])[2:]
    wish = wishes(tiny)[:, 0].repeat_interleave(2, 0)[2:] * torch.tensor([1, -1, 1, -1])[:, None]
    torch.testing.assert_close(moved, wish, atol=0.05, rtol=0)


def test_directions_in_latents_have_a_side_for_each_way(answers, tiny):
    square, cross = Effects(answers).normal(wishes(tiny), torch.arange(3))
    W_dec = torch.nn.functional.normalize(torch.randn(400, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    best, counts = dense_directions(square, cross, 1e-4)[0] @ cross[0], []
    for penalty, at_least in ((1e-3, 0.9), (0.1, 0.5)):
        (b,) = latent_directions(square, cross, W_dec, penalty, steps=2000)
        for side in (1, -1):
            v = side * (side * b).clamp_min(0) @ W_dec
            assert 2 * cross[0] @ v - v @ square @ v > at_least * best  # of what least squares explains
        counts.append(int((b != 0).sum()))
    assert 2 <= counts[1] < counts[0] < 400  # zeros are exact, and more of them under a larger penalty
    assert not latent_directions(square, cross, W_dec, 1.01).any()
