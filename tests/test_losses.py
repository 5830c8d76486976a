"""The terms of the loss, worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from opinion_sae.delta.fit import proximal_step
from opinion_sae.delta.offsets import DenseOffset
from opinion_sae.losses import contrast_kl, kl, l1, mean_kl, reconstruction, soft_threshold

NAN = math.nan


def shares_strategy(options=4):
    positive = arrays(np.float64, options, elements=st.floats(0, 1, width=32))
    return positive.filter(lambda a: a.sum() > 0.1).map(lambda a: a / a.sum())


def test_kl_by_hand():
    p = torch.tensor([0.25, 0.75]).log()
    # 1/2 log(2) + 1/2 log(2/3)
    assert kl(torch.tensor([0.5, 0.5]), p).item() == pytest.approx(0.5 * math.log(4 / 3))
    assert kl(torch.tensor([0.0, 1.0]), p).item() == pytest.approx(math.log(4 / 3))


def test_an_option_that_does_not_exist_adds_nothing_and_gives_no_gradient():
    logits = torch.tensor([0.0, 0.0, 5.0], requires_grad=True)
    gone = torch.tensor([False, False, True])
    p = logits.masked_fill(gone, -1e4).log_softmax(-1).masked_fill(gone, -torch.inf)
    loss = kl(torch.tensor([1.0, 0.0, 0.0]), p)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert logits.grad.tolist() == pytest.approx([-0.5, 0.5, 0.0])


@given(shares_strategy(), shares_strategy())
def test_kl_is_never_negative_and_zero_for_equals(h, p):
    h, p = torch.from_numpy(h), torch.from_numpy(0.99 * p + 0.01 / 4)
    assert kl(h, p.log()) >= -1e-9
    assert kl(p, p.log()).abs() < 1e-9
    expected = sum(a * math.log(a / b) for a, b in zip(h.tolist(), p.tolist(), strict=True) if a)
    assert kl(h, p.log()).item() == pytest.approx(expected, abs=1e-9)


def test_the_mean_takes_the_cells_with_answers_only():
    shares = torch.tensor([[[0.5, 0.5], [NAN, NAN]], [[1.0, 0.0], [0.0, 1.0]]])
    p = torch.tensor([[[0.5, 0.5], [0.5, 0.5]]]).log()  # one group stands for all
    assert mean_kl(shares, p).item() == pytest.approx(2 / 3 * math.log(2))
    logits = torch.zeros(2, 2, 2, requires_grad=True)
    mean_kl(shares, logits.log_softmax(-1)).backward()
    assert logits.grad.isfinite().all() and not logits.grad[0, 1].any()
    assert logits.grad[1, 0].tolist() == pytest.approx([-1 / 6, 1 / 6])


def test_a_mean_over_no_cells_is_refused():
    with pytest.raises(ValueError, match="none of the 1 questions was answered by any of the 2 groups"):
        mean_kl(torch.full((2, 1, 3), NAN), torch.zeros(1, 1, 3).log_softmax(-1))


def test_reconstruction_is_the_share_of_variance_left():
    x = torch.tensor([[1.0, 0.0], [3.0, 4.0]])  # mean (2, 2), sum of squares 2 + 8
    assert reconstruction(x, x).item() == 0
    assert reconstruction(x, x.mean(0).expand(2, 2)).item() == 1
    assert reconstruction(x, x + torch.tensor([1.0, 0.0])).item() == pytest.approx(0.2)


def test_l1_sums_latents_and_averages_groups():
    assert l1(torch.tensor([1.0, -2.0, 0.0])).item() == 3
    assert l1(torch.tensor([[1.0, -2.0], [0.0, 1.0]])).item() == 2


@given(st.floats(-5, 5, width=32), st.floats(0, 5, width=32))
def test_soft_threshold_solves_its_own_problem(value, amount):
    found = soft_threshold(torch.tensor([value]), amount).item()
    # least of (z - value)^2 / 2 + amount |z| over a fine grid and the solution
    grid = np.append(np.linspace(-6, 6, 2401), found)
    best = grid[np.argmin((grid - value) ** 2 / 2 + amount * np.abs(grid))]
    assert abs(best - found) < 0.01
    assert (found == 0) == (abs(value) <= amount)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_an_offset_rests_at_zero_just_when_its_gradient_is_below_the_weight(weight):
    pair = DenseOffset(("a", "b"), 3)
    slope = torch.tensor([0.4, -1.0, 3.0])
    optimiser = torch.optim.Adam([pair.shared, pair.deviation], lr=0.01)
    for _ in range(5):
        optimiser.zero_grad()
        # as in a mean over two groups, a deviation's gradient is half of its group's
        (slope @ pair.shared + (pair.deviation @ slope).sum() / 2).backward()
        optimiser.step()
        proximal_step(optimiser, pair, weight)
        moved = slope.abs() > weight
        assert torch.equal(pair.shared != 0, moved)
        assert torch.equal(pair.deviation != 0, moved.expand(2, 3))
    assert torch.equal(pair.shared.sign()[moved], -slope.sign()[moved])


def test_steps_lead_to_the_soft_threshold_of_the_goal():
    """The least of |p - goal|^2 / 2 + weight |p|_1 is goal drawn towards zero by the weight."""
    pair, goal, weight = DenseOffset(("a", "b"), 3), torch.tensor([0.08, -0.3, 1.0]), 0.1
    optimiser = torch.optim.Adam([pair.shared, pair.deviation], lr=0.01)
    for _ in range(500):
        optimiser.zero_grad()
        loss = (pair.shared - goal).pow(2).sum() / 2 + (pair.deviation - goal).pow(2).sum(1).mean() / 2
        loss.backward()
        optimiser.step()
        proximal_step(optimiser, pair, weight)
    expected = torch.tensor([0.0, -0.2, 0.9])
    torch.testing.assert_close(pair.shared.detach(), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(pair.deviation.detach(), expected.expand(2, 3), atol=1e-3, rtol=0)
    assert pair.shared[0] == 0 and not pair.deviation[:, 0].any()


def test_contrast_kl_by_hand():
    everyone = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    p = torch.tensor([[[0.8, 0.2]], [[0.2, 0.8]]], dtype=torch.float64).log()
    shares = torch.tensor([[[0.8, 0.2]], [[NAN, NAN]]], dtype=torch.float64)
    # equal weights: p̄ is (0.4, 0.4), so the first group is told (0.8, 0.2): exactly its answers
    assert contrast_kl(shares, everyone, p).item() == pytest.approx(0, abs=1e-12)
    # all the weight on the first: p̄ is its own, so it is told the toplines
    found = contrast_kl(shares, everyone, p, torch.tensor([1.0, 0.0], dtype=torch.float64)).item()
    assert found == pytest.approx(0.8 * math.log(1.6) + 0.2 * math.log(0.4))
    # one row for all: the toplines as well
    assert contrast_kl(shares, everyone, p[:1]).item() == pytest.approx(found)
    with pytest.raises(ValueError, match="none of the 1 questions"):
        contrast_kl(torch.full_like(shares, NAN), everyone, p)


def test_contrast_kl_asks_for_differences_only_and_leaves_padding_alone():
    shares = torch.tensor([[[0.6, 0.4, 0.0], [0.2, 0.3, 0.5]], [[0.1, 0.9, 0.0], [NAN] * 3]], dtype=torch.float64)
    everyone = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.2, 0.6]], dtype=torch.float64).log()
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    weights = torch.tensor([0.7, 0.3], dtype=torch.float64)
    gone = everyone.isneginf()

    def loss(logits):
        log_probs = logits.masked_fill(gone, -1e4).log_softmax(-1).masked_fill(gone, -torch.inf)
        return contrast_kl(shares, everyone, log_probs, weights)

    assert torch.autograd.gradcheck(loss, logits)
    loss(logits).backward()
    assert logits.grad.isfinite().all() and not logits.grad[:, 0, 2].any()
    torch.testing.assert_close(logits.grad.sum(0), torch.zeros(2, 3, dtype=torch.float64))
    # a group without answers still counts in p̄, so it gets a gradient where another answered
    assert logits.grad[1, 1].abs().sum() > 0
    torch.testing.assert_close(loss(logits + torch.tensor([1.0, -2.0, 0.5])), loss(logits))


def test_a_single_activation_is_measured_by_the_spread_of_all():
    x = torch.tensor([[1.0, 0.0]])
    assert reconstruction(x, torch.zeros(1, 2), torch.tensor(4.0)).item() == 0.25
    everything = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    spread = torch.tensor(1.0)  # mean |x - mean(x)|^2 of these two
    assert reconstruction(everything, 0 * everything, spread) == reconstruction(everything, 0 * everything) == 1
